"""Floating-point operations of a run, so that its time on a device can be told beforehand."""

from __future__ import annotations

from typing import Any

_FLOPS_PER_WEIGHT = 6  # a multiply-add forward and two backward, for each token that a weight meets


def training_flops(config: Any, source_tokens: int, target_tokens: int) -> float:
    """Return the FLOPs of the matrix products with weights; attention's own are left out.

    Those are under a tenth for sources of up to 1,024 tokens.

    Args:
        config: of a BART.
        source_tokens: of all examples of the run, without padding.
        target_tokens: the same.
    """
    square = config.d_model**2
    encoder = 4 * square + 2 * config.d_model * config.encoder_ffn_dim
    decoder = 6 * square + 2 * config.d_model * config.decoder_ffn_dim
    of_sources = config.encoder_layers * encoder + config.decoder_layers * 2 * square
    of_targets = config.decoder_layers * decoder + config.vocab_size * config.d_model
    return float(_FLOPS_PER_WEIGHT * (of_sources * source_tokens + of_targets * target_tokens))
