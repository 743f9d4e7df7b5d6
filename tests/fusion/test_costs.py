"""The formulas of costs with three modalities; with two see tests/contracts."""

import flax.linen as nn
import pytest

from tests.contracts.costs import FORMULAS, measure, sizes_of
from tests.contracts.parameters import draw_variables
from tests.fusion.test_references import MODULES, THREE, name_of


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_costs_of_three_modalities_equal_the_closed_formula(module: nn.Module) -> None:
    variables = draw_variables(module, THREE)
    assert measure(module, variables, THREE) == FORMULAS[type(module)](module, sizes_of(THREE))
