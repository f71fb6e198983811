"""The graphs, as modules around the torch path's own network: what is traced is what it runs.

All inputs may vary in batch, lengths and rows. Shapes: R rows (distinct histories) of B sentences,
laid out as P places a sentence for attention to sources; T positions of what rows have decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quals_fast.models.bart import POSITION_OFFSET, Bart
from quals_fast.models.memory import SourceMemory
from quals_fast.models.network import Network
from quals_fast.models.t5 import T5

OPSET = 18
MODULES = "pkg.torch.onnx.name_scopes"  # where torch's exporter notes which modules a node is of
SPARE_CANDIDATES = 8  # candidates more than are asked for, where integers screen them
_RECOMPUTED_TOKENS = 24  # likeliest tokens that a screened softmax takes from float32


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a mask is true and almost -inf elsewhere.

    Adding it is faster than choosing by the mask, of which the exporter would also make a test for
    rows that are masked altogether.
    """
    # Half of the lowest number, so that sums with it are finite.
    lowest = torch.full((), torch.finfo(dtype).min / 2, dtype=dtype)
    return torch.where(mask, torch.zeros((), dtype=dtype), lowest)


class EncoderGraph(nn.Module):
    """Sources to the keys and values that every decoder layer attends to.

    Args:
        network: the network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Map ids and mask ``(B, S)`` to keys and values ``(B, H, S, D)``, layer by layer."""
        network = self.network
        # A T5 has a bias of its own, where it puts the mask.
        mask = attention_mask if isinstance(network, T5) else _bias(attention_mask, network.dtype)
        memory = network.encode(input_ids, mask)
        pairs = zip(memory.keys, memory.values, strict=True)
        return [part for pair in pairs for part in pair]


