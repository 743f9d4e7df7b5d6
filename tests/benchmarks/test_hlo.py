"""The text of compiled programs, counted on programs written by hand."""

import jax
import jax.numpy as jnp
import pytest

from fusionjax.benchmarks.hlo import CompiledText, LoopCounts

# A loop of seven turns around a fusion with a transpose in it, another loop of three turns inside of the first, and
# moves outside of both, which do not count.
PROGRAM = """HloModule jit_f, is_scheduled=true

FileNames
1 "f.py"

%fused (x: f32[8,128]) -> f32[128,8] {
  %x = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %t = f32[128,8]{1,0:T(8,128)} transpose(%x), dimensions={1,0}
}

%inner_body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %j = s32[]{:T(128)} copy(%i)
  %g = f32[8,128]{1,0:T(8,128)} gather(%p, %i), backend_config={"window_config":{"estimated_cycles":"11"}}
  %r = f32[8,128]{1,0} all-reduce-start(%g), to_apply=%sum
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%j, %r)
}

%inner_condition (p.1: (s32[], f32[8,128])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %p.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %three), direction=LT
}

%outer_body (q: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %q = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) parameter(0)
  %f = f32[128,8]{1,0:T(8,128)} fusion(%q), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"1000"}
  %c = f32[8,128]{1,0:T(8,128)S(1)} copy(%f), backend_config={"estimated_cycles":"100"}
  ROOT %w = (s32[]{:T(128)}, f32[8,128]{1,0}) while(%q), condition=%inner_condition, body=%inner_body
}

%outer_condition (q.1: (s32[], f32[8,128])) -> pred[] {
  %q.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %ge = pred[]{:T(512)} compare(%q.1, %q.1), direction=GE
}

ENTRY %main (y: f32[8,128]) -> f32[8,128] {
  %y = f32[8,128]{1,0:T(8,128)} parameter(0)
  %before = f32[8,128]{1,0:T(8,128)} copy(%y), backend_config={"estimated_cycles":"5"}
  %start = (f32[8,128]{1,0:S(1)}, f32[8,128]{1,0}, u32[]{:S(2)}) copy-start(%y), cross_program_prefetch_index=0
  ROOT %loop = (s32[]{:T(128)}, f32[8,128]{1,0}) while(%before), condition=%outer_condition, body=%outer_body, TURNS
}
"""
KNOWN = PROGRAM.replace("TURNS", 'backend_config={"known_trip_count":{"n":"7"}}')


def test_moves_inside_of_loops_are_counted_once_each() -> None:
    assert CompiledText(KNOWN).loop_counts() == LoopCounts(gathers=1, transposes=1, copies=1, collectives=1)


def test_cycles_are_added_as_often_as_loops_repeat_them() -> None:
    assert CompiledText(KNOWN).estimated_cycles() == 5 + 7 * (1000 + 100 + 3 * 11)


def test_turns_that_are_not_known_leave_no_estimate() -> None:
    program = CompiledText(PROGRAM)
    assert program.estimated_cycles() is None
    assert program.loop_counts() == CompiledText(KNOWN).loop_counts()


def test_of_branches_the_longest_counts() -> None:
    text = """
%one (x: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} negate(%x), backend_config={"estimated_cycles":"2"}
}
%two (x: f32[8]) -> f32[8] {
  ROOT %b = f32[8]{0} negate(%x), backend_config={"estimated_cycles":"30"}
}
ENTRY %main (p: s32[], x: f32[8]) -> f32[8] {
  ROOT %c = f32[8]{0} conditional(%p, %x, %x), branch_computations={%one, %two}
}
"""
    program = CompiledText(text)
    assert program.estimated_cycles() == 30
    assert program.loop_counts() == LoopCounts()


def test_a_real_program_is_read() -> None:
    """A CPU's has no estimate, but the same grammar."""

    def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        return state @ row, state[jnp.argsort(row[0])]

    compiled = jax.jit(lambda x, y: jax.lax.scan(step, x, y)).lower(jnp.ones((5, 5)), jnp.ones((3, 5, 5))).compile()
    program = CompiledText(compiled.as_text())
    assert program.entry in program.computations
    assert program.estimated_cycles() is None
    assert "while" in {one.opcode for lines in program.computations.values() for one in lines}
    assert program.loop_counts().gathers == 1


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold a program with an ENTRY; got 'module @jit_f'. Pass compiled.as"):
        CompiledText("module @jit_f")
