"""Words of a command line into config dataclasses."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

from fusionjax._extras import require
from fusionjax.errors import InputError

MORE = "Every command also takes --json (one JSON value on standard output) and --traceback (of an error)."


def parse(kind: Any, prog: str, words: Sequence[str], **kwargs: Any) -> Any:
    """Parses words into a config dataclass.

    Args:
        kind: the dataclass.
        prog: the command, for the help.
        words: the options and their values.
        **kwargs: of `tyro.cli`, such as `default`.

    Returns:
        The config.

    Raises:
        InputError: an unknown option, or a value that does not fit; one line.
        SystemExit: the words ask for help, which is printed.

    Example:
        >>> from fusionjax.recipes.config import DecodingConfig
        >>> parse(DecodingConfig, "fusionjax", ["--num-beams", "5"]).num_beams
        5
    """
    tyro = require("tyro", extra="cli")
    if {"--help", "-h"} & set(words):
        summary = (kind.__doc__ or "").partition("\n")[0]
        kwargs["description"] = f"{summary} {MORE}"
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.cli(kind, prog=prog, args=list(words), **kwargs)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_one_line(refusal.getvalue())} See {prog} --help.") from None


def value_of(words: Sequence[str], option: str, default: str) -> str:
    """Finds a value among the words of `train` on which the defaults of the other settings depend.

    Args:
        words: the options and their values.
        option: such as `--data.source`.
        default: where it is not given.

    Returns:
        The value.

    Example:
        >>> value_of(["--seed", "3", "--data.source", "coco"], "--data.source", "scenes")
        'coco'
    """
    found = default
    for place, word in enumerate(words):
        name, separator, value = word.partition("=")
        if name == option:
            found = value if separator else next(iter(words[place + 1 :]), "")
    return found


def _one_line(box: str) -> str:
    """The message in tyro's frame, and the options that it thinks were meant."""
    # A frame has parts between rules: a title, the message, and more; its corners make the title a part too.
    lines = [
        re.sub(r"^[╭│]─*|[│╮╰╯]", "", line)
        for line in re.sub(r"^(╭.*)$", r"\1\n────", box, flags=re.MULTILINE).splitlines()
    ]
    parts = re.split(r"^\s*[─-]{4,}\s*$", "\n".join(lines), flags=re.MULTILINE)
    message = " ".join(parts[min(1, len(parts) - 1)].split()).rstrip(".")
    message = re.sub(r"^Error parsing \w+: ", "", message)  # a class of settings; an option's name helps, a class's not
    meant = [
        option for part in parts if "meant" in part for option in re.findall(r"^\s+(--[\w.-]+)", part, re.MULTILINE)
    ]
    return f"{message}. Perhaps you meant {' or '.join(meant)}." if meant else f"{message}."
