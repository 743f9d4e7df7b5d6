"""Tiny published weights: encoders that have learned nothing, in files as other libraries write them."""

from pathlib import Path

import numpy as np

from fusionjax import pretrained
from fusionjax.pretrained.bert import BertSizes
from fusionjax.pretrained.efficientnet_lite import EfficientNetLiteSizes
from tests.contracts.parameters import draw_variables
from tests.recipes.tiny import WORDS

IMAGE_SIZES = EfficientNetLiteSizes(
    stage_sizes=(1, 2), features=(3, 5), stem_features=4, head_features=13, num_classes=2
)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "one", *WORDS, "picture")
TEXT_SIZES = BertSizes(
    vocab_size=len(VOCABULARY),
    features=6,
    num_layers=2,
    num_heads=2,
    mlp_features=7,
    max_length=17,
    num_segments=2,
    norm_epsilon=1e-12,
    activation="gelu_exact",
    pooling="mean",
    use_pooler=False,
    padding_id=0,
)


def write_image_weights(folder: Path, seed: int = 0) -> Path:
    """An EfficientNet-Lite; the file."""
    found = pretrained.find_architecture("efficientnet-lite-timm")
    model = found.build(IMAGE_SIZES)
    variables = draw_variables(model, np.zeros((1, 32, 32, 3), np.float32), seed=seed)
    pretrained.save(folder, pretrained.Pretrained(found, IMAGE_SIZES, model, variables))
    return folder / "model.safetensors"


def write_text_weights(folder: Path, seed: int = 0) -> Path:
    """A sentence encoder with its tokenizer, as sentence-transformers has it; the folder."""
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    found = pretrained.find_architecture("sentence-bert-transformers")
    model = found.build(TEXT_SIZES)
    variables = draw_variables(model, np.ones((1, 3), np.int32), seed=seed)
    pretrained.save(folder, pretrained.Pretrained(found, TEXT_SIZES, model, variables))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    numbers = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    )
    # As files have them: for other lengths.
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
