"""Tests of `fusionjax.training.checkpoints`: what is kept, exact restoring, and every kind of damage."""

import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax.errors import InputError
from fusionjax.parallel import make_mesh
from fusionjax.training import Checkpoints, TrainState, make_train_step
from fusionjax.training.manifest import make_manifest, read_manifest, write_manifest
from tests.training.small import assert_same, init_params, make_state


def odd_state() -> TrainState:
    """A state with every kind of leaf: bfloat16, empty, scalar, boolean, keys of two kinds, an average."""
    params = {
        "half": {"kernel": jnp.array([[1.5, -0.0], [jnp.inf, 3e-39]], jnp.bfloat16)},
        "empty": jnp.zeros((0, 3)),
        "flags": jnp.array([True, False, True]),
        "nan": jnp.array([np.nan, 1.0]),
    }
    model_state = {"keys": jax.random.split(jax.random.key(8), 3), "other": jax.random.key(1, impl="rbg")}
    optimizer = optax.adam(0.1)
    state = TrainState.create(
        params=params, model_state=model_state, optimizer=optimizer, key=jax.random.key(5), ema_decay=0.9
    )
    return state.replace(step=jnp.int32(7))


def template_of(state: Any) -> Any:
    """The same structure with other values."""

    def other(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=str(jax.random.key_impl(leaf))), leaf.shape)
        return jnp.zeros_like(leaf)

    return jax.tree.map(other, state)


def save_steps(directory: Path, metrics: dict[int, float | None], **settings: Any) -> None:
    """Saves a small state per step; its bias is the step."""
    with Checkpoints(directory, **settings) as checkpoints:
        for step, metric in metrics.items():
            checkpoints.save(step, {"bias": jnp.full(3, step, jnp.float32)}, {"position": step}, metric)


def folders(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())


def test_everything_is_restored_bit_for_bit(tmp_path: Path) -> None:
    state, data_state = odd_state(), {"position": [1, 2.5, None, "a", {"deep": True}]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, data_state, metric=0.5)
    for template in (template_of(state), jax.eval_shape(lambda: state)):
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored, restored_data, step = checkpoints.restore(template)
        assert_same(restored, state)
        assert restored_data == data_state and step == 7
    assert float(jax.random.uniform(restored.key)) == float(jax.random.uniform(state.key))


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_saving_in_the_background_is_not_disturbed_by_the_next_step(tmp_path: Path, strategy: str) -> None:
    """The step donates its state while orbax may still be writing; what is on disk is the state that was given."""
    optimizer = optax.sgd(0.5)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        from fusionjax.training import LossOutput

        return LossOutput(jnp.sum(params) * jnp.sum(batch), jnp.float32(batch.size))

    step = make_train_step(loss_fn, optimizer, strategy=strategy, mesh=make_mesh(2))
    state = TrainState.create(params=jnp.zeros(100_000), optimizer=optimizer, key=jax.random.key(0))
    current = step.prepare(state)
    with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
        for index in range(1, 4):
            current, _ = step(current, np.ones(2, np.float32))
            checkpoints.save(index, step.unprepare(current), {})
        for index in range(1, 4):
            restored, _, _ = checkpoints.restore(state, index)
            np.testing.assert_array_equal(restored.params, np.full(100_000, -0.5 * index, np.float32))


@pytest.mark.parametrize(
    ("settings", "kept", "best"),
    [
        ({}, [3, 6], 3),
        ({"best_mode": "max"}, [1, 6], 1),
        ({"keep_best": 2}, [3, 5, 6], 3),
        ({"keep_best": 0}, [6], None),
        ({"keep_latest": 2, "keep_best": 0}, [5, 6], 5),
    ],
)
def test_newest_and_best_are_kept(tmp_path: Path, settings: dict[str, Any], kept: list[int], best: int) -> None:
    metrics = {1: 9.0, 2: None, 3: 1.0, 4: float("nan"), 5: 2.0, 6: None}
    save_steps(tmp_path, metrics, **settings)
    assert folders(tmp_path) == kept
    with Checkpoints(tmp_path, read_only=True, **settings) as checkpoints:
        assert (checkpoints.steps, checkpoints.latest_step, checkpoints.best_step) == (kept, 6, best)
        for step in kept:
            state, data_state, restored = checkpoints.restore({"bias": jnp.zeros(3)}, step)
            assert (state["bias"].tolist(), data_state, restored) == ([step] * 3, {"position": step}, step)


def test_best_is_kept_over_a_restart(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: 0.2, 2: 0.3})
    save_steps(tmp_path, {3: 0.4, 4: 0.5})
    assert folders(tmp_path) == [1, 4]


