"""What the text of an optimised XLA program says: what is inside its loops, and the cycles that XLA expects."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_OPCODE = re.compile(r"^([\w-]+)\(")
_ONE_CALL = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
        name: unique in the program.
        shape: of what it puts out, with its layout.
        opcode: such as `fusion`.
        rest: the operands and all that follows.
    """

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def callees(self) -> list[str]:
        """Names of the computations that it runs; of a loop its body."""
        found = _ONE_CALL.findall(self.rest)
        for names in _BRANCHES.findall(self.rest):
            found += [name.strip().lstrip("%") for name in names.split(",")]
        return found

    @property
    def is_array(self) -> bool:
        """Whether it puts out more than single numbers."""
        return bool(re.search(r"\[\d", self.shape))


@dataclasses.dataclass(frozen=True)
class LoopCounts:
    """Operations inside the loops of a program that only move numbers, those inside of fusions too.

    A loop over time should need none of them. Each counts as often as it stands in the text.

    Attributes:
        gathers: lookups by computed indices.
        transposes: of arrays.
        copies: of arrays, within or between memories, other than those that run beside the computation.
        collectives: exchanges between chips.
    """

    gathers: int = 0
    transposes: int = 0
    copies: int = 0
    collectives: int = 0


class CompiledText:
    """An optimised program.

    Attributes:
        computations: by name, their instructions.
        entry: the name of the computation that the program begins with.

    Example:
        >>> text = '''
        ... %double (x: f32[8]) -> f32[8] {
        ...   %x = f32[8]{0} parameter(0)
        ...   ROOT %sum = f32[8]{0} add(%x, %x)
        ... }
        ... ENTRY %main (y: f32[8]) -> f32[8] {
        ...   %y = f32[8]{0} parameter(0)
        ...   ROOT %f = f32[8]{0} fusion(%y), calls=%double, backend_config={"estimated_cycles":"70"}
        ... }'''
        >>> CompiledText(text).estimated_cycles()
        70
    """

    def __init__(self, text: str) -> None:
        self.computations: Mapping[str, Sequence[Instruction]]
        self.computations, self.entry = _parse(text)

    def loop_counts(self) -> LoopCounts:
        """Counts what the bodies of all loops hold.

        Returns:
            The counts, each body once however often it runs.
        """
        counts = Counter(
            one.opcode.removesuffix("-start") if one.opcode.startswith(_COLLECTIVES) else one.opcode
            for name in self._inside_loops()
            for one in self.computations[name]
            if one.is_array
        )
        return LoopCounts(
            gathers=counts["gather"],
            transposes=counts["transpose"],
            copies=counts["copy"],
            collectives=sum(counts[name] for name in _COLLECTIVES),
        )

    def estimated_cycles(self) -> int | None:
        """Adds the cycles that XLA's model of the chip expects of each operation, as often as loops repeat it.

        Waiting for memory and for other chips is not in it.

        Returns:
            Cycles; None where XLA wrote down none, or where the turns of a loop are not in the text.
        """
        cycles = self._cycles_of(self.entry)
        return cycles or None

    def _cycles_of(self, name: str) -> int | None:
        total = 0
        for one in self.computations[name]:
            own = sum(int(found) for found in _CYCLES.findall(one.rest))
            callees = one.callees if one.opcode in ("while", "conditional", "call") else []
            inner = [self._cycles_of(callee) for callee in callees]
            known = [cycles for cycles in inner if cycles is not None]
            turns = self._turns(one) if one.opcode == "while" else 1
            if len(known) < len(inner) or turns is None:
                return None
            # Of a condition's branches the longest.
            total += own + turns * max(known, default=0)
        return total

    def _turns(self, loop: Instruction) -> int | None:
        """How often a loop runs: as XLA says, or where it counts from 0 to a constant, as `lax.scan` does."""
        known = _TURNS.search(loop.rest)
        if known:
            return int(known[1])
        condition = re.search(r"\bcondition=%?([\w.-]+)", loop.rest)
        lines = [one for name in self._reached([condition[1]]) for one in self.computations[name]] if condition else []
        limits = [int(one.rest.split("(")[1].split(")")[0]) for one in lines if _is_limit(one)]
        counts_up = any(one.opcode == "compare" and "direction=LT" in one.rest for one in lines)
        return limits[0] if counts_up and len(limits) == 1 else None

    def _inside_loops(self) -> list[str]:
        bodies = [
            callee
            for lines in self.computations.values()
            for one in lines
            if one.opcode == "while"
            for callee in one.callees
        ]
        return list(self._reached(bodies))

    def _reached(self, names: Sequence[str]) -> Iterator[str]:
        """Goes over computations and all that they call, each once."""
        waiting, seen = list(names), set()
        while waiting:
            name = waiting.pop()
            if name not in seen and name in self.computations:
                seen.add(name)
                yield name
                waiting += [callee for one in self.computations[name] for callee in one.callees]


def _is_limit(one: Instruction) -> bool:
    return one.opcode == "constant" and bool(re.match(r"[su]32\[\]", one.shape))


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found and (one := _split(found[1], found[2])):
            lines.append(one)
    if not entry:
        raise ValueError(f"the text must hold a program with an ENTRY; got {text[:40]!r}. Pass compiled.as_text().")
    return computations, entry


def _split(name: str, definition: str) -> Instruction | None:
    """Cuts `shape opcode(operands)...`; the shape of several outputs is in parentheses and has spaces."""
    depth = 0
    for end, character in enumerate(definition):
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            shape, rest = definition[:end], definition[end + 1 :]
            break
    else:
        return None
    opcode = _OPCODE.match(rest)
    return Instruction(name, shape, opcode[1], rest) if opcode else None
