"""T5: an encoder and a decoder whose self-attention knows the distance between two tokens.

Parameters carry the names of Hugging Face's `T5ForConditionalGeneration`, so its checkpoints load
as they are. Sources: arXiv 1910.10683 (pre-norm transformer, relative positions, scores that are
not scaled), arXiv 2002.05202 (the gated feed-forward of T5 1.1 and FLAN-T5).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quals_fast.models.memory import SourceMemory
from quals_fast.models.network import Network
from quals_fast.models.shape import T5Shape
from quals_fast.models.slots import Slots
from quals_fast.models.targets import PackedTargets
from quals_fast.ops import EAGER, Kernels

# An old name in some checkpoints; transformers ignores it as well.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


class RMSNorm(nn.Module):
    """Divides by the root mean square, in float32; returns the type of the weights."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.eps = shape.layer_norm_epsilon
        self.weight = nn.Parameter(torch.ones(shape.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., d)`` float32, to the same shape."""
        normed = F.rms_norm(x, self.weight.shape, eps=self.eps)
        return normed.to(self.weight.dtype) * self.weight


class Attention(nn.Module):
    """Multi-head attention; the caller says where keys and values come from."""

    qkv_weight: Tensor | None

    def __init__(self, shape: T5Shape, *, has_positions: bool = False) -> None:
        super().__init__()
        self.source_attention = EAGER.source_attention
        self.register_buffer("qkv_weight", None, persistent=False)
        width = shape.num_heads * shape.d_kv
        self.heads, self.scale = shape.num_heads, shape.d_kv**0.5
        self.q = nn.Linear(shape.d_model, width, bias=False)
        self.k = nn.Linear(shape.d_model, width, bias=False)
        self.v = nn.Linear(shape.d_model, width, bias=False)
        self.o = nn.Linear(width, shape.d_model, bias=False)
        if has_positions:
            buckets = shape.relative_attention_num_buckets
            self.relative_attention_bias = nn.Embedding(buckets, shape.num_heads)

    def split(self, x: Tensor) -> Tensor:
        """Split the last dimension into heads: ``(..., H * D)`` to ``(..., H, D)``."""
        return x.unflatten(-1, (self.heads, -1))

    def query(self, x: Tensor) -> Tensor:
        """Return the query ``(..., H, D)`` of ``(..., d)``.

        T5 does not divide scores by sqrt(D), but what computes attention does: so they cancel out.
        """
        query = self.q(x)
        return self.split(query if self.scale == 1.0 else query * self.scale)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query, key and value of ``(..., d)``, each ``(..., H, D)``."""
        if self.qkv_weight is None:
            return self.query(x), self.split(self.k(x)), self.split(self.v(x))
        q, k, v = map(self.split, F.linear(x, self.qkv_weight).chunk(3, -1))
        return q, k, v

    def scale_weights(self) -> None:
        """Let the query's weight do the scaling."""
        self.q.weight = nn.Parameter(self.q.weight * self.scale, requires_grad=False)
        self.scale = 1.0

    def join_projections(self) -> None:
        """Let one product make query, key and value; the three weights become views of its own."""
        self.scale_weights()
        layers = self.q, self.k, self.v
        self.qkv_weight = torch.cat([layer.weight.detach() for layer in layers])
        for layer, weight in zip(layers, self.qkv_weight.chunk(3), strict=True):
            layer.weight = nn.Parameter(weight, requires_grad=False)

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each ``(B, H, S, D)``, of ``(B, S, d)``."""
        return self.split(self.k(x)).transpose(1, 2), self.split(self.v(x)).transpose(1, 2)


class SelfAttentionLayer(nn.Module):
    """Norm and self-attention, added to what comes in."""

    def __init__(self, shape: T5Shape, *, has_positions: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(shape, has_positions=has_positions)
        self.layer_norm = RMSNorm(shape)

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        """Let the N tokens of a row attend to each other.

        Args:
            x: Shape ``(B, N, d)``.
            mask: True for tokens, ``(B, 1, 1, N)``; or what to add to the scores, ``(B, H, N, N)``
                or 1 for B.
            bias: what to add to the scores by distance, ``(H, 2 * N - 1)``; None for nothing.

        Returns:
            The same shape as `x`.
        """
        attn = self.SelfAttention
        q, k, v = attn.query_key_value(self.layer_norm(x))
        out = attn.source_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask, bias)
        return x + attn.o(out.flatten(2))

    def step(self, x: Tensor, t: int, layer: int, slots: Slots, bias: Tensor) -> Tensor:
        """Attend from position `t` of all rows: ``(R, d)`` to ``(R, d)``; bias ``(H, t + 1)``."""
        attn = self.SelfAttention
        q, k, v = attn.query_key_value(self.layer_norm(x))
        return x + attn.o(slots.self_attention(layer, t, q, k, v, bias).flatten(1))

    def packed(self, x: Tensor, targets: PackedTargets, bias: Tensor) -> Tensor:
        """Attend within packed targets, ``(R, d)`` to the same; bias ``(B, H, M, M)``."""
        attn = self.SelfAttention
        q, k, v = map(targets.to_slots, attn.query_key_value(self.layer_norm(x)))
        out = attn.source_attention(q, k.transpose(1, 2), v.transpose(1, 2), bias)
        return x + attn.o(targets.to_rows(out).flatten(1))


class CrossAttentionLayer(nn.Module):
    """Norm and attention to the source, added to what comes in."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.EncDecAttention = Attention(shape)
        self.layer_norm = RMSNorm(shape)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attend with N queries of each source, ``(B, N, d)`` to the same."""
        attn = self.EncDecAttention
        out = attn.source_attention(attn.query(self.layer_norm(x)), keys, values, mask)
        return x + attn.o(out.flatten(2))

    def step(self, x: Tensor, layer: int, slots: Slots) -> Tensor:
        """Attend with all rows to their sources: ``(R, d)`` to ``(R, d)``."""
        attn = self.EncDecAttention
        out = slots.cross_attention(layer, attn.query(self.layer_norm(x)))
        return x + attn.o(out.flatten(1))

    def packed(self, x: Tensor, targets: PackedTargets, source: Tensor, mask: Tensor) -> Tensor:
        """Attend from packed targets to hidden states ``(B, S, d)``: ``(R, d)`` to the same."""
        attn = self.EncDecAttention
        q = targets.to_slots(attn.query(self.layer_norm(x)))
        out = attn.source_attention(q, *attn.key_value(source), mask)
        return x + attn.o(targets.to_rows(out).flatten(1))


class ReluFeedForward(nn.Module):
    """Two linear layers with a ReLU between them, as in T5 1.0."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.wi = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.wo = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., d)`` to ``(..., d)``."""
        out: Tensor = self.wo(F.relu(self.wi(x)))
        return out


class GatedFeedForward(nn.Module):
    """A linear layer of a product with GELUs, as in T5 1.1."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.wi_1 = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.wo = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., d)`` to ``(..., d)``."""
        out: Tensor = self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return out


FEED_FORWARDS = {"relu": ReluFeedForward, "gated-gelu": GatedFeedForward}


class FeedForwardLayer(nn.Module):
    """Norm and feed-forward, added to what comes in."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.DenseReluDense = FEED_FORWARDS[shape.feed_forward_proj](shape)
        self.layer_norm = RMSNorm(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., d)`` to ``(..., d)``."""
        return x + self.DenseReluDense(self.layer_norm(x))


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, shape: T5Shape, *, has_positions: bool) -> None:
        super().__init__()
        attend = SelfAttentionLayer(shape, has_positions=has_positions)
        self.layer = nn.ModuleList([attend, FeedForwardLayer(shape)])

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Map ``(B, S, d)`` to ``(B, S, d)``; mask and bias as for `SelfAttentionLayer`."""
        attend, feed_forward = self.layer
        out: Tensor = feed_forward(attend(x, mask, bias))
        return out


class DecoderBlock(nn.Module):
    """Self-attention, attention to the source and feed-forward."""

    def __init__(self, shape: T5Shape, *, has_positions: bool) -> None:
        super().__init__()
        attend = SelfAttentionLayer(shape, has_positions=has_positions)
        self.layer = nn.ModuleList([attend, CrossAttentionLayer(shape), FeedForwardLayer(shape)])

    def step(self, x: Tensor, t: int, layer: int, slots: Slots, bias: Tensor) -> Tensor:
        """Decode position `t` of all rows: ``(R, d)`` to ``(R, d)``; bias ``(H, t + 1)``."""
        attend, cross, feed_forward = self.layer
        x = attend.step(x, t, layer, slots, bias)  # type: ignore[operator]
        x = cross.step(x, layer, slots)  # type: ignore[operator]
        out: Tensor = feed_forward(x)
        return out

    def teacher_forced(self, x: Tensor, layer: int, memory: SourceMemory, bias: Tensor) -> Tensor:
        """Decode all positions of Q targets a source at once: ``(B, Q, T, d)`` to the same."""
        attend, cross, feed_forward = self.layer
        attended = attend(x.flatten(0, 1), bias).view_as(x)  # of (B*Q, T, d)
        # Every target and position is one more query to the source that its row stands for.
        source = memory.keys[layer], memory.values[layer], memory.mask
        out: Tensor = feed_forward(cross(attended.flatten(1, 2), *source)).view_as(x)
        return out

    def packed(
        self, x: Tensor, targets: PackedTargets, bias: Tensor, source: Tensor, mask: Tensor
    ) -> Tensor:
        """Decode packed targets, ``(R, d)`` to the same.

        Args:
            x: rows.
            targets: how they are packed.
            bias: what to add to the scores between slots. Shape ``(B, H, M, M)``.
            source: as for `T5.decode_packed`.
            mask: of the source. Shape ``(B, 1, 1, S)``, bool.
        """
        attend, cross, feed_forward = self.layer
        x = attend.packed(x, targets, bias)  # type: ignore[operator]
        x = cross.packed(x, targets, source, mask)  # type: ignore[operator]
        out: Tensor = feed_forward(x)
        return out


class Stack(nn.Module):
    """The blocks, the first of which knows positions for all, and the last norm."""

    buckets: Tensor  # of distances from -max_distance to max_distance

    def __init__(
        self, shape: T5Shape, block: type[EncoderBlock | DecoderBlock], number: int
    ) -> None:
        super().__init__()
        self.max_distance = shape.relative_attention_max_distance
        buckets = relative_buckets(
            # On the CPU, even if weights are on no device yet: they come later, this does not.
            torch.arange(-self.max_distance, self.max_distance + 1, device="cpu"),
            shape.relative_attention_num_buckets,
            self.max_distance,
            is_causal=block is DecoderBlock,
        )
        self.register_buffer("buckets", buckets, persistent=False)
        self.block = nn.ModuleList(block(shape, has_positions=i == 0) for i in range(number))
        self.final_layer_norm = RMSNorm(shape)

    def position_bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return what to add to the scores between tokens at these positions.

        Buckets are looked up, so they do not depend on the logarithm of what runs an exported
        graph.

        Args:
            queries: Shape ``(..., N)``, int64.
            keys: Shape ``(..., S)``, int64.

        Returns:
            Shape ``(..., H, N, S)``.
        """
        relative = keys[..., None, :] - queries[..., None]
        # Beyond the largest distance, all share one bucket.
        near = relative.clamp(-self.max_distance, self.max_distance)
        buckets = self.buckets[near + self.max_distance]
        table: nn.Embedding = self.block[0].layer[0].SelfAttention.relative_attention_bias  # type: ignore[union-attr,index]
        of_heads: Tensor = table(buckets)  # (..., N, S, H)
        return of_heads.movedim(-1, -3).contiguous()


