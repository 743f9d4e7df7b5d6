"""Captions for your own photographs: learn from a folder, then write.

Run:  python examples/caption_your_folder.py DIR --photograph new.jpg [--photograph more.jpg ...]
      python examples/caption_your_folder.py --tiny      (makes a small folder of its own; under a minute)

DIR holds `captions.csv` with the columns image and caption (one line for each caption; optionally split, with train,
validation or test) and the images, beside it or in `images/`. `--output` names the run directory, in which the same
command goes on if it is stopped; `report.html` in it shows test pictures with what the model wrote and where it looked.
The same from the command line: `fusionjax train captioning --data.source flickr --data.path DIR`.
"""

import argparse
import csv
import dataclasses
import tempfile
from pathlib import Path

from PIL import Image

import fusionjax as fj
from fusionjax.recipes import captioning


def make_folder(folder: Path, size: int = 24) -> Path:
    """A folder in the form that is asked for, of drawn pictures instead of photographs."""
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for place, scene in enumerate(fj.data.Scenes("train", size=size, image_size=32)):
            name, split = f"{place}.png", ("train", "train", "validation", "test")[place % 4]
            Image.fromarray(scene["image"]).save(folder / "images" / name)
            table.writerows([name, caption, split] for caption in scene["captions"])
    return folder


def settings(folder: Path, output: Path, *, tiny: bool, decoder: str, epochs: float | None) -> captioning.Config:
    """The preset for photographs, with this folder; small where it is only to be tried."""
    config = captioning.preset("flickr")
    config = dataclasses.replace(
        config,
        output=str(output),
        data=dataclasses.replace(config.data, path=str(folder)),
        model=dataclasses.replace(config.model, decoder=decoder),
    )
    if epochs is not None:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))
    if not tiny:
        return config
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=32, captions_per_image=2, min_count=1),
        model=dataclasses.replace(
            config.model, cnn_features=(8, 16), features=16, embedding_features=16, attention_features=8, num_layers=1
        ),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=1),
        training=dataclasses.replace(config.training, epochs=1, batch_size=8),
        reward=dataclasses.replace(config.reward, epochs=0),
        report_samples=2,
    )


def main(arguments: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="with captions.csv and the images")
    parser.add_argument("--photograph", action="append", default=[], type=Path, help="to caption after the training")
    parser.add_argument("--output", type=Path, default=Path("runs/folder"), help="the run directory")
    parser.add_argument("--decoder", choices=("attention", "lstm", "transformer"), default="attention")
    parser.add_argument("--epochs", type=float, help="passes over the training part; else the preset's")
    parser.add_argument("--tiny", action="store_true", help="a folder of its own, a small model and few steps")
    options = parser.parse_args(arguments)
    if options.folder is None and not options.tiny:
        parser.error("a folder is needed; or try --tiny")

    with tempfile.TemporaryDirectory() as scratch:
        folder, output, photographs = options.folder, options.output, options.photograph
        if options.tiny:
            folder, output = make_folder(Path(scratch) / "folder"), Path(scratch) / "run"
            photographs = photographs or sorted((folder / "images").iterdir())[:2]
        config = settings(folder, output, tiny=options.tiny, decoder=options.decoder, epochs=options.epochs)
        metrics = captioning.train(config)
        if metrics is None:
            print("stopped; the same command goes on")
            return []
        print(", ".join(f"{name} {value:.3f}" for name, value in sorted(metrics.items()) if name.startswith("test/")))
        written = captioning.caption(output, photographs) if photographs else []
        for photograph, one in zip(photographs, written, strict=True):
            print(f"{photograph.name}: {one.caption} (log-probability {one.log_probability:.2f})")
        return [one.caption for one in written]


if __name__ == "__main__":
    main()
