"""The network in training: the BART or T5 of transformers, with a loss on real labels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quals_fast.batching import pad
from quals_fast.training.qagen import attention
from quals_fast.training.qagen.encoding import Pair

IGNORED = -100  # label of padding
_BLOCK_ROWS = 64  # of logits in float32 at a time
_LOWEST = torch.finfo(torch.float32).min


class LossOnTargets:
    """Mixin with the loss.

    The LM head sees only real target tokens: a third of a batch's targets is padding, and the
    vocabulary is the largest matrix.
    """

    label_smoothing = 0.0  # share of a target's weight that is spread over the vocabulary
    config: Any
    lm_head: nn.Linear
    final_logits_bias: Tensor  # (1, V); -inf takes a token out of the vocabulary

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return ``loss``, the mean over target tokens, their ``nats`` and ``tokens``.

        Labels are smoothed in ``loss`` only.

        Args:
            input_ids: sources ``(B, S)``.
            attention_mask: true for source tokens, ``(B, S)``.
            labels: targets ``(B, T)``, `IGNORED` where there is none.
        """
        if self.config.model_type == "bart":
            is_cpu = input_ids.device.type == "cpu"
            self.config._attn_implementation = attention.NAME if is_cpu else "sdpa"
        hidden, targets = target_states(self, input_ids, attention_mask, labels)
        nats = nats_of(self, hidden, targets)
        costs = nats
        if self.label_smoothing:
            costs = nats + self.label_smoothing * self._beyond_target(hidden, targets)
        return {
            "loss": costs.mean(),
            "nats": nats.sum(),
            "tokens": torch.tensor(len(nats), device=nats.device),
        }

    def _beyond_target(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return by how many nats the mean token of the vocabulary is beyond each target ``(N,)``.

        The softmax's sum is in both, so that only logits differ. Masked tokens have no share.
        """
        bias, weight = self.final_logits_bias[0], self.lm_head.weight
        share = bias.isfinite() / bias.isfinite().sum()
        bias = bias.nan_to_num(neginf=0.0)
        difference = weight[targets] - share @ weight
        return (hidden * difference).sum(1) + bias[targets] - share @ bias


class BartForConditionalGeneration(
    LossOnTargets,
    transformers.BartForConditionalGeneration,  # type: ignore[misc]
):
    """The class of transformers, with the same name, which is saved in config.json."""


class T5ForConditionalGeneration(
    LossOnTargets,
    transformers.T5ForConditionalGeneration,  # type: ignore[misc]
):
    """The same for T5; attention is eager, since only that takes the bias of positions anywhere."""


def token_nats(network: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-probability of every target token, in nats, in one row.

    Args:
        network: of transformers' BART.
        input_ids: sources ``(B, S)``.
        attention_mask: where a source token stands, ``(B, S)``.
        labels: targets ``(B, T)``, `IGNORED` where there is none; a row may hold several, each
            ended by EOS, which do not see each other.
    """
    return nats_of(network, *target_states(network, input_ids, attention_mask, labels))


def target_states(
    network: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the last hidden state before every target token ``(N, d)``, and the token ``(N,)``.

    Args:
        network: of transformers' BART or T5.
        input_ids: as for `token_nats`, and so are the others.
        attention_mask: where a source token stands.
        labels: targets.
    """
    config = network.config
    is_real = labels != IGNORED
    place, mask = _targets_apart(labels, config.eos_token_id)
    inputs = labels.masked_fill(~is_real, config.pad_token_id).roll(1, 1)
    inputs = inputs.masked_fill(place == 0, config.decoder_start_token_id)
    if config.model_type == "t5":
        return _t5_states(network, input_ids, attention_mask, inputs, mask)[is_real], labels[
            is_real
        ]
    # The decoder adds the positions of one target that starts at 0.
    positions = network.model.decoder.embed_positions
    added = positions(inputs)
    moved = nn.functional.embedding(place + positions.offset, positions.weight) - added
    embedded = network.model.decoder.embed_tokens(inputs) + moved
    hidden = network.model(
        input_ids=input_ids,
        attention_mask=attention_mask.long(),
        decoder_inputs_embeds=embedded,
        decoder_attention_mask=mask.to(embedded.dtype),
        use_cache=False,
    ).last_hidden_state
    return hidden[is_real], labels[is_real]


def _t5_states(
    network: Any, input_ids: Tensor, attention_mask: Tensor, inputs: Tensor, mask: Tensor
) -> Tensor:
    """Return the decoder's hidden states ``(B, T, d)``, scaled for the LM head.

    T5 knows tokens by their distance, which is the same wherever in a row their target begins.
    """
    is_token = attention_mask.long()
    encoded = network.encoder(input_ids=input_ids, attention_mask=is_token).last_hidden_state
    hidden: Tensor = network.decoder(
        input_ids=inputs,
        attention_mask=mask,
        encoder_hidden_states=encoded,
        encoder_attention_mask=is_token,
        use_cache=False,
    ).last_hidden_state
    config = network.config
    return hidden * config.d_model**-0.5 if config.scale_decoder_outputs else hidden


def nats_of(network: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-probability of each target ``(N,)`` after its hidden state."""
    nats: Tensor = TokenNats.apply(
        hidden, network.lm_head.weight, network.final_logits_bias[0], targets
    )
    return nats


def _targets_apart(labels: Tensor, eos_token_id: int) -> tuple[Tensor, Tensor]:
    """Return each token's place in its own target ``(B, T)``, and the mask that keeps them apart.

    Args:
        labels: one or more targets a row, each ended by EOS, ``(B, T)``.
        eos_token_id: ends a target.

    Returns:
        Places from 0 on, and what to add to attention scores, ``(B, 1, T, T)``: 0 for a token's own
        target up to itself, the least float32 elsewhere.
    """
    ends = labels == eos_token_id
    number = ends.cumsum(1) - ends.long()
    index = torch.arange(labels.shape[1], device=labels.device)
    is_first = torch.ones_like(ends)
    is_first[:, 1:] = ends[:, :-1]
    place = index - torch.where(is_first, index, 0).cummax(1).values
    seen = (number[:, :, None] == number[:, None, :]) & (index[:, None] >= index)
    mask = torch.zeros(seen.shape, device=labels.device).masked_fill_(~seen, _LOWEST)
    return place, mask[:, None]


class TokenNats(torch.autograd.Function):
    """Negative log-probabilities of given tokens; `reference` defines them.

    Logits are kept in the type of the product, bfloat16 under autocast, and become their own
    gradient in the backward pass, block by block in the cache; so there can be one only.
    """

    @staticmethod
    def reference(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """Define what is computed: ``(N, d)``, ``(V, d)``, ``(V,)`` and ``(N,)`` to ``(N,)``."""
        logits = nn.functional.linear(hidden, weight).float() + bias
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of each target, float32."""
        logits = nn.functional.linear(hidden, weight)
        norms = torch.cat(
            [(block.float() + bias).logsumexp(1) for block in logits.split(_BLOCK_ROWS)]
        )
        at = targets[:, None]
        picked = logits.gather(1, at)[:, 0].float() + bias[targets]
        ctx.save_for_backward(hidden, weight, bias, targets, logits, norms)
        return norms - picked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden states and weights."""
        hidden, weight, bias, targets, logits, norms = ctx.saved_tensors
        for first in range(0, len(logits), _BLOCK_ROWS):
            rows = slice(first, first + _BLOCK_ROWS)
            block = (logits[rows].float() + bias).sub_(norms[rows, None]).exp_()
            block.scatter_add_(1, targets[rows, None], block.new_full((len(block), 1), -1.0))
            logits[rows] = block.mul_(gradient[rows, None])
        of_hidden = of_weight = None
        if ctx.needs_input_grad[0]:
            of_hidden = (logits @ weight.to(logits.dtype)).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = (logits.T @ hidden.to(logits.dtype)).to(weight.dtype)
        return of_hidden, of_weight, None, None


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
