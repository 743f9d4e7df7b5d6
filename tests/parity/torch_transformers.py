"""Published Transformers at small sizes: those of transformers itself, and timm's and torchvision's names in PyTorch.

`python -m tests.parity.torch_transformers` stores their values anew; needs torch, transformers and safetensors.
Every function imports torch when it is called, so that this module loads where torch is missing.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.reference import store
from tests.parity.torch_cnns import HALF, IMAGENET

CLIP_CHANNELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        names: gives names and shapes of its tensors.
        run: takes tensors, inputs and a `config.json`, and gives outputs.
        inputs: drawn for it.
        config: the `config.json` beside its tensors.
        needs: the library that it takes.
    """

    names: Callable[[], Shapes]
    run: Callable[[Arrays, Arrays, Mapping[str, Any]], Arrays]
    inputs: Callable[[np.random.RandomState], Arrays]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: str = "torch"


def compute(name: str) -> Arrays:
    """What the network makes of drawn inputs and tensors, and what these are called; see `draw`."""
    case = CASES[name]
    shapes = case.names()
    inputs, tensors = draw(case, shapes)
    return {
        **case.run(tensors, inputs, case.config),
        "shapes": np.array([f"{key} {shape}" for key, shape in shapes.items()]),
    }


def draw(case: Case, shapes: Shapes) -> tuple[Arrays, Arrays]:
    """Inputs and tensors, the same for the same names and shapes, so that they need not be stored."""
    # Of all generators of NumPy the one whose numbers never change with its version.
    generator = np.random.RandomState(0)
    inputs = case.inputs(generator)
    return inputs, {key: _draw(generator, key, shape) for key, shape in shapes.items()}


