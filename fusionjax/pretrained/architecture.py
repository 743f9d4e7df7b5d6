"""What the library knows of a published architecture under the names of one library."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from fusionjax.data import TokenizerKind
from fusionjax.pretrained.preparation import ImagePreparation
from fusionjax.pretrained.rows import Row, Shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionTokens:
    """How a captioner was taught to begin and to end.

    Attributes:
        start: the token that is read before the first word.
        end: the token that ends a caption.
        max_length: tokens that can be read at most, the start and a prompt included.
    """

    start: int
    end: int
    max_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family of models under the names of one library, such as ResNets as torchvision has them.

    Attributes:
        name: to ask for it by, such as `"resnet-torchvision"`.
        recognise: takes the shapes of the tensors by name, and the `config.json` beside them (empty where there is
            none), and returns the sizes of the model, a frozen dataclass; None where it is another architecture.
        build: makes the model of its sizes, without parameters; the same function for the names of other libraries.
        rows: of the table.
        example: arguments of the model's `init`.
        is_ignored: whether a tensor that no row names may be there, such as a counter of batches.
        preparation: of photographs; None for a model that takes none.
        tokenizer: kind of the tokenizer; None for a model that reads no text. Its sizes then have `vocab_size` and
            `max_length`.
        caption_tokens: with which it writes; None for a model that writes nothing.
        copies: tensors that only repeat another, by name: files may hold them too, or in place of the other.
        hub_config: the `config.json` with which the other library loads what we save; None where it has none.
    """

    name: str
    recognise: Callable[[Shapes, Mapping[str, Any]], Any | None]
    build: Callable[[Any], nn.Module]
    rows: Callable[[Any], Sequence[Row]]
    example: Callable[[Any], Sequence[Any]]
    is_ignored: Callable[[str], bool] = lambda name: False
    preparation: Callable[[Any], ImagePreparation | None] = lambda sizes: None
    tokenizer: TokenizerKind | None = None
    caption_tokens: Callable[[Any], CaptionTokens | None] = lambda sizes: None
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    hub_config: Callable[[Any], Mapping[str, Any]] | None = None
