"""Steps of several loaders: together or in turn, resumed to the exact batch; refusals."""

from typing import Any

import numpy as np
import pytest

from fusionjax.data import Loader, MixedLoader, make_loader
from fusionjax.errors import InputError


def make_loaders(**seeds: int) -> dict[str, Loader]:
    return {
        name: make_loader(
            range(10 * seed, 10 * seed + 7),
            lambda n, rng: {"n": n},
            batch_size=3,
            shuffle=True,
            seed=seed,
            num_threads=0,
        )
        for name, seed in seeds.items()
    }


def read(loader: MixedLoader, count: int, state: Any = None) -> tuple[list[dict[str, list[int]]], Any]:
    with iter(loader) as steps:
        if state is not None:
            steps.set_state(state)
        found = [{name: one["n"].tolist() for name, one in next(steps).items()} for _ in range(count)]
        return found, steps.get_state()


def test_together_each_step_has_a_batch_of_every_loader() -> None:
    loaders = make_loaders(a=1, b=2)
    steps, _ = read(MixedLoader(loaders=loaders), 5)
    for name, loader in loaders.items():
        with iter(loader) as batches:
            assert [step[name] for step in steps] == [next(batches)["n"].tolist() for _ in range(5)]


def test_in_turn_loaders_are_drawn_by_their_probabilities() -> None:
    loader = MixedLoader(loaders=make_loaders(a=1, b=2, c=3), probabilities={"a": 0.6, "b": 0.4, "c": 0.0}, seed=5)
    steps, _ = read(loader, 200)
    assert all(len(step) == 1 for step in steps)
    drawn = [next(iter(step)) for step in steps]
    assert drawn.count("a") / 200 == pytest.approx(0.6, abs=0.1) and "c" not in drawn
    assert len({tuple(drawn[place : place + 6]) for place in range(50)}) > 10
    # The batches of each are its own, none left out.
    with iter(loader.loaders["a"]) as batches:
        assert [step["a"] for step in steps if "a" in step] == [
            next(batches)["n"].tolist() for _ in range(drawn.count("a"))
        ]


@pytest.mark.parametrize("probabilities", [None, {"a": 0.5, "b": 0.5}])
def test_going_on_where_it_was(probabilities: dict[str, float] | None) -> None:
    loader = MixedLoader(loaders=make_loaders(a=1, b=2), probabilities=probabilities, seed=1)
    whole, _ = read(loader, 11)
    first, state = read(loader, 6)
    rest, _ = read(loader, 5, state)
    assert first + rest == whole


def test_other_seeds_draw_otherwise() -> None:
    options = {"loaders": make_loaders(a=1, b=2), "probabilities": {"a": 0.5, "b": 0.5}}
    one, other = (read(MixedLoader(**options, seed=seed), 20)[0] for seed in (0, 1))  # type: ignore[arg-type]
    assert [set(step) for step in one] != [set(step) for step in other]


def test_a_position_of_other_tasks() -> None:
    _, state = read(MixedLoader(loaders=make_loaders(a=1)), 2)
    for given, found in ((state, "a"), ({"steps": 3}, "none")):
        with pytest.raises(InputError, match=f"is of the tasks {found}; these are a, b"):
            read(MixedLoader(loaders=make_loaders(a=1, b=2)), 1, given)
    with pytest.raises(InputError, match="seed = 1; this one has 2"):
        read(MixedLoader(loaders=make_loaders(a=2)), 1, state)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("a mixture needs a loader; got none", {"loaders": {}}),
        ("must be those of a, of sum 1; got {'b': 1.0}", {"probabilities": {"b": 1.0}}),
        ("must be those of a, of sum 1; got {'a': 0.5}", {"probabilities": {"a": 0.5}}),
    ],
)
def test_refusals(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        MixedLoader(**{"loaders": make_loaders(a=1), **options})


def test_closing_ends_all_threads() -> None:
    loaders = {
        name: make_loader([1, 2], lambda n, rng: {"n": np.int32(n)}, batch_size=2, shuffle=False, seed=0)
        for name in "ab"
    }
    steps = iter(MixedLoader(loaders=loaders))
    first = next(steps)
    steps.close()
    assert steps.get_state()["tasks"]["b"]["batches"] == 1
    assert next(steps)["a"]["n"].tolist() == first["a"]["n"].tolist()
    steps.close()
