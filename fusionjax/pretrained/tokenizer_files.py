"""The tokenizer that lies beside published weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fusionjax._extras import require
from fusionjax.errors import InputError

if TYPE_CHECKING:
    import tokenizers


_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_tokenizer(folder: str | Path) -> "tokenizers.Tokenizer":
    """Reads a tokenizer: `tokenizer.json` of any kind, or BERT's `vocab.txt` of word pieces, one a line.

    Args:
        folder: of the weights.

    Returns:
        The tokenizer, which neither pads nor cuts a text; that of a `vocab.txt` puts no special tokens around it.

    Raises:
        InputError: neither file is there, or it is damaged.
    """
    library = require("tokenizers", extra="data")
    whole, pieces = Path(folder) / "tokenizer.json", Path(folder) / "vocab.txt"
    try:
        if whole.exists():
            tokenizer = library.Tokenizer.from_file(str(whole))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
        if pieces.exists():
            return _word_pieces(pieces)
    except Exception as error:  # The library raises a bare Exception.
        path = whole if whole.exists() else pieces
        raise InputError(f"{path} must be a tokenizer; {error}. Fetch it anew.") from error
    raise InputError(
        f"{folder} must hold the tokenizer of the weights, tokenizer.json or vocab.txt; there is none. Fetch it from "
        "where the weights come from."
    )


def _word_pieces(path: Path) -> "tokenizers.Tokenizer":
    library = require("tokenizers", extra="data")
    settings = path.with_name("tokenizer_config.json")
    is_lower_case = not settings.exists() or json.loads(settings.read_text("utf-8")).get("do_lower_case", True)
    vocabulary = library.models.WordPiece.read_file(str(path))
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens([token for token in _SPECIAL_TOKENS if token in vocabulary])
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=is_lower_case)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer
