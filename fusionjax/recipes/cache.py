"""Where what can be computed again is kept between runs."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of what is kept: in `FUSIONJAX_CACHE`, or else in the user's cache, `~/.cache/fusionjax`.

    Args:
        kind: such as `"features"`.

    Returns:
        The folder, which need not be there yet.
    """
    given = os.environ.get("FUSIONJAX_CACHE")
    if given:
        return Path(given).expanduser() / kind
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fusionjax" / kind
