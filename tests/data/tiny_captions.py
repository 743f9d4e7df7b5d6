"""A data set of TensorFlow Datasets with seven pictures; `python tiny_captions.py FOLDER` prepares it there."""

import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class TinyCaptions(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FOLDER = pathlib.Path()

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image/filename": tfds.features.Text(),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "title": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "inside": {"picture": tfds.features.Image(shape=(None, None, 3)), "size": np.int64},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(5)), "test": self._generate_examples(range(5, 7))}

    def _generate_examples(self, numbers):
        for number in numbers:
            path = self.FOLDER / f"{number}.png"
            Image.fromarray(np.full((5 + number, 9, 3), number * 30, np.uint8)).save(path)
            captions = [{"id": k, "text": f"caption {number} {k}, größer"} for k in range(number % 3 + 1)]
            yield (
                number,
                {
                    "image": str(path),
                    "image/filename": path.name,
                    "captions": captions,
                    "title": f"title {number}",
                    "label": number % 2,
                    "inside": {"picture": str(path), "size": number},
                },
            )


if __name__ == "__main__":
    TinyCaptions.FOLDER = pathlib.Path(sys.argv[1])
    TinyCaptions(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
