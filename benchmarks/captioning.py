"""Captioning real photographs: each decoder with several seeds, greedy and beam search, in one table.

    python benchmarks/captioning.py --data DIR [--decoders attention lstm transformer] [--seeds 0 1 2] [--output DIR]

Each training runs in a process of its own and is left out where its run directory has ended already. `--threads 1`
gives it one core, so that runs beside each other measure processor time fairly. The table goes to standard error, a
JSON list of records to standard output.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")


def run_command(words, threads):
    """Runs `fusionjax WORDS --json` and returns its value."""
    command = [sys.executable, "-c", "import sys; from fusionjax.cli import main; sys.exit(main())", *words, "--json"]
    cores = sorted(os.sched_getaffinity(0))[:threads] if threads else None
    limit = None if cores is None else lambda: os.sched_setaffinity(0, cores)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=limit).stdout)


def measure(decoder, seed, options):
    """Trains one captioner and evaluates it both ways; returns two records."""
    run = pathlib.Path(options.output) / f"{decoder}-{seed}"
    words = ["train", "captioning", "--data.source", "flickr", "--data.path", options.data, "--output", str(run)]
    trained = run_command([*words, "--model.decoder", decoder, "--seed", str(seed)], options.threads)
    records = []
    for decoding in ("greedy", "beam"):
        found = run_command(["evaluate", str(run), "--decoding.method", decoding], options.threads)
        records.append(
            {
                "contender": "fusionjax",
                "workload": "captioning",
                "decoder": decoder,
                "decoding": decoding,
                "seed": seed,
                **{name: found[f"test/{name}"] for name in SCORES},
                "train_seconds": trained["train/seconds"],
                "train_cpu_seconds": trained["train/cpu_seconds"],
            }
        )
    return records


def table(records):
    """Draws means over seeds, and the CIDEr-D of each seed."""
    lines = ["| decoder | decoding | " + " | ".join(SCORES) + " | CIDEr-D by seed | processor seconds |"]
    lines.append("| --- " * (len(SCORES) + 4) + "|")
    for key in dict.fromkeys((record["decoder"], record["decoding"]) for record in records):
        rows = [record for record in records if (record["decoder"], record["decoding"]) == key]
        means = [f"{statistics.mean(row[name] for row in rows):.3f}" for name in SCORES]
        seeds = ", ".join(f"{row['cider_d']:.3f}" for row in rows)
        seconds = f"{statistics.mean(row['train_cpu_seconds'] for row in rows):.0f}"
        lines.append("| " + " | ".join([*key, *means, seeds, seconds]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of photographs in Flickr8k form")
    parser.add_argument("--decoders", nargs="+", default=["attention", "lstm", "transformer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", default="runs/captioning-benchmark", help="where the run directories go")
    parser.add_argument("--threads", type=int, default=0, help="cores for each run; 0: all")
    options = parser.parse_args()
    records = [
        record for seed in options.seeds for decoder in options.decoders for record in measure(decoder, seed, options)
    ]
    print(table(records), file=sys.stderr)
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
