"""The commands without the command line's packages: `python benchmarks/forward.py` needs only the core."""

import argparse
import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Sequence
from typing import Any

from fusionjax.benchmarks.commands import COMMANDS, run_command
from fusionjax.errors import InputError


def main(command: str, words: Sequence[str] | None = None) -> int:
    """Runs a command of `COMMANDS` and prints its table, or its records as JSON.

    Args:
        command: its name.
        words: options; None takes those of the process.

    Returns:
        The exit code: 0 done, 2 bad input.
    """
    kind = COMMANDS[command].options
    parser = argparse.ArgumentParser(prog=f"{command}.py", description=COMMANDS[command].summary)
    parser.add_argument("--json", action="store_true", help="print the records as one JSON list, and nothing else")
    for field in dataclasses.fields(kind):
        _add(parser, kind, field)
    given = vars(parser.parse_args(words))
    as_json = given.pop("json")
    try:
        options = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
        records, text = run_command(command, options)
    except (InputError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(records, indent=1) if as_json else text)
    return 0


def _add(parser: argparse.ArgumentParser, kind: type, field: dataclasses.Field[Any]) -> None:
    annotation: Any = field.type
    settings: dict[str, Any] = {}
    if typing.get_origin(annotation) is tuple:
        settings["nargs"] = "*"
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is typing.Literal:
        settings["choices"] = typing.get_args(annotation)
    elif annotation is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings["type"] = int if annotation is int else str
    parser.add_argument(
        f"--{field.name.replace('_', '-')}", default=field.default, help=describe_field(kind, field.name), **settings
    )


def describe_field(kind: type, name: str) -> str:
    """Finds what a dataclass's docstring says of a field.

    Args:
        kind: the dataclass.
        name: of the field.

    Returns:
        The words after its name in `Attributes:`, its own or a base's; empty if there are none.

    Example:
        >>> from fusionjax.benchmarks.options import PeerOptions
        >>> describe_field(PeerOptions, "plot")
        'folder to draw figures in.'
    """
    for each in kind.__mro__:
        found = re.search(rf"^    {name}: (.+(?:\n        .+)*)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return ""
