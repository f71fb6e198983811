"""What `torch.onnx.export` cannot translate by itself, in ONNX operators; needs onnxscript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import BOOL, FLOAT, INT64, graph, opset18, script, values

import quals_fast.export.loop_parts  # noqa: F401 - registers quals_fast::choose_in_turn

op: Any = opset18  # its annotations do not fit its own scripts


@script(values.Opset("quals_fast", 1), default_opset=op)
def _choose_in_turn(
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
    """`loop_parts.choose_in_turn`: a Scan over the groups that hands on the counts."""
    strength = op.Constant(value_float=penalty)
    k = op.Reshape(op.Constant(value_int=n_chosen), [-1])
    room = op.Constant(value_int=n_counted)
    never = op.Constant(value_int=uncounted)

    @graph()
    def turn(count, logprobs, token_ids, beam_scores, active):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - onnxscript takes no annotations here
        uses = op.GatherElements(count, token_ids, axis=1)
        # Of equals, TopK takes the first: the lowest (row, token).
        scores, places = op.TopK(logprobs - strength * uses + beam_scores, k, axis=1)
        tokens = op.GatherElements(token_ids, places, axis=1)
        # What has no probability need not be counted: it has none for later groups either.
        counts = op.Not(op.Or(op.Equal(tokens, never), op.IsInf(scores)))
        rank = op.CumSum(op.Cast(counts, to=7), 1)
        new_uses = op.Cast(op.And(op.And(counts, rank <= room), active), to=1)
        count = op.ScatterElements(count, tokens, new_uses, axis=1, reduction="add")
        return count, scores, tokens, places

    _, scores, tokens, places = op.Scan(
        count, logprobs, token_ids, beam_scores, active, body=turn, num_scan_inputs=4
    )
    return scores, tokens, places


def _sort_stable(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Of equals, TopK keeps the order."""
    if x.dtype == ir.DataType.BOOL:
        x = op.Cast(x, to=int(ir.DataType.INT64))
    size = op.Shape(x, start=dim, end=None if dim == -1 else dim + 1)
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.quals_fast.choose_in_turn.default: _choose_in_turn,
    torch.ops.aten.sort.stable: _sort_stable,
}
