"""The network in training: transformers' own BART, with its loss where there are labels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from quals_fast.batching import pad
from quals_fast.training.encoding import Pair

IGNORED = -100  # label of padding
_LONGEST_EAGER = 100  # tokens of a source


class BartForConditionalGeneration(
    transformers.BartForConditionalGeneration  # type: ignore[misc]
):
    """transformers' own, under its own name, which goes into config.json.

    The LM head sees real target tokens only: of a batch's targets a third is padding, and the
    vocabulary is the largest matrix.
    """

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return ``loss``, the mean over target tokens, ``nats``, its sum, and ``tokens``.

        Args:
            input_ids: sources ``(B, S)``.
            attention_mask: true where a source token stands, ``(B, S)``.
            labels: targets ``(B, T)``, `IGNORED` where there is none.
        """
        if input_ids.device.type == "cpu":
            # On a CPU its backward pass is the faster one, until the matrix S x S is large.
            is_short = input_ids.shape[1] <= _LONGEST_EAGER
            self.config._attn_implementation = "eager" if is_short else "sdpa"
        nats = token_nats(self, input_ids, attention_mask, labels)
        return {
            "loss": nats.mean(),
            "nats": nats.sum(),
            "tokens": torch.tensor(len(nats), device=nats.device),
        }


def token_nats(network: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-probability of every target token, nats, in one row.

    Args:
        network: of transformers' BART.
        input_ids: sources ``(B, S)``.
        attention_mask: where a source token stands, ``(B, S)``.
        labels: targets ``(B, T)``, `IGNORED` where there is none.
    """
    config = network.config
    is_real = labels != IGNORED
    inputs = labels.masked_fill(~is_real, config.pad_token_id).roll(1, 1)
    inputs[:, 0] = config.decoder_start_token_id
    hidden = network.model(
        input_ids=input_ids,
        attention_mask=attention_mask.long(),
        decoder_input_ids=inputs,
        use_cache=False,
    ).last_hidden_state
    logits = nn.functional.linear(hidden[is_real], network.lm_head.weight)
    logits = logits.float() + network.final_logits_bias
    return nn.functional.cross_entropy(logits, labels[is_real], reduction="none")


class Collator:
    """Pads pairs to a batch on the CPU.

    Args:
        pad_token_id: of sources.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """Return what `BartForConditionalGeneration.forward` takes."""
        cpu = torch.device("cpu")
        input_ids, mask = pad([pair.source for pair in pairs], self._pad_token_id, cpu)
        labels, _ = pad([pair.target for pair in pairs], IGNORED, cpu)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
