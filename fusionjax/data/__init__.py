"""Sources of examples, tokenizers, preprocessing, augmentation and loaders."""

from fusionjax.data import augment
from fusionjax.data.coco import read_coco
from fusionjax.data.easy_vqa import EasyVQA, QuestionExample
from fusionjax.data.flickr import read_flickr
from fusionjax.data.folders import CaptionExample, CaptionFolder, image_names
from fusionjax.data.grammar import Question, combination_split
from fusionjax.data.image_sets import check_images, decode_images
from fusionjax.data.images import load_image
from fusionjax.data.loader import Loader, LoaderIterator, make_loader
from fusionjax.data.mixing import MixedIterator, MixedLoader
from fusionjax.data.preparation import prepare_image
from fusionjax.data.published_tokenizer import TokenizerKind, read_tokenizer
from fusionjax.data.row_store import RowStore, StoredRows
from fusionjax.data.scenes import SceneExample, Scenes
from fusionjax.data.sort_of_clevr import SortOfClevr
from fusionjax.data.tfds_source import TFDSSource, tfds_splits
from fusionjax.data.tokenizer import Tokenizer, train_tokenizer
from fusionjax.data.vqa_json import QuestionFolder, read_vqa

__all__ = [
    "CaptionExample",
    "CaptionFolder",
    "EasyVQA",
    "Loader",
    "LoaderIterator",
    "MixedIterator",
    "MixedLoader",
    "Question",
    "QuestionExample",
    "QuestionFolder",
    "RowStore",
    "SceneExample",
    "Scenes",
    "SortOfClevr",
    "StoredRows",
    "TFDSSource",
    "Tokenizer",
    "TokenizerKind",
    "augment",
    "check_images",
    "combination_split",
    "decode_images",
    "image_names",
    "load_image",
    "make_loader",
    "prepare_image",
    "read_coco",
    "read_flickr",
    "read_tokenizer",
    "read_vqa",
    "tfds_splits",
    "train_tokenizer",
]