def test_older_of_two_equally_good_is_the_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep_latest=5) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step, checkpoints.steps) == (None, None, [])
        for step in (1, 2, 3):
            checkpoints.save(step, {"bias": jnp.zeros(3)}, None, metric=0.5)
        assert checkpoints.best_step == 1


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: None, 2: None}, keep_latest=3)
    with Checkpoints(tmp_path, keep_latest=3) as checkpoints:
        checkpoints.save(1, {"bias": jnp.full(3, 8.0)}, "again")
        state, data_state, _ = checkpoints.restore({"bias": jnp.zeros(3)}, 1)
    assert (state["bias"].tolist(), data_state) == ([8.0] * 3, "again")


def test_half_written_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: None})
    half = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", half)
    (half / "commit_success.txt").unlink()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore({"bias": jnp.zeros(3)})[2] == 1
    assert half.exists(), "a reader must not touch what a trainer may be writing"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [1]
        checkpoints.save(2, {"bias": jnp.full(3, 2.0)}, {})
        assert checkpoints.restore({"bias": jnp.zeros(3)})[0]["bias"].tolist() == [2.0] * 3
    assert folders(tmp_path) == [2]


def test_half_deleted_old_checkpoint_does_no_harm(tmp_path: Path) -> None:
    """A process killed while it deletes an old checkpoint leaves a part of it behind."""
    save_steps(tmp_path, {1: 5.0, 2: 3.0}, keep_latest=2)
    for path in (tmp_path / "1").iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            assert (checkpoints.latest_step, checkpoints.best_step) == (2, 2)
            assert checkpoints.restore({"bias": jnp.zeros(3)})[2] == 2
    save_steps(tmp_path, {3: 4.0})
    assert folders(tmp_path) == [2, 3]


