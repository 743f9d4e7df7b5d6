"""Words into configs, where tyro frames its messages in another way."""

import re
import sys

import pytest
import tyro

from fusionjax.cli.parsing import parse, value_of
from fusionjax.errors import InputError
from fusionjax.recipes.config import DecodingConfig

FRAMED = """╭─ Value error ─────────╮
│ size must be above 0; │
│ got -3.               │
│ ───────────────────── │
│ For full helptext, …  │
╰───────────────────────╯
"""
PLAIN = """ Unrecognized options
 --------------------
  Unrecognized: --bims
  --------------------
  Perhaps you meant:
      --beams INT
      --beam INT
"""


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (FRAMED, "size must be above 0; got -3. See prog --help."),
        (PLAIN, "Unrecognized: --bims. Perhaps you meant --beams or --beam. See prog --help."),
        ("bare words", "bare words. See prog --help."),
        ("Error parsing Options: got 0.", "got 0. See prog --help."),
        ("Error parsing --size: got x.", "Error parsing --size: got x. See prog --help."),
    ],
)
def test_message_of_any_frame(monkeypatch: pytest.MonkeyPatch, shown: str, expected: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        print(shown, file=sys.stderr, end="")
        raise SystemExit(2)

    monkeypatch.setattr(tyro, "cli", refuse)
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        parse(DecodingConfig, "prog", [])


def test_default_and_options() -> None:
    config = parse(DecodingConfig, "prog", ["--top-k", "7"], default=DecodingConfig(num_beams=5))
    assert (config.top_k, config.num_beams) == (7, 5)


@pytest.mark.parametrize(
    ("words", "source"),
    [("", "scenes"), ("--data.source=coco", "coco"), ("--seed 1 --data.source tfds", "tfds"), ("--data.source", "")],
)
def test_source(words: str, source: str) -> None:
    assert value_of(words.split(), "--data.source", "scenes") == source
