"""Export all of QUALS as one ONNX file, for programs that have ONNX Runtime and nothing else."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from onnxscript import BOOL, FLOAT, INT64, graph, script, values
from onnxscript import opset18 as op

from quals_fast.export import single_graph


@script(values.Opset("quals_fast", 1), default_opset=op)
def choose_in_turn(
    count: FLOAT,
    logprobs: FLOAT,
    token_ids: INT64,
    beam_scores: FLOAT,
    active: BOOL,
    penalty: float,
    n_chosen: int,
    n_counted: int,
    uncounted: int,
) -> tuple[FLOAT, INT64, INT64]:
    """`single_graph.choose_in_turn`."""
    strength = op.Constant(value_float=penalty)
    k = op.Reshape(op.Constant(value_int=n_chosen), [-1])
    room = op.Constant(value_int=n_counted)
    never = op.Constant(value_int=uncounted)

    @graph()
    def turn(count, logprobs, token_ids, beam_scores, active):  # noqa: ANN001, ANN202 - onnxscript
        used = op.GatherElements(count, token_ids, axis=1)
        scores, places = op.TopK(logprobs - strength * used + beam_scores, k, axis=1)
        tokens = op.GatherElements(token_ids, places, axis=1)
        # What has no probability may be counted or not: it never comes first anywhere.
        may_count = op.Not(op.Or(op.Equal(tokens, never), op.IsInf(scores)))
        rank = op.CumSum(op.Cast(may_count, to=INT64.dtype), 1)
        uses = op.Cast(op.And(op.And(may_count, rank <= room), active), to=FLOAT.dtype)
        after = op.ScatterElements(count, tokens, uses, axis=1, reduction="add")
        return after, scores, tokens, places

    _, scores, tokens, places = op.Scan(
        count, logprobs, token_ids, beam_scores, active, body=turn, num_scan_inputs=4
    )
    return scores, tokens, places


def _stable_sort(x: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """`aten.sort.stable`, which the exporter lacks: of equals, ONNX's TopK keeps the order."""
    if x.dtype == ir.DataType.BOOL:
        x = op.Cast(x, to=ir.DataType.INT64)
    size = op.Shape(x, start=dim, end=None if dim == -1 else dim + 1)
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS = {
    torch.ops.quals_fast.choose_in_turn.default: choose_in_turn,
    torch.ops.aten.sort.stable: _stable_sort,
}