def relative_buckets(
    relative: Tensor, buckets: int, max_distance: int, *, is_causal: bool
) -> Tensor:
    """Return the bucket of each relative position: own ones nearby, logarithmic ones farther off.

    Args:
        relative: position of the key minus that of the query, int64.
        buckets: how many there are.
        max_distance: from here on all positions share the last bucket.
        is_causal: keys behind the query do not occur; else they have the second half of the
            buckets.

    Returns:
        The same shape, int64.
    """
    if is_causal:
        first = torch.zeros_like(relative)
        distance = -relative.clamp(max=0)
    else:
        buckets //= 2
        first = (relative > 0) * buckets
        distance = relative.abs()
    exact = buckets // 2
    # In float32 and in this order, since rounding decides at the edges of buckets.
    ratio = torch.log(distance.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, far)


class T5(Network):
    """T5's two stacks; its LM head is `models.lm_head`.

    What the blocks add up stays in float32 whatever the type of the weights, since it grows from
    block to block and is never normalised itself.

    Args:
        shape: sizes.
    """

    def __init__(self, shape: T5Shape) -> None:
        super().__init__(shape.vocab_size)
        self.shape = shape
        self.shared = nn.Embedding(shape.vocab_size, shape.d_model)
        self.encoder = Stack(shape, EncoderBlock, shape.num_layers)
        self.decoder = Stack(shape, DecoderBlock, shape.num_decoder_layers)
        self.adds_by_distance = False  # whether the kernels add the encoder's bias themselves
        self.output_scale = 1.0
        if shape.tie_word_embeddings:
            self.output_scale = shape.d_model**-0.5
        else:
            # It only holds the weight: to the network it is no layer.
            self.lm_head = nn.Embedding(shape.vocab_size, shape.d_model)

    @property
    def embedding(self) -> nn.Embedding:
        """As in `Network`."""
        return self.shared

    @property
    def lm_head_weight(self) -> Tensor:
        """As in `Network`."""
        return self.shared.weight if self.shape.tie_word_embeddings else self.lm_head.weight

    def run_by(self, kernels: Kernels) -> None:
        """As in `Network`."""
        self.adds_by_distance = kernels.name == "triton"
        for module in self.modules():
            if isinstance(module, SelfAttentionLayer):
                module.SelfAttention.join_projections()
            elif isinstance(module, CrossAttentionLayer):
                module.EncDecAttention.scale_weights()
                module.EncDecAttention.source_attention = kernels.source_attention
        for block in self.encoder.block:
            block.layer[0].SelfAttention.source_attention = kernels.source_attention  # type: ignore[union-attr,index]

    def encode_hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As in `Network`."""
        size = input_ids.shape[1]
        positions = torch.arange(size, device=self.device)
        mask, by_distance = attention_mask[:, None, None], None
        if self.adds_by_distance:
            distances = torch.arange(1 - size, size, device=self.device)
            by_distance = self.encoder.position_bias(positions[:1], distances)[:, 0]
        else:  # laid out once for all blocks, (B, H, S, S)
            bias = self.encoder.position_bias(positions, positions)
            mask = torch.where(mask, bias, -torch.inf)
        x = self._embed(input_ids)
        for block in self.encoder.block:
            x = block(x, mask, by_distance)
        hidden: Tensor = self.encoder.final_layer_norm(x)
        return hidden

    def project(self, hidden: Tensor, attention_mask: Tensor) -> SourceMemory:
        """As in `Network`."""
        pairs = [block.layer[1].EncDecAttention.key_value(hidden) for block in self.decoder.block]  # type: ignore[union-attr,index]
        mask = attention_mask[:, None, None, :]
        return SourceMemory([k for k, _ in pairs], [v for _, v in pairs], mask)

    def decode_step(self, token_ids: Tensor, t: int, slots: Slots) -> Tensor:
        """As in `Network`."""
        positions = torch.arange(t + 1, device=self.device)
        bias = self.decoder.position_bias(positions[t:], positions)[:, 0]  # (H, t + 1)
        return self.decode_step_with(bias, token_ids, t, slots)

    def decode_step_with(self, bias: Tensor, token_ids: Tensor, t: int, slots: Slots) -> Tensor:
        """Take a `decode_step` with what is added to the scores of the slots' positions, (H, N)."""
        x = self._embed(token_ids)
        for index, block in enumerate(self.decoder.block):
            x = block.step(x, t, index, slots, bias)  # type: ignore[operator]
        return self._finish(x)

    def decode_teacher_forced(self, decoder_input_ids: Tensor, memory: SourceMemory) -> Tensor:
        """As in `Network`."""
        positions = torch.arange(decoder_input_ids.shape[-1], device=self.device)
        bias = self.decoder.position_bias(positions, positions)
        bias = bias.masked_fill(positions > positions[:, None], -torch.inf)[None]  # (1, H, T, T)
        x = self._embed(decoder_input_ids)
        for index, block in enumerate(self.decoder.block):
            x = block.teacher_forced(x, index, memory, bias)  # type: ignore[operator]
        return self._finish(x)

    def decode_packed(self, targets: PackedTargets, source: Tensor, source_mask: Tensor) -> Tensor:
        """As in `Network`."""
        # Two tokens of one target are as many slots apart as positions.
        slots = torch.arange(targets.row_of_slot.shape[1], device=self.device)
        bias = self.decoder.position_bias(slots, slots)  # (H, M, M)
        bias = torch.where(targets.sees, bias, -torch.inf)  # (B, H, M, M)
        mask = source_mask[:, None, None]
        x = self._embed(targets.input_ids)
        for block in self.decoder.block:
            x = block.packed(x, targets, bias, source, mask)  # type: ignore[operator]
        return self._finish(x)

    def _embed(self, token_ids: Tensor) -> Tensor:
        """Embed ``(...)`` tokens, ``(..., d)`` in float32."""
        embedded: Tensor = self.shared(token_ids)
        return embedded.float()

    def _finish(self, x: Tensor) -> Tensor:
        """Return hidden states for the LM head, ``(..., d)``, of what the blocks added up."""
        hidden: Tensor = self.decoder.final_layer_norm(x)
        return hidden * self.output_scale
