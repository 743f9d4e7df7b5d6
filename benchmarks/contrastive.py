"""The contrastive losses with their gradients: error, memory and time of every form, by batch size.

    python benchmarks/contrastive.py [--batch-sizes 256 1024 4096 32768] [--features 512] [--devices 8] [--repeats 5]

Features are random vectors of length 1, each text some way from its image, at the largest scale of CLIP (100) for
InfoNCE and at SigLIP's start (10, -10) for the sigmoid. The error is that of the loss, and of the gradients of 256
images and 256 texts, against float64, relative to the largest; memory is what the compiled program says of one device,
beyond its inputs and outputs; forms take turns. A form that would need more than `--limit-mb` is compiled and not run.
The table goes to standard error, a JSON list of records to standard output.
"""

import argparse
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

SCALARS = {"info_nce": (100.0,), "sigmoid": (10.0, -10.0)}
SAMPLE = 256


def make_features(batch, features):
    rng = np.random.default_rng(batch)
    images = rng.standard_normal((batch, features), dtype=np.float32)
    texts = images + 8 * rng.standard_normal((batch, features), dtype=np.float32)
    return [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]


def exact(images, texts, block=1024):
    """Loss and sampled gradients of both losses in float64, a block of rows at a time."""
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    count, sampled = len(images), slice(0, SAMPLE)
    scale, (logit_scale, bias) = SCALARS["info_nce"][0], SCALARS["sigmoid"]
    by_row, by_column, sigmoid, own = np.empty(count), np.zeros(count), 0.0, np.einsum("nd,nd->n", images, texts)
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        similarity = images[rows] @ texts.T
        exponentials = np.exp(scale * (similarity - 1))
        by_row[rows] = exponentials.sum(1)
        by_column += exponentials.sum(0)
        scores = logit_scale * similarity + bias
        sigmoid += np.logaddexp(0, scores).sum()
    scores = logit_scale * own + bias
    sigmoid += (np.logaddexp(0, -scores) - np.logaddexp(0, scores)).sum()
    log_rows, log_columns = np.log(by_row) + scale, np.log(by_column) + scale
    loss = ((log_rows + log_columns) / 2 - scale * own).sum()
    found = {"info_nce": [loss], "sigmoid": [sigmoid]}
    for one, other, log_one, log_other in (
        (images, texts, log_rows, log_columns),
        (texts, images, log_columns, log_rows),
    ):
        similarity = one[sampled] @ other.T
        right = np.eye(*similarity.shape)
        shares = np.exp(scale * similarity - log_one[sampled, None]) + np.exp(scale * similarity - log_other)
        found["info_nce"].append(scale * (shares / 2 - right) @ other)
        scores = logit_scale * similarity + bias
        slopes = np.where(right > 0, -1 / (1 + np.exp(scores)), 1 / (1 + np.exp(-scores)))
        found["sigmoid"].append(logit_scale * slopes @ other)
    return found


def forms(devices):
    """Name, number of devices, and options."""
    from fusionjax import parallel

    rings = [(f"ring of {devices}", devices, {"mesh": parallel.make_mesh(devices)})]
    return [
        ("plain", 1, {"implementation": "plain"}),
        ("chunked", 1, {"implementation": "chunked"}),
        *(rings if devices > 1 else []),
    ]


def build(loss, options, devices, shape):
    """The compiled gradient of one form."""
    from fusionjax import losses, parallel

    function = {"info_nce": losses.info_nce, "sigmoid": losses.sigmoid_contrastive}[loss]

    def total(images, texts):
        return function(images, texts, *SCALARS[loss], **options).total

    mesh = parallel.make_mesh(devices)
    split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1)), in_shardings=split)
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    return step.lower(features, features).compile(), split


def error_of(found, true):
    """The largest of the errors of loss and gradients, each relative to the largest entry."""
    total, gradients = found
    pairs = [(total, true[0]), *zip((leaf[:SAMPLE] for leaf in gradients), true[1:], strict=True)]
    return max(float(np.abs(np.asarray(one, np.float64) - exact).max() / np.abs(exact).max()) for one, exact in pairs)


def measure(batch, options):
    """Records of all losses and forms at one batch size."""
    images, texts = make_features(batch, options.features)
    true, records, runs = exact(images, texts), [], []
    for loss in SCALARS:
        for name, devices, settings in forms(options.devices):
            compiled, split = build(loss, settings, devices, images.shape)
            memory_mb = compiled.memory_analysis().temp_size_in_bytes / 1e6
            record = {"contender": "fusionjax", "workload": "contrastive", "loss": loss, "form": name, "batch": batch}
            record |= {"features": options.features, "memory_mb_a_device": memory_mb, "samples_ms": []}
            records.append(record)
            if memory_mb * devices > options.limit_mb:
                continue
            inputs = [jax.device_put(leaf, split) for leaf in (images, texts)]
            record["error"] = error_of(jax.device_get(compiled(*inputs)), true[loss])
            runs.append((record, compiled, inputs))
    for _ in range(options.repeats):
        for record, compiled, inputs in runs:
            began = time.perf_counter()
            jax.block_until_ready(compiled(*inputs))
            record["samples_ms"].append((time.perf_counter() - began) * 1e3)
    for record, _, _ in runs:
        record["median_ms"] = statistics.median(record["samples_ms"])
    return records


def table(records):
    lines = ["| loss | form | batch | error | memory a device, MB | median, ms | to plain |"]
    lines.append("| --- " * 7 + "|")
    plain = {(one["loss"], one["batch"]): one.get("median_ms") for one in records if one["form"] == "plain"}
    for one in records:
        median, base = one.get("median_ms"), plain[one["loss"], one["batch"]]
        cells = [one["loss"], one["form"], f"{one['batch']:,}", f"{one['error']:.1e}" if "error" in one else "-"]
        cells += [f"{one['memory_mb_a_device']:,.1f}", f"{median:,.1f}" if median else "-"]
        cells.append(f"{median / base:.2f}" if median and base else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 1024, 4096, 32_768])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--devices", type=int, default=8, help="of the ring; virtual ones on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit-mb", type=float, default=12_000.0)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    records = [record for batch in options.batch_sizes for record in measure(batch, options)]
    print(table(records), file=sys.stderr)
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
