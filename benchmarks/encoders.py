"""`fusionjax bench encoders` with the core packages and safetensors only; `--help` lists the options."""

import sys

from fusionjax.benchmarks.plain import main

if __name__ == "__main__":
    sys.exit(main("encoders"))
