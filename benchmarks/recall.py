"""Recall of 100,000 images in 100,000 texts, and back, beside the exact search of faiss; needs fusionjax[search].

    python benchmarks/recall.py [--count 100000] [--features 512] [--repeats 1]

Random vectors of length 1, each text a noisy image. Both contenders run in processes of their own, in turn. Ours ranks
both ways in one pass; faiss searches the ten nearest texts of each image, which gives the recalls of that way. Memory
is the growth of the process beyond the features. The ranks of a sample are compared with sorted rows in NumPy. The
table goes to standard error, a JSON list of records to standard output.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

SAMPLE = 64


def resident_mb():
    with pathlib.Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_features(count, features):
    """Images and texts; a block at a time, so that no second copy is ever held."""
    rng = np.random.default_rng(0)
    images, texts = (np.empty((count, features), np.float32) for _ in range(2))
    for start in range(0, count, 4096):
        block = slice(start, min(start + 4096, count))
        shape = images[block].shape
        images[block] = rng.standard_normal(shape, dtype=np.float32)
        texts[block] = images[block] + 8 * rng.standard_normal(shape, dtype=np.float32)
        for rows in (images, texts):
            rows[block] /= np.linalg.norm(rows[block], axis=1, keepdims=True)
    return images, texts


def sampled_ranks(images, texts):
    """Ranks of some images' own texts, from whole rows."""
    places = np.random.default_rng(1).choice(len(images), min(SAMPLE, len(images)), replace=False)
    scores = images[places] @ texts.T
    own = scores[np.arange(len(places)), places]
    return places, 1 + (scores > own[:, None]).sum(1)


def run_ours(options):
    import jax

    from fusionjax import metrics

    images, texts = make_features(options.count, options.features)
    owners = np.arange(options.count)
    before = resident_mb()
    began = time.perf_counter()
    ranks = metrics.retrieval_ranks(images, texts, owners, block_size=options.block_size)
    first = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    places, true = sampled_ranks(images, texts)
    return {
        "contender": "fusionjax",
        "versions": {"jax": jax.__version__},
        "seconds": first,
        "ways": 2,
        "peak_memory_beyond_features_mb": peak - before,
        "recall_at_10": float((ranks.image_to_text <= 10).mean()),
        "sample_differs": int((ranks.image_to_text[places] != true).sum()),
    }


def run_faiss(options):
    import faiss

    images, texts = make_features(options.count, options.features)
    before = resident_mb()
    began = time.perf_counter()
    index = faiss.IndexFlatIP(options.features)
    index.add(texts)
    found = 0
    for start in range(0, options.count, 4096):
        _, nearest = index.search(images[start : start + 4096], 10)
        found += int((nearest == np.arange(start, start + len(nearest))[:, None]).any(1).sum())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    places, true = sampled_ranks(images, texts)
    _, nearest = index.search(images[places], 10)
    hits = (nearest == places[:, None]).any(1)
    return {
        "contender": "faiss-cpu",
        "versions": {"faiss": faiss.__version__},
        "seconds": seconds,
        "ways": 1,
        "peak_memory_beyond_features_mb": peak - before,
        "recall_at_10": found / options.count,
        "sample_differs": int((hits != (true <= 10)).sum()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=("fusionjax", "faiss"), help="runs one contender in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps({"fusionjax": run_ours, "faiss": run_faiss}[options.only](options)))
        return
    records = []
    for _ in range(options.repeats):
        for contender in ("fusionjax", "faiss"):
            words = [sys.executable, __file__, *sys.argv[1:], "--only", contender]
            record = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
            operations = 2 * options.count**2 * options.features
            record |= {"workload": f"recall-{options.count}x{options.count}x{options.features}"}
            record |= {"achieved_gflops": operations / record["seconds"] / 1e9}
            records.append(record)
    lines = ["| contender | seconds | GFLOP/s | memory beyond features, MB | recall at 10 | sample differs |"]
    lines.append("| --- " * 6 + "|")
    lines += [
        f"| {one['contender']} | {one['seconds']:.1f} | {one['achieved_gflops']:.0f} | "
        f"{one['peak_memory_beyond_features_mb']:.0f} | {one['recall_at_10']:.4f} | {one['sample_differs']} |"
        for one in records
    ]
    print("\n".join(lines), file=sys.stderr)
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
