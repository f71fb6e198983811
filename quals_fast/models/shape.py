"""Sizes of the network, which a program that runs exported graphs needs without torch."""

from __future__ import annotations

from dataclasses import dataclass

ACTIVATION_NAMES = ("gelu", "gelu_new", "relu")  # `models.bart.ACTIVATIONS` has the functions


@dataclass(frozen=True, slots=True, kw_only=True)
class BartShape:
    """Sizes of the network, by the names of the Hugging Face config."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int
    activation_function: str = "gelu"
    scale_embedding: bool = False
