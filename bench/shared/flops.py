"""FLOPs that an arm really executes: matrix products and attention, as torch sees them.

Other than bench/floor.py, which counts the least work that gives the scores. Padding and what is
thrown away count here. On a CPU in float32 only: other types run operations that hide their work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from bench.shared.arms import Arm
from bench.shared.common import Pair, texts_of


def count_flops(arm: Arm, pairs: Sequence[Pair]) -> float:
    """Let an arm score rows; return the FLOPs of it, two a multiply-add."""
    counted = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.mkldnn._linear_pointwise: _linear,
    }
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        arm.score(*texts_of(pairs))
    return float(counter.get_total_flops())


def flops_at_width(counted: Mapping[int, float], width: int) -> float:
    """Return the FLOPs of a transformer at one width from those counted at two others.

    With the same layers, texts and steps, and feed-forward units that grow with the width d, they
    are a d^2 + b d: linear layers, and attention with the vocabulary.

    Args:
        counted: FLOPs at two widths.
        width: that is asked for.
    """
    (one, flops), (other, more) = counted.items()
    a = (more / other - flops / one) / (other - one)
    b = flops / one - a * one
    return a * width**2 + b * width


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops


def _linear(x: Any, weight: Any, *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(x) * out_shape[-1]  # the packed weight's own shape tells nothing
