"""The README's program runs as it stands."""

import re
from pathlib import Path
from typing import Any

import jax

README = Path(__file__).parents[1] / "README.md"


def test_python_of_the_readme() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)

    def run() -> Any:
        names: dict[str, Any] = {}
        exec(program, names)
        return names["output"].logits

    # The shapes alone: the whole model takes seconds.
    assert jax.eval_shape(run).shape == (8, 100)
