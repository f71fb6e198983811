"""What every network offers: `models.bart` and `models.t5` implement it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import Slots
from quals_fast.models.targets import PackedTargets
from quals_fast.ops import Kernels


class Network(nn.Module, ABC):
    """An encoder and a decoder over one token embedding, without the LM head.

    Args:
        vocab_size: V.

    Attributes:
        final_logits_bias: held for the LM head; -inf takes a token out of the vocabulary. Shape
            ``(V,)``.
    """

    final_logits_bias: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("final_logits_bias", torch.zeros(vocab_size))

    @property
    @abstractmethod
    def embedding(self) -> nn.Embedding:
        """The tokens' embedding, which encoder and decoder share."""

    @property
    def lm_head_weight(self) -> Tensor:
        """Weight of the LM head, ``(V, d)``: the embedding's unless the network has another."""
        return self.embedding.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.embedding.weight.dtype

    @abstractmethod
    def run_by(self, kernels: Kernels) -> None:
        """Let kernels for a GPU compute, and one product make query, key and value.

        For inference, when the weights are where they stay.
        """

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> SourceMemory:
        """Encode sources and project them for every decoder layer, once.

        Args:
            input_ids: Shape ``(B, S)``, int64.
            attention_mask: True for tokens. Shape ``(B, S)``, bool.
        """
        return self.project(self.encode_hidden(input_ids, attention_mask), attention_mask)

    @abstractmethod
    def encode_hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the encoder's last hidden states ``(B, S, d)``; arguments as for `encode`."""

    @abstractmethod
    def project(self, hidden: Tensor, attention_mask: Tensor) -> SourceMemory:
        """Project hidden states ``(B, S, d)`` to keys and values of every decoder layer."""

    @abstractmethod
    def decode_step(self, token_ids: Tensor, t: int, slots: Slots) -> Tensor:
        """Decode one token of each row.

        Args:
            token_ids: the token at position `t`. Shape ``(R,)``, int64.
            t: position, from 0.
            slots: what the rows have decoded so far, and their sources; position `t` is added.

        Returns:
            Hidden states for the LM head. Shape ``(R, d)``.
        """

    @abstractmethod
    def decode_teacher_forced(self, decoder_input_ids: Tensor, memory: SourceMemory) -> Tensor:
        """Decode given targets of each source, all positions at once.

        Args:
            decoder_input_ids: Q targets a source. Shape ``(B, Q, T)``, int64; padded at the end.
            memory: of the B sources.

        Returns:
            Hidden states for the LM head. Shape ``(B, Q, T, d)``.
        """

    @abstractmethod
    def decode_packed(self, targets: PackedTargets, source: Tensor, source_mask: Tensor) -> Tensor:
        """Decode packed targets of B sources, all positions at once.

        Keys and values of a source are made layer by layer, since each is used once.

        Args:
            targets: of R rows.
            source: hidden states from `encode_hidden`. Shape ``(B, S, d)``.
            source_mask: True for source tokens. Shape ``(B, S)``.

        Returns:
            Hidden states for the LM head. Shape ``(R, d)``.
        """
