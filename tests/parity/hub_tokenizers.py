"""Tiny tokenizers as they lie beside published weights, and what transformers makes of texts with them."""

import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

LENGTH = 13
TEXTS = (
    "a photo of a cat",
    "A Photo, of two CATS!",
    "",
    "   ",
    "it's the dog's; they'll say I'm café naïve RÉSUMÉ",
    "cafe\N{COMBINING ACUTE ACCENT} \N{DOG FACE} cat \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
    "tab\tand\nline  two",
    "x1234 don\N{RIGHT SINGLE QUOTATION MARK}t \N{EM DASH} 犬の写真",
    "cat " * 30,
    "\N{LATIN SMALL LETTER SHARP S} \N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul 100% under_score",
    "a▁cat of▁▁two",
)
Arrays = dict[str, np.ndarray]

_MERGES = "p h|o t|ph ot|phot o</w>|c a|ca t</w>|d o|do g</w>|t h|th e</w>|' s</w>|Ã ©|Ã ©</w>|o f</w>|1 2"
_PIECES = "▁a ▁photo ▁of ▁cat ▁cats ▁the ▁dog s ▁two ▁caf é ▁na ï ve ▁résum é ▁it ▁ t a c o d e p h n l i m r u w y x 1"
_WORDS = "a photo of cat ##s the dog caf ##e cafe two ' ; , ! it s they ll i m na ##ive resume 犬 line and tab 100 % x"


def write_clip(folder: Path) -> None:
    """`vocab.json` and `merges.txt`: all bytes, and a few pairs."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [number for number in range(256) if number not in visible]
    letters = [chr(number) for number in visible] + [chr(256 + place) for place in range(len(hidden))]
    merges = _MERGES.split("|")
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocab = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")


def write_bert(folder: Path, **settings: object) -> None:
    """`vocab.txt`, and the settings where there are some."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(_WORDS.split()), "Photo", "café", "İ"]
    (folder / "vocab.txt").write_text("\n".join([*tokens, ""]), "utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_siglip(folder: Path, *, kind: int = 1) -> None:
    """`spiece.model`, a message of Protocol Buffers, written by hand."""

    def field(number: int, value: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(value)) + value

    def varint(number: int) -> bytes:
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    def piece(text: str, score: float, sort: int) -> bytes:
        return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(sort))

    pieces = [piece("<pad>", 0.0, 3), piece("</s>", 0.0, 3), piece("<unk>", 0.0, 2)]
    pieces += [piece(text, -2.0 - 0.31 * place, 1) for place, text in enumerate(dict.fromkeys(_PIECES.split()))]
    # The kind of the model, ids of unknown, start, end and padding (-1 is none); characters stay as they are.
    ids = ((3, kind), (40, 2), (41, 2**64 - 1), (42, 1), (43, 0))
    trainer = field(2, b"".join(varint(number << 3) + varint(value) for number, value in ids))
    (folder / "spiece.model").write_bytes(b"".join(pieces) + trainer + field(3, field(1, b"identity")))


def write_siglip2(folder: Path) -> None:
    """`tokenizer.json` like Gemma's: byte pairs of whole texts, and no lower case."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    letters = sorted(set("a photo of cats the dog's ▁!,.CPA12"))
    merges = [("c", "a"), ("ca", "t"), ("p", "h"), ("ph", "o"), ("t", "h"), ("th", "e"), ("P", "h"), ("a", "▁")]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{number:02X}>" for number in range(256))]
    vocab = {token: number for number, token in enumerate([*tokens, *letters, *map("".join, merges)])}
    model = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    model.normalizer = normalizers.Replace(" ", "▁")
    model.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    model.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    model.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    model.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "add_eos_token": True, "pad_token": "<pad>"}))


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "clip": write_clip,
    "bert": write_bert,
    "bert-cased": lambda folder: write_bert(folder, do_lower_case=False),
    "bert-accents": lambda folder: write_bert(folder, strip_accents=False, tokenize_chinese_chars=False),
    "siglip": write_siglip,
    "siglip2": write_siglip2,
}
_CLASSES = {"clip": "CLIPTokenizerFast", "siglip": "SiglipTokenizer", "siglip2": "Siglip2Tokenizer"}


def ids_of(name: str) -> np.ndarray:
    """What transformers' own tokenizer makes of the texts, `[texts, LENGTH]`."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        WRITERS[name](Path(folder))
        kind = getattr(transformers, _CLASSES.get(name, "BertTokenizerFast"))
        tokenizer = kind.from_pretrained(folder)
        return np.array(tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=LENGTH)["input_ids"])


MODELS: Mapping[str, Callable[[], Arrays]] = {
    f"tokenizer-{name}": (lambda name=name: {"ids": ids_of(name)})  # type: ignore[misc]
    for name in WRITERS
}
# What each is computed with; SigLIP's own tokenizer needs the library of SentencePiece too.
NEEDS = {"tokenizer-siglip": "sentencepiece"}
