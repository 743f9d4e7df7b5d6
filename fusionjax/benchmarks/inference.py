"""The library's inference options as contenders: the same weights, folded or cast once, before anything is timed."""

from typing import Any

import jax

from fusionjax import compress
from fusionjax.benchmarks.captioners import LSTMCaptioner, decode_captions
from fusionjax.benchmarks.jax_framework import Forward, nest
from fusionjax.benchmarks.ours import FusionModel, FusionText, Ours
from fusionjax.benchmarks.workloads import Decode, Fusion, Workload


class Inference(Ours):
    """The library with word vectors folded into the LSTM and, where asked for, its text part in bfloat16.

    Attributes:
        is_narrow: computes what reads and writes words in bfloat16, which is not exact; images stay in float32.
    """

    def __init__(self, is_narrow: bool) -> None:
        super().__init__()
        self.is_narrow = is_narrow

    def forward_of(self, workload: Workload) -> tuple[Forward, Any]:
        """Returns the forward pass and its parameters; see `Framework.build`."""
        if workload.train or workload.dtype != "float32":
            raise NotImplementedError(f"inference options start from a float32 forward pass; got {workload.name}")
        parameters = nest(workload.weights())
        if isinstance(workload, Fusion) and workload.has_text:
            return self._fusion(workload, parameters)
        if isinstance(workload, Decode) and workload.model == "lstm":
            return self._captions(workload, parameters)
        raise NotImplementedError(f"there are no words to fold in {workload.name}")

    def _fusion(self, workload: Fusion, parameters: Any) -> tuple[Forward, Any]:
        text: Any = FusionText(workload.vocab_size, workload.features, is_folded=True)
        lstm, table = _fold(parameters["text"]["lstm"], parameters["text"]["embedding"]["embedding"])
        folded = {"params": {**parameters["text"], "embedding": {"embedding": table}, "lstm": lstm}}
        text, folded = compress.to_bfloat16(text, folded) if self.is_narrow else (text, folded)
        model = FusionModel(workload, text=text)
        parameters = {**parameters, "text": folded["params"]}
        return lambda parameters, inputs: model.apply({"params": parameters}, inputs), parameters

    def _captions(self, workload: Decode, parameters: Any) -> tuple[Forward, Any]:
        model: Any = LSTMCaptioner(workload, is_folded=True)
        lstm = dict(parameters["lstm"])
        gates = lstm.pop("input_gates")
        table = compress.project_embedding(parameters["words"]["embedding"], gates["kernel"], gates["bias"])
        folded = {"params": {**parameters, "words": {"embedding": table}, "lstm": lstm}}
        model, folded = compress.to_bfloat16(model, folded) if self.is_narrow else (model, folded)
        return decode_captions(workload, model.dtype, model), folded["params"]


def _fold(layer: Any, table: jax.Array) -> tuple[Any, jax.Array]:
    """Takes the input kernel and the bias out of a layer's parameters and into the table."""
    rest = {name: array for name, array in layer.items() if name not in ("input_kernel", "bias")}
    return rest, compress.project_embedding(table, layer["input_kernel"], layer["bias"])
