"""Loading a ViT-L of 1.2 GB into its sharding, beside a plain read of the file: seconds and memory.

    python benchmarks/loading.py [--model vit-l16] [--devices 1 8] [--repeats 3]

The file is written to a temporary folder; each measurement is in a fresh process, in turn. Memory is the most that the
process has beyond what it had before the call, over the size of the file: its own (anonymous, sampled) and all of it,
pages mapped from the file included. Needs fusionjax[pretrained].
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusionjax.benchmarks.memory import forget_peak, resident_mb

PATIENCE_SECONDS = 0.002


def write(path: str, name: str) -> None:
    from fusionjax.benchmarks.encoders import make_encoder
    from fusionjax.pretrained import find_published

    make_encoder(find_published(name), Path(path))


def load(path: str, num_devices: int) -> dict[str, Any]:
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from fusionjax import pretrained

    mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(AxisType.Auto,))
    jax.block_until_ready(jax.device_put(0, NamedSharding(mesh, PartitionSpec())))

    def split(path: str, shape: tuple[int, ...]) -> NamedSharding:
        """Over the first axis that the devices divide."""
        axes = [axis for axis, size in enumerate(shape) if size % num_devices == 0]
        spec = [None] * axes[0] + ["data"] if axes else []
        return NamedSharding(mesh, PartitionSpec(*spec))

    return measure(lambda: jax.block_until_ready(pretrained.load(path, sharding=split).variables))


def read(path: str) -> dict[str, Any]:
    return measure(lambda: (Path(path) / "model.safetensors").read_bytes())


def measure(work: Callable[[], Any]) -> dict[str, Any]:
    forget_peak()
    own_before, before = resident_mb("RssAnon"), resident_mb("VmRSS")
    own, is_done = [own_before], threading.Event()

    def watch() -> None:
        while not is_done.wait(PATIENCE_SECONDS):
            own.append(resident_mb("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - start
    is_done.set()
    watcher.join()
    own.append(resident_mb("RssAnon"))
    del kept
    return {"seconds": seconds, "own_mb": max(own) - own_before, "resident_mb": resident_mb("VmHWM") - before}


def run(*words: str, num_devices: int = 1) -> dict[str, Any]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout or "{}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-l16", help="a published size of `fusionjax bench encoders`")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8], help="numbers of devices to load onto")
    parser.add_argument("--repeats", type=int, default=3, help="times that each is measured, in turn")
    parser.add_argument("--json", action="store_true", help="print the records and nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run("write", folder, options.model)
        size_mb = (Path(folder) / "model.safetensors").stat().st_size / 1e6
        records = []
        for _ in range(options.repeats):
            records.append({"what": "plain read", **run("read", folder)})
            for count in options.devices:
                record = run("load", folder, str(count), num_devices=count)
                records.append({"what": f"pretrained.load, devices: {count}", **record})
    if options.json:
        print(json.dumps({"file_mb": size_mb, "records": records}, indent=1))
        return
    print(f"{options.model}, {size_mb:.0f} MB\n{'':32s} seconds   own memory / file   resident / file")
    for record in records:
        own, whole = (record[name] / size_mb for name in ("own_mb", "resident_mb"))
        print(f"{record['what']:32s} {record['seconds']:7.2f} {own:19.2f} {whole:17.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(*sys.argv[2:])
    elif sys.argv[1:2] == ["read"]:
        print(json.dumps(read(sys.argv[2])))
    elif sys.argv[1:2] == ["load"]:
        print(json.dumps(load(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