def damaged(path: Path, offset: int) -> bytes:
    """A file's content with one byte flipped."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    return bytes(content)


def test_flipped_byte_anywhere_is_found_or_harmless(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each file of a checkpoint, a flip at several places: the state is refused in one line, or exact."""
    rng = np.random.default_rng(17)
    state = {"kernel": jnp.asarray(rng.normal(size=(64, 65)), jnp.float32), "key": jax.random.key(3)}
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(4, state, {"position": 3}, metric=0.5)
    files = [path for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()]
    unused = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    assert len(files) > 6
    for path in files:
        original = path.read_bytes()
        for offset in {0, len(original) // 3, len(original) // 2, len(original) - 1}:
            path.write_bytes(damaged(path, offset))
            try:
                with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
                    restored, data_state, _ = checkpoints.restore(template_of(state))
            except InputError as error:
                assert path.parent.name != "4" or path.name == "manifest.json"
                assert "\n" not in str(error) and f"{path.name} is damaged" in str(error)
                assert "delete this folder to start again" in str(error)
            else:
                assert path.parent.name == "4" and path.name in unused
                assert_same(restored, state)
                assert data_state == {"position": 3}
            path.write_bytes(original)
    assert capfd.readouterr().err == ""


def test_removed_file_is_found_or_harmless(tmp_path: Path) -> None:
    state = {"kernel": jnp.arange(12.0).reshape(4, 3)}
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(4, state, {"position": 3}, metric=0.5)
    found = set()
    for path in [path for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()]:
        original = path.read_bytes()
        path.unlink()
        try:
            with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
                restored, data_state, _ = checkpoints.restore(template_of(state))
        except InputError as error:
            assert "\n" not in str(error) and f"{path.name} is missing" in str(error)
            found.add(path.name)
        else:
            assert_same(restored, state)
            assert data_state == {"position": 3}
        path.write_bytes(original)
    assert {"manifest.json", "_METADATA", "manifest.ocdbt"} <= found


def test_flipped_array_is_named_even_where_the_container_does_not_notice(tmp_path: Path) -> None:
    """A checkpoint whose arrays are intact files but not those of its manifest."""
    save_steps(tmp_path / "one", {1: None})
    with Checkpoints(tmp_path / "two") as checkpoints:
        checkpoints.save(1, {"bias": jnp.array([1.0, 1.0, 1.0000001])}, {})
    shutil.rmtree(tmp_path / "one" / "1" / "state")
    shutil.copytree(tmp_path / "two" / "1" / "state", tmp_path / "one" / "1" / "state")
    manifest = read_manifest(tmp_path / "one" / "1")
    write_manifest(tmp_path / "one" / "1", manifest)
    message = rf"cannot use the checkpoint {tmp_path}/one/1: the checksum of bias differs; delete .* to start again\.$"
    with Checkpoints(tmp_path / "one") as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.restore({"bias": jnp.zeros(3)})


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Rewrites the manifest of the only checkpoint."""
    (path,) = directory.glob("*/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_changed_manifest_is_refused_and_the_older_checkpoint_named(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: None})
    edit_manifest(tmp_path, data_state={"position": 2})
    save_steps(tmp_path, {6: None}, keep_latest=2)
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        with pytest.raises(InputError, match=r"/1: manifest.json is damaged; delete .* go on from step 6\."):
            checkpoints.restore({"bias": jnp.zeros(3)}, 1)
        assert checkpoints.restore({"bias": jnp.zeros(3)})[2] == 6


def test_other_format_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusionjax.training.manifest.FORMAT_VERSION", 2)
    save_steps(tmp_path, {1: None})
    monkeypatch.undo()
    message = r"has format version 2, and this fusionjax reads version 1; use the fusionjax that wrote it, or train"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.restore({"bias": jnp.zeros(3)})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"bias": jnp.zeros(5)}, r"bias is float32\[3\] in it, float32\[5\] here"),
        ({"bias": jnp.zeros(3, jnp.bfloat16)}, r"bias is float32\[3\] in it, bfloat16\[3\] here"),
        ({"scale": jnp.zeros(3)}, r"bias is float32\[3\] in it, missing here"),
        ({"bias": jnp.zeros(3), "a": jnp.zeros(())}, r"a is missing in it, float32\[\] here"),
        ({"bias": jax.random.split(jax.random.key(0), 3)}, r"bias is float32\[3\] in it, key<fry>\[3\] here"),
    ],
)
def test_other_structure_is_refused(tmp_path: Path, template: Any, said: str) -> None:
    save_steps(tmp_path, {1: None})
    message = rf"it is of another model or optimiser \({said}\); use the settings it was trained with"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.restore(template)


def test_missing_checkpoints_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoints in .*/none: the folder does not exist; give a run's folder"):
        Checkpoints(tmp_path / "none", read_only=True)
    with Checkpoints(tmp_path / "new") as checkpoints:
        with pytest.raises(
            InputError, match=r"no checkpoint in .*/new; there are steps \[\]. Give another run or step"
        ):
            checkpoints.restore({})
        checkpoints.save(3, {"bias": jnp.zeros(3)})
        with pytest.raises(InputError, match=r"no checkpoint of step 4 in .*; there are steps \[3\]"):
            checkpoints.restore({"bias": jnp.zeros(3)}, 4)


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot open the checkpoints in .*/file \(.*\); check the folder"):
        Checkpoints(path)
    assert path.read_text() == "not a folder"


def test_error_of_writing_in_the_background_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, manifest: Any) -> None:
        raise OSError(28, "No space left on device")

    save_steps(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr("fusionjax.training.checkpoints.write_manifest", full)
    checkpoints.save(2, {"bias": jnp.zeros(3)})
    with pytest.raises(InputError, match=r"cannot write a checkpoint to .* \(.*No space left on device.*check free sp"):
        checkpoints.wait()
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore({"bias": jnp.zeros(3)})[2] == 1


def test_data_state_must_be_json(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(TypeError, match=r"data_state must be JSON .*; got .*bytes"),
    ):
        checkpoints.save(1, {"bias": jnp.zeros(3)}, {"position": b"3"})
    assert folders(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best_mode": "least"}, r'best_mode must be "min" or "max"; got \'least\'. "min" suits a loss'),
        ({"keep_latest": 0}, "keep_latest must be at least 1 and keep_best at least 0; got 1 and 0|got 0 and 1"),
        ({"keep_best": -1}, "got 1 and -1. Without the newest a run cannot be resumed"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path, **settings)


def test_manifest_covers_every_leaf() -> None:
    manifest = make_manifest({"bias": jnp.ones(2)}, {"bias": np.ones(2, np.float32)}, {"position": 1}, 0.5)
    expected = zlib.crc32(struct.pack("<2f", 1, 1))
    assert manifest["leaves"] == {"bias": {"shape": [2], "dtype": "float32", "crc32": expected}}
    assert (manifest["format"], manifest["data_state"], manifest["metric"]) == (1, {"position": 1}, 0.5)


def test_readable_by_orbax_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The arrays lie under their names, and nothing is printed."""
    import orbax.checkpoint as ocp

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(optax.adam(0.1)), {})
    tree = ocp.PyTreeCheckpointer().restore(tmp_path / "1" / "state")
    np.testing.assert_array_equal(tree["params"]["out"]["kernel"], init_params(3)["out"]["kernel"])
    assert capfd.readouterr().err == ""


def test_what_is_left_out_is_in_no_checkpoint_and_comes_from_the_template(tmp_path: Path) -> None:
    """An array of the template, or whatever else stands there, is handed back as it is."""
    state = {"learned": jnp.arange(3.0), "frozen": {"kernel": jnp.ones((50, 70))}}

    def leaves_out(path: str) -> bool:
        return path.startswith("frozen/")

    with Checkpoints(tmp_path, leaves_out=leaves_out) as checkpoints:
        checkpoints.save(2, state)
        template = {"learned": jnp.zeros(3), "frozen": {"kernel": "as it is", "more": 5}}
        restored, _, _ = checkpoints.restore(template)
    assert restored["learned"].tolist() == [0.0, 1.0, 2.0]
    assert restored["frozen"] == {"kernel": "as it is", "more": 5}
    assert sorted(read_manifest(tmp_path / "2")["leaves"]) == ["learned"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000
    with Checkpoints(tmp_path, read_only=True) as checkpoints, pytest.raises(InputError, match=r"of another model or"):
        checkpoints.restore(state)
