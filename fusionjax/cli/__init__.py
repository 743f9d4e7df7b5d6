"""The command `fusionjax`."""

from fusionjax.cli.main import main

__all__ = ["main"]