class Head(nn.Module):
    """The LM head as graphs have it: all logits in the network's type, or screened by integers.

    Args:
        network: the network.
        screened: mark the product with all V tokens as one that integers may compute; what is
            found is then computed again in float32, as `models.lm_head.ScreenedLMHead` does.
    """

    def __init__(self, network: Network, *, screened: bool) -> None:
        super().__init__()
        self.weight = network.lm_head_weight
        bias = network.final_logits_bias.float()
        self.bias = bias if bool((bias != 0).any()) else None
        self.screened = screened

    def logits(self, hidden: Tensor) -> Tensor:
        """Return all logits ``(N, V)``, float32."""
        logits = F.linear(hidden, self.weight).float()
        return logits if self.bias is None else logits + self.bias

    def logits_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return the float32 logits ``(N, C)`` of tokens ``(N, C)``."""
        logits = (self.weight[ids].float() @ hidden.float()[:, :, None])[:, :, 0]
        return logits if self.bias is None else logits + self.bias[ids]

    def topk(self, hidden: Tensor, k: int, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities and ids of k tokens ``(N, k)``, and of the targets ``(N,)``."""
        logprobs = self.logits(hidden).log_softmax(-1)
        best, ids = logprobs.topk(k)
        targets = targets[:, None]
        if not self.screened:
            return best, ids, logprobs.gather(-1, targets)[:, 0]
        # Of the rest of V only the sum of probabilities is taken from the integers.
        exact = self.logits_of(hidden, ids)
        shift = exact[:, :1] - best[:, :1]  # about the log-sum-exp
        change = (exact - shift).exp() - best.exp()
        lse = shift + change.sum(1, keepdim=True).log1p()
        return exact - lse, ids, (self.logits_of(hidden, targets) - lse)[:, 0]

    def logprob(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return each row's log-probability of its token: ``(N, d)`` and ``(N,)`` to ``(N,)``."""
        if self.screened:
            return self.topk(hidden, min(_RECOMPUTED_TOKENS, len(self.weight)), targets)[2]
        return self.logits(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


class PastSlots:
    """Rows and what each has decoded; implements `models.slots.Slots`.

    A row attends to itself apart from its past, so its new key need not be stored first.

    Args:
        memory: of the B sources.
        past: keys and values of what the rows have decoded, layer by layer. Shape ``(R, H, T, D)``.
        is_past: which positions they have decoded. Shape ``(T,)``, bool.
        row_of_place: Shape ``(B, P)``, int64.
        place_of_row: Shape ``(R,)``, int64, from 0 to B * P - 1.

    Attributes:
        positions: of `past`, from 0; meaningless where `is_past` is False. Shape ``(T,)``, int64.
        new: keys and values of this step, layer by layer. Shape ``(R, H, D)``.
    """

    def __init__(
        self,
        memory: SourceMemory,
        past: Sequence[Tensor],
        is_past: Tensor,
        row_of_place: Tensor,
        place_of_row: Tensor,
    ) -> None:
        self._memory, self._past = memory, past
        self.positions = is_past.long().cumsum(0) - 1
        dtype = memory.keys[0].dtype
        self._past_bias = _bias(is_past, dtype)  # (T,)
        self._source_bias = _bias(memory.mask, dtype)  # (B, 1, 1, S)
        self._row_of_place, self._place_of_row = row_of_place, place_of_row
        self.new: list[Tensor] = []

    def self_attention(
        self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Attend to a row's past and to itself: ``(R, H, D)`` each, to ``(R, H, D)``.

        The bias is added to the scores of all rows, ``(H, T + 1)``.
        """
        self.new += [k, v]
        q, k, v = (x[:, :, None] for x in (q * q.shape[-1] ** -0.5, k, v))  # (R, H, 1, D)
        keys, values = self._past[2 * layer : 2 * layer + 2]
        past = q @ keys.transpose(2, 3)  # (R, H, 1, T)
        itself = (q * k).sum(-1, keepdim=True)
        if bias is None:
            past = past + self._past_bias
        else:
            past = past + (bias[:, None, :-1] + self._past_bias)
            itself = itself + bias[:, None, -1:]
        weights = torch.cat([past, itself], -1).softmax(-1)
        return (weights[..., :-1] @ values + weights[..., -1:] * v)[:, :, 0]

    def cross_attention(self, layer: int, q: Tensor) -> Tensor:
        """Attend with a sentence's rows as one query each to its source; ``(R, H, D)``."""
        query = (q * q.shape[-1] ** -0.5)[self._row_of_place].transpose(1, 2)  # (B, H, P, D)
        scores = query @ self._memory.keys[layer].transpose(2, 3)  # (B, H, P, S)
        weights = (scores + self._source_bias).softmax(-1)
        out = weights @ self._memory.values[layer]
        return out.transpose(1, 2).flatten(0, 1)[self._place_of_row]


def decode_step(network: Network, token_ids: Tensor, position: Tensor, slots: PastSlots) -> Tensor:
    """`Network.decode_step` with a position ``(1,)`` that is known only when the graph runs."""
    if isinstance(network, T5):
        positions = torch.cat([slots.positions, position])
        bias = network.decoder.position_bias(position, positions)[:, 0]  # (H, T + 1)
        return network.decode_step_with(bias, token_ids, 0, slots)
    assert isinstance(network, Bart)  # there is no other
    stack = network.model.decoder
    x = network.model.shared(token_ids) * network.embedding_scale
    x = stack.layernorm_embedding(x, stack.embed_positions(position + POSITION_OFFSET))
    for index, layer in enumerate(stack.layers):
        x = layer.step(x, 0, index, slots)  # type: ignore[operator]
    return x


class StepGraph(nn.Module):
    """One decoder step of all rows, to candidates.

    Args:
        network: the network.
        screened: as `Head` takes it.
    """

    traced_k = 13  # candidates while tracing; the exporter makes an input of it

    def __init__(self, network: Network, *, screened: bool) -> None:
        super().__init__()
        self.network, self.head = network, Head(network, screened=screened)

    def forward(
        self,
        token_ids: Tensor,  # (R,)
        position: Tensor,  # (1,)
        target_ids: Tensor,  # (R,)
        row_of_place: Tensor,  # (B, P)
        place_of_row: Tensor,  # (R,)
        is_past: Tensor,  # (T,)
        source_mask: Tensor,  # (B, S)
        cross: list[Tensor],  # (B, H, S, D), keys and values layer by layer
        past: list[Tensor],  # (R, H, T, D), likewise
    ) -> list[Tensor]:
        """Return candidates ``(R, k)``, the targets' log-probabilities, and new keys and values."""
        memory = SourceMemory(cross[::2], cross[1::2], source_mask[:, None, None])
        slots = PastSlots(memory, past, is_past, row_of_place, place_of_row)
        x = decode_step(self.network, token_ids, position, slots)
        return [*self.head.topk(x, self.traced_k, target_ids), *slots.new]


class GrowGraph(nn.Module):
    """`HostStore.move_on` for what stays on a device that the host cannot write to."""

    def forward(
        self,
        source: Tensor,  # (R',): the row that each of the next continues
        old: list[Tensor],  # (R, H, T, D), keys and values layer by layer
        new: list[Tensor],  # (R, H, D), likewise
    ) -> list[Tensor]:
        """Return the next rows' keys and values, ``(R', H, T + 1, D)`` each."""
        pairs = zip(old, new, strict=True)
        return [torch.cat([past, one[:, :, None]], 2)[source] for past, one in pairs]


class RescoreGraph(nn.Module):
    """Teacher-forced log-probabilities of given targets.

    Args:
        network: the network.
        screened: as `Head` takes it.
    """

    def __init__(self, network: Network, *, screened: bool) -> None:
        super().__init__()
        self.network, self.head = network, Head(network, screened=screened)

    def forward(
        self,
        decoder_input_ids: Tensor,  # (B, Q, T)
        token_rows: Tensor,  # (M,): which of the B*Q*T positions are real tokens
        labels: Tensor,  # (M,): their targets
        source_mask: Tensor,  # (B, S)
        cross: list[Tensor],  # (B, H, S, D), keys and values layer by layer
    ) -> Tensor:
        """Return the log-probability of each real token, nats. Shape ``(M,)``."""
        bias = _bias(source_mask[:, None, None], self.network.dtype)
        memory = SourceMemory(cross[::2], cross[1::2], bias)
        hidden = self.network.decode_teacher_forced(decoder_input_ids, memory)
        return self.head.logprob(hidden.flatten(0, 2)[token_rows], labels)
