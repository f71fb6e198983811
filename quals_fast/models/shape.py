"""Sizes of the network, which a program that runs exported graphs needs without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

ACTIVATION_NAMES = ("gelu", "gelu_new", "relu")  # `models.bart.ACTIVATIONS` has the functions
FEED_FORWARD_NAMES = ("relu", "gated-gelu")  # `models.t5.FEED_FORWARDS` has the modules


@dataclass(frozen=True, slots=True, kw_only=True)
class BartShape:
    """Sizes of a BART, by the names of the Hugging Face config."""

    family: ClassVar[str] = "bart"

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

    @property
    def head_sizes(self) -> tuple[int, int]:
        """Dimensions of an attention head of encoder and decoder, D."""
        heads = self.encoder_attention_heads, self.decoder_attention_heads
        return self.d_model // heads[0], self.d_model // heads[1]

    @property
    def stored_per_token(self) -> int:
        """Numbers that a search stores of each token: keys and values of all decoder layers."""
        return 2 * self.decoder_layers * self.d_model


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Shape:
    """Sizes of a T5, by the names of the Hugging Face config."""

    family: ClassVar[str] = "t5"
    max_position_embeddings: ClassVar[None] = None  # positions are relative, without an end

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True

    @property
    def head_sizes(self) -> tuple[int, int]:
        """As in `BartShape`."""
        return self.d_kv, self.d_kv

    @property
    def stored_per_token(self) -> int:
        """As in `BartShape`."""
        return 2 * self.num_decoder_layers * self.num_heads * self.d_kv


Shape: TypeAlias = BartShape | T5Shape
