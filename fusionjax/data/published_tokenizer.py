"""The tokenizers of published models, read from the files beside their weights."""

import json
import re
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusionjax._extras import require
from fusionjax.data.sentencepiece import read_unigram
from fusionjax.data.tokenizer import Tokenizer, read_json
from fusionjax.errors import InputError

if TYPE_CHECKING:
    import tokenizers

TokenizerKind = Literal["clip", "siglip", "bert"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
)
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")  # the later counts
# What CLIP splits a text into, before bytes are merged: endings, words, single digits, the rest.
_CLIP_PARTS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_PUNCTUATION = f"[{re.escape(string.punctuation)}]"
_SPACE = "▁"  # of SentencePiece


def read_tokenizer(folder: str | Path, kind: TokenizerKind, max_length: int) -> Tokenizer | None:
    """Reads the tokenizer that lies beside published weights, as transformers does.

    `tokenizer.json` comes first; without it a CLIP's `vocab.json` and `merges.txt`, a BERT's `vocab.txt`, or a SigLIP's
    `spiece.model`. What `tokenizer_config.json` says of lower case, accents and padding counts. Texts for SigLIP are
    lower-cased, and where its tokens are those of SentencePiece (not SigLIP 2's) lose their ASCII punctuation.

    Args:
        folder: with the files.
        kind: of the model.
        max_length: tokens that the model has places for.

    Returns:
        The tokenizer; None where there is none of these files.

    Raises:
        InputError: a file is damaged, belongs to another model, or is of a kind that only `tokenizer.json` can replace.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
        arXiv:2103.00020, section 2.4.
        Devlin et al., "BERT", 2019, arXiv:1810.04805, section 3.
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343, appendix.
    """
    folder = Path(folder)
    settings: dict[str, Any] = {}
    for name in _SETTINGS:
        settings |= _read_settings(folder / name)
    file, read = (folder / "tokenizer.json"), _BUILDERS[kind]
    model = read_json(file) if file.exists() else read(folder, settings)
    if model is None:
        return None
    if kind == "siglip":
        _canonicalise(model, settings)
    library = require("tokenizers", extra="data")
    if suffix := getattr(model.model, "end_of_word_suffix", None):
        decoders = library.decoders
        model.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(suffix, " ")])
    if model.post_processor is None:
        raise InputError(
            f"{folder}: the tokenizer must end a text with a token of its own; it has none. Fetch it anew."
        )
    padding = _token(settings, "pad_token") or (model.padding or {}).get("pad_token") or _usual_padding(model, kind)
    model.enable_padding(pad_id=_id_of(model, padding, folder), pad_token=padding)
    model.enable_truncation(max_length)
    return Tokenizer(model)


def _byte_pairs(folder: Path, settings: Mapping[str, Any]) -> "tokenizers.Tokenizer | None":
    files = folder / "vocab.json", folder / "merges.txt"
    if not all(file.exists() for file in files):
        return None
    library = require("tokenizers", extra="data")
    start, end = (_token(settings, name) or usual for name, usual in _CLIP_TOKENS.items())
    try:
        vocab, merges = library.models.BPE.read_file(*map(str, files))
        model = library.Tokenizer(library.models.BPE(vocab, merges, unk_token=end, end_of_word_suffix="</w>"))
    except Exception as error:  # The library raises a bare Exception.
        raise InputError(
            f"{folder}: vocab.json and merges.txt must be a tokenizer's; they are damaged ({error}). Fetch them anew."
        ) from error
    normalizers, parts = library.normalizers, library.pre_tokenizers
    spaces = normalizers.Replace(library.Regex(r"\s+"), " ")
    model.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = parts.Split(library.Regex(_CLIP_PARTS), "removed", invert=True)
    model.pre_tokenizer = parts.Sequence([split, parts.ByteLevel(add_prefix_space=False)])
    pairs = [(token, _id_of(model, token, folder)) for token in (end, start)]
    model.post_processor = library.processors.RobertaProcessing(*pairs, trim_offsets=False, add_prefix_space=False)
    model.add_special_tokens([start, end])
    return model