def _draw(generator: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Scales of normalisations are positive, and what comes out is of a usual size."""
    if len(shape) == 1 and name.endswith(("weight", "gamma")):
        return np.asarray(generator.uniform(0.5, 1.5, shape), np.float32)
    is_kernel = len(shape) > 1 and name.endswith("weight") and "embedding.w" not in name and "embeddings.w" not in name
    return np.asarray(generator.normal(0, np.prod(shape[1:]) ** -0.5 if is_kernel else 0.5, shape), np.float32)


def _draw_images(generator: np.random.RandomState) -> Arrays:
    """Of the size that the positions are for, and of another one."""
    sizes = {"images": (32, 32), "wide_images": (24, 43)}
    return {name: np.float32(generator.randint(0, 256, (2, *size, 3)) / 256) for name, size in sizes.items()}


def _draw_words(generator: np.random.RandomState) -> Arrays:
    """Three texts of different lengths; two segments."""
    lengths = np.array([7, 2, 4])
    mask = np.arange(7) < lengths[:, None]
    tokens = np.where(mask, generator.randint(1, 10, (3, 7)), 0)
    return {"tokens": tokens, "mask": mask, "segments": np.int64(mask & (np.arange(7) >= lengths[:, None] // 2))}


def _draw_pairs(generator: np.random.RandomState) -> Arrays:
    """Images and as many texts; a text ends with token 10 and is padded with it."""
    tokens = generator.randint(0, 10, (2, 7))
    tokens[0, 4:] = 10
    tokens[1, 6:] = 10
    return {**_draw_images(generator), "tokens": tokens}


def _draw_captions(generator: np.random.RandomState) -> Arrays:
    """Images, and a caption of each from its start to its padding."""
    tokens = np.where(np.arange(8) < [[8], [5]], generator.randint(1, 20, (2, 8)), 0)
    tokens[:, 0] = BLIP_CONFIG["text_config"]["bos_token_id"]
    return {**_draw_images(generator), "tokens": tokens}


def _channels_first(images: np.ndarray, normalization: Any) -> Any:
    import torch

    mean, std = (np.float32(numbers) for numbers in normalization)
    return torch.tensor((images - mean) / std).permute(0, 3, 1, 2)


def vision_transformer(kind: str, features: int = 128, num_layers: int = 2, has_pre_norm: bool = False) -> Any:
    """Two heads, patches of 8 pixels, a class token and 13 classes, under the names of timm or of torchvision."""
    import torch
    from torch import nn

    is_timm = kind == "timm"
    epsilon = 1e-5 if has_pre_norm else 1e-6

    class Joined(nn.Module):
        """timm's attention, with one layer for query, key and value."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(features, 3 * features), nn.Linear(features, features)

        def forward(self, tokens: Any) -> Any:
            heads = self.qkv(tokens).unflatten(2, (3, 2, features // 2)).permute(2, 0, 3, 1, 4)
            read = nn.functional.scaled_dot_product_attention(*heads)
            return self.proj(read.transpose(1, 2).flatten(2))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norms = nn.LayerNorm(features, epsilon), nn.LayerNorm(features, epsilon)
            dense = nn.Linear(features, 3 * features), nn.Linear(3 * features, features)
            attention = Joined() if is_timm else nn.MultiheadAttention(features, 2, batch_first=True)
            self.parts = (*norms, *dense, attention)
            names = {"timm": ("fc1", "fc2"), "torchvision": ("0", "3"), "files": ("linear_1", "linear_2")}[kind]
            self.mlp = nn.ModuleDict(dict(zip(names, dense, strict=True)))
            if is_timm:
                self.norm1, self.norm2, self.attn = *norms, attention
            else:
                self.ln_1, self.ln_2, self.self_attention = *norms, attention

        def forward(self, tokens: Any) -> Any:
            first, second, expand, project, attention = self.parts
            normal = first(tokens)
            tokens = tokens + (attention(normal) if is_timm else attention(normal, normal, normal)[0])
            return tokens + project(nn.functional.gelu(expand(second(tokens))))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            patches = nn.Conv2d(3, features, 8, 8, bias=not has_pre_norm)
            blocks = [Block() for _ in range(num_layers)]
            norm, head = nn.LayerNorm(features, epsilon), nn.Linear(features, 13)
            token, positions = (nn.Parameter(torch.zeros(1, count, features)) for count in (1, 17))
            self.parts = (patches, blocks, norm, head)
            if is_timm:
                self.patch_embed = nn.ModuleDict({"proj": patches})
                self.cls_token, self.pos_embed = token, positions
                self.norm_pre = nn.LayerNorm(features, epsilon) if has_pre_norm else nn.Identity()
                self.blocks, self.norm, self.head = nn.ModuleList(blocks), norm, head
            else:
                self.conv_proj, self.class_token = patches, token
                layers = nn.ModuleDict({f"encoder_layer_{place}": block for place, block in enumerate(blocks)})
                self.encoder = nn.ModuleDict({"layers": layers, "ln": norm})
                self.encoder.pos_embedding = positions
                self.heads = nn.ModuleDict({"head": head})

        def forward(self, images: Any) -> tuple[Any, Any]:
            patches, blocks, norm, head = self.parts
            token = self.cls_token if is_timm else self.class_token
            positions = self.pos_embed if is_timm else self.encoder.pos_embedding
            tokens = torch.cat([token.expand(len(images), -1, -1), patches(images).flatten(2).transpose(1, 2)], 1)
            tokens = tokens + positions
            tokens = self.norm_pre(tokens) if is_timm else tokens
            for block in blocks:
                tokens = block(tokens)
            tokens = norm(tokens)
            return head(tokens[:, 0]), tokens[:, 1:]

    return Network()


def _plain(make: Callable[[], Any], normalization: Any) -> Case:
    """A module of ours, in PyTorch."""

    def run(tensors: Arrays, inputs: Arrays, config: Mapping[str, Any]) -> Arrays:
        import torch

        module = make()
        module.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
        with torch.no_grad():
            logits, tokens = module.eval()(_channels_first(inputs["images"], normalization))
        return {"logits": logits.numpy(), "image_tokens": tokens.numpy()}

    def names() -> Shapes:
        return {key: tuple(value.shape) for key, value in make().state_dict().items()}

    return Case(names, run, _draw_images)


def hub_names(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of the tensors of the file that transformers writes for a `config.json`."""
    from safetensors.numpy import load_file

    kind, settings = _hub_classes(config)
    with tempfile.TemporaryDirectory() as folder:
        kind(settings).save_pretrained(folder)
        return {key: value.shape for key, value in sorted(load_file(f"{folder}/model.safetensors").items())}


def load_hub(config: Mapping[str, Any], tensors: Arrays) -> Any:
    """The model that transformers makes of a `config.json` and a file of tensors; all of them are used."""
    import torch
    from safetensors.numpy import save_file

    kind, _ = _hub_classes(config)
    with tempfile.TemporaryDirectory() as folder:
        save_file(dict(tensors), f"{folder}/model.safetensors", metadata={"format": "pt"})
        Path(folder, "config.json").write_text(json.dumps(dict(config)))
        model, report = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    troubles = {key: value for key, value in report.items() if value}
    if troubles:
        raise ValueError(f"transformers must load every tensor; got {troubles}.")
    return model.eval()


def _hub_classes(config: Mapping[str, Any]) -> tuple[Any, Any]:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, config["architectures"][0])
    return kind, kind.config_class.from_dict(dict(config))


def _run_vit(tensors: Arrays, inputs: Arrays, config: Mapping[str, Any]) -> Arrays:
    import torch

    model = load_hub(config, tensors)
    with torch.no_grad():
        images, wide = (_channels_first(inputs[name], HALF) for name in ("images", "wide_images"))
        whole = model.vit(images).last_hidden_state
        resized = model.vit(wide, interpolate_pos_encoding=True).last_hidden_state
        logits = model(images).logits
    return {
        "logits": logits.numpy(),
        "image_tokens": whole[:, 1:].numpy(),
        "wide_pooled": resized[:, 0].numpy(),
        "wide_tokens": resized[:, 1:].numpy(),
    }


def _run_bert(tensors: Arrays, inputs: Arrays, config: Mapping[str, Any]) -> Arrays:
    import torch

    model = load_hub(config, tensors)
    tokens, mask, segments = (torch.tensor(inputs[name]) for name in ("tokens", "mask", "segments"))
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=mask.long(), token_type_ids=segments)
    states = output.last_hidden_state.numpy() * inputs["mask"][..., None]
    mean = states.sum(1) / inputs["mask"].sum(1, keepdims=True)
    return {"text_tokens": states, "pooled": output.pooler_output.numpy(), "mean": mean}


def _run_towers(tensors: Arrays, inputs: Arrays, config: Mapping[str, Any]) -> Arrays:
    import torch

    model = load_hub(config, tensors)
    is_clip = config["model_type"] == "clip"
    normalization = CLIP_CHANNELS if is_clip else HALF
    tokens = torch.tensor(inputs["tokens"])
    with torch.no_grad():
        images, wide = (_channels_first(inputs[name], normalization) for name in ("images", "wide_images"))
        output = model(input_ids=tokens, pixel_values=images)
        grid = output.vision_model_output.last_hidden_state
        grid = model.vision_model.post_layernorm(grid)[:, 1:] if is_clip else grid
        resized = model.get_image_features(wide, interpolate_pos_encoding=True).pooler_output
    return {
        "image": output.image_embeds.numpy(),
        "wide_image": torch.nn.functional.normalize(resized).numpy(),
        "text": output.text_embeds.numpy(),
        "image_tokens": grid.numpy(),
        "text_tokens": output.text_model_output.last_hidden_state.numpy(),
        "similarity": output.logits_per_image.numpy(),
    }


def _run_blip(tensors: Arrays, inputs: Arrays, config: Mapping[str, Any]) -> Arrays:
    import torch

    model = load_hub(config, tensors)
    images, wide = (_channels_first(inputs[name], CLIP_CHANNELS) for name in ("images", "wide_images"))
    tokens = torch.tensor(inputs["tokens"])
    output = model(images, tokens, labels=torch.where(tokens == 0, -100, tokens))
    output.loss.backward()
    with torch.no_grad():
        resized = model(wide, tokens, interpolate_pos_encoding=True)
    parameters = dict(model.named_parameters())
    found = {
        "logits": output.logits.detach().numpy(),
        "wide_logits": resized.logits.numpy(),
        "loss": output.loss.detach().numpy(),
        **{f"gradient of {name}": parameters[name].grad.numpy() for name in BLIP_GRADIENTS},
    }
    # A prompt has a token before and one after it, which are not used as they are.
    prompt = torch.tensor([[1, *BLIP_PROMPT, 2]] * len(images))
    for name, settings in BLIP_SEARCHES.items():
        for kind, words in (("", None), (" after a prompt", prompt)):
            settings = {**settings, "return_dict_in_generate": True, "output_scores": True}
            written = model.generate(images, words, max_new_tokens=BLIP_LENGTH, **settings)
            found[f"{name}{kind}"] = written.sequences.numpy()
            if settings["num_beams"] > 1:
                found[f"scores of {name}{kind}"] = written.sequences_scores.numpy()
    return found


_TOWER = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
_PIXELS = {"image_size": 32, "patch_size": 8, "num_channels": 3}
_WORDS = {"vocab_size": 11, "max_position_embeddings": 7, "bos_token_id": None, "pad_token_id": None}
VIT_CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "num_labels": 13,
    "layer_norm_eps": 1e-5,
    **_TOWER,
    **_PIXELS,
}
BERT_CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "layer_norm_eps": 1e-5,
    "type_vocab_size": 2,
    **_TOWER,
    **_WORDS,
    "pad_token_id": 0,
}
PRETRAINING_CONFIG = {**BERT_CONFIG, "architectures": ["BertForPreTraining"]}
CLIP_CONFIG = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 7,
    "text_config": {**_TOWER, "hidden_size": 15, **_WORDS, "eos_token_id": 10},
    "vision_config": {**_TOWER, **_PIXELS},
}
SIGLIP_CONFIG = {
    "architectures": ["SiglipModel"],
    "model_type": "siglip",
    "text_config": {**_TOWER, "hidden_size": 15, **_WORDS, "projection_size": 12, "eos_token_id": None},
    "vision_config": {**_TOWER, **_PIXELS},
}
BLIP_CONFIG = {
    "architectures": ["BlipForConditionalGeneration"],
    "model_type": "blip",
    "text_config": {
        **_TOWER,
        "hidden_size": 15,
        "vocab_size": 23,
        "max_position_embeddings": 17,
        "bos_token_id": 21,
        "sep_token_id": 13,
        "pad_token_id": 0,
    },
    "vision_config": {**_TOWER, **_PIXELS},
}
BLIP_PROMPT, BLIP_LENGTH = (5, 11, 3), 9
BLIP_SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beam": {"num_beams": 3, "length_penalty": 1.0},
    "beam without length penalty": {"num_beams": 3, "length_penalty": 0.0},
}
# Of both ends of the decoder's table of words at once, of what is before and after it, and of the encoder's first.
BLIP_GRADIENTS = (
    "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.bert.embeddings.LayerNorm.weight",
    "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight",
    "text_decoder.cls.predictions.transform.dense.weight",
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.position_embedding",
    "vision_model.encoder.layers.0.self_attn.qkv.weight",
)


def _hub(config: Mapping[str, Any], run: Any, inputs: Any) -> Case:
    return Case(lambda: hub_names(config), run, inputs, config, needs="transformers")


CASES = {
    "vit-timm": _plain(lambda: vision_transformer("timm"), HALF),
    "vit-timm-pre-norm": _plain(lambda: vision_transformer("timm", has_pre_norm=True), HALF),
    "vit-torchvision": _plain(lambda: vision_transformer("torchvision"), IMAGENET),
    "vit-torchvision-files": _plain(lambda: vision_transformer("files"), IMAGENET),
    "vit-transformers": _hub(VIT_CONFIG, _run_vit, _draw_images),
    "bert-transformers": _hub(BERT_CONFIG, _run_bert, _draw_words),
    "clip-transformers": _hub(CLIP_CONFIG, _run_towers, _draw_pairs),
    "siglip-transformers": _hub(SIGLIP_CONFIG, _run_towers, _draw_pairs),
    "blip-transformers": _hub(BLIP_CONFIG, _run_blip, _draw_captions),
}
MODELS: dict[str, Callable[[], Arrays]] = {name: (lambda name=name: compute(name)) for name in CASES}


if __name__ == "__main__":
    for one in MODELS:
        path = store(one, MODELS[one])
        print(path, path.stat().st_size)
