"""Tests of `fusionjax.parallel.mesh`."""

import jax
import pytest

from fusionjax.parallel import make_mesh


@pytest.mark.parametrize(("asked", "got"), [(None, 8), (8, 8), (3, 3), (1, 1)])
def test_mesh_takes_the_first_devices_along_data(asked: int | None, got: int) -> None:
    mesh = make_mesh(asked)
    assert dict(mesh.shape) == {"data": got}
    assert list(mesh.devices.flat) == jax.local_devices()[:got]


@pytest.mark.parametrize("asked", [0, -1, 9])
def test_impossible_number_of_devices_is_refused(asked: int) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and the 8 local devices; got {asked}. Leave it out"):
        make_mesh(asked)