def _word_pieces(folder: Path, settings: Mapping[str, Any]) -> "tokenizers.Tokenizer | None":
    file = folder / "vocab.txt"
    if not file.exists():
        return None
    library = require("tokenizers", extra="data")
    unknown, start, end = (_token(settings, name) or usual for name, usual in _BERT_TOKENS.items())
    try:
        pieces = library.models.WordPiece(library.models.WordPiece.read_file(str(file)), unk_token=unknown)
    except Exception as error:  # The library raises a bare Exception.
        raise InputError(f"{file} must be a list of tokens; it is damaged ({error}). Fetch it anew.") from error
    model = library.Tokenizer(pieces)
    model.normalizer = library.normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    model.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    model.decoder = library.decoders.WordPiece()
    around = [(token, _id_of(model, token, folder)) for token in (start, end)]
    model.post_processor = library.processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=around)
    _id_of(model, unknown, folder)
    padding, mask = _token(settings, "pad_token") or "[PAD]", _token(settings, "mask_token") or "[MASK]"
    others = [token for token in (padding, mask) if model.token_to_id(token) is not None]
    model.add_special_tokens([unknown, start, end, *others])
    return model


def _unigrams(folder: Path, settings: Mapping[str, Any]) -> "tokenizers.Tokenizer | None":
    file = folder / "spiece.model"
    if not file.exists():
        if (folder / "tokenizer.model").exists():
            raise InputError(f"{folder / 'tokenizer.model'} cannot be read alone. Put tokenizer.json beside it.")
        return None
    library = require("tokenizers", extra="data")
    table = read_unigram(file)
    model = library.Tokenizer(library.models.Unigram(table.pieces, table.unknown_id, byte_fallback=False))
    normalizers = library.normalizers
    characters = [normalizers.Precompiled(table.characters)] if table.characters else []
    ends = [normalizers.Strip(), normalizers.Replace(library.Regex(" {2,}"), " ")]
    model.normalizer = normalizers.Sequence([*characters, *ends])
    model.pre_tokenizer = library.pre_tokenizers.Metaspace(_SPACE, "always")
    model.decoder = library.decoders.Metaspace(_SPACE, "always")
    end = _token(settings, "eos_token") or _SIGLIP_END
    around = [(end, _id_of(model, end, folder))]
    model.post_processor = library.processors.TemplateProcessing(single=f"$A {end}", special_tokens=around)
    unknown = table.pieces[table.unknown_id][0]
    model.add_special_tokens([library.AddedToken(token, lstrip=True, rstrip=True) for token in (unknown, end)])
    return model


_CLIP_TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
_BERT_TOKENS = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_SIGLIP_END, _GEMMA_PADDING = "</s>", "<pad>"
_BUILDERS: dict[TokenizerKind, Callable[[Path, Mapping[str, Any]], "tokenizers.Tokenizer | None"]] = {
    "clip": _byte_pairs,
    "siglip": _unigrams,
    "bert": _word_pieces,
}


def _usual_padding(model: "tokenizers.Tokenizer", kind: TokenizerKind) -> str:
    if kind == "siglip":
        return _SIGLIP_END if type(model.model).__name__ == "Unigram" else _GEMMA_PADDING
    return _CLIP_TOKENS["eos_token"] if kind == "clip" else "[PAD]"


def _canonicalise(model: "tokenizers.Tokenizer", settings: Mapping[str, Any]) -> None:
    """Lower case, and no punctuation for SentencePiece, where the file, like Gemma's, does not see to it itself."""
    normalizers, regex = require("tokenizers", extra="data").normalizers, require("tokenizers", extra="data").Regex
    inner = model.normalizer
    seen = "A." if inner is None else inner.normalize_str("A.")
    added = []
    if "A" in seen and settings.get("do_lower_case", True):
        added.append(normalizers.Lowercase())
    if "." in seen and type(model.model).__name__ == "Unigram":
        # What stands for a space there is none in a text.
        added.append(normalizers.Replace(_SPACE, " "))
        added += [normalizers.Replace(regex(pattern), by) for pattern, by in ((_PUNCTUATION, ""), (r"\s+", " "))]
        added.append(normalizers.Strip())
    if added:
        model.normalizer = normalizers.Sequence([*added, *([] if inner is None else [inner])])


def _id_of(model: "tokenizers.Tokenizer", token: str, folder: Path) -> int:
    number = model.token_to_id(token)
    if number is None:
        raise InputError(f"{folder}: the tokenizer must have the token {token!r}; it has none. Fetch its files anew.")
    return int(number)


def _token(settings: Mapping[str, Any], name: str) -> str | None:
    """A special token by its part, as text or with its flags."""
    token = settings.get(name)
    return token.get("content") if isinstance(token, dict) else token


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be JSON; {error}. Fetch it anew.") from error
    return content if isinstance(content, dict) else {}
