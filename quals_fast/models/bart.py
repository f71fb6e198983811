"""BART: an encoder, and a decoder whose slots and targets share one set of source keys and values.

Parameters carry the names of Hugging Face's `BartForConditionalGeneration`, so its checkpoints
load as they are. Source: arXiv 1910.13461 (post-norm transformer, learned positions offset by 2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quals_fast.models.memory import SourceMemory
from quals_fast.models.network import Network
from quals_fast.models.shape import BartShape
from quals_fast.models.slots import Slots
from quals_fast.models.targets import PackedTargets
from quals_fast.ops import EAGER, Kernels

POSITION_OFFSET = 2  # BART's position table starts with two rows that are never used
MAX_FUSED_ROWS = 4096  # of a product with its GELU: the beams of 64 summaries, not their documents

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class AddNorm(nn.LayerNorm):
    """LayerNorm of a residual sum."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.add_layer_norm = EAGER.add_layer_norm

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """Add and normalise: ``(..., d)`` each, to ``(..., d)``."""
        return self.add_layer_norm(x, residual, self.weight, self.bias, self.eps)


class LinearGelu(nn.Module):
    """GELU of a linear layer, whose parameters it takes over."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.linear_gelu = EAGER.linear_gelu

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        is_half = x.dtype in (torch.float16, torch.bfloat16)
        is_fused = is_half and x.shape[:-1].numel() <= MAX_FUSED_ROWS
        run = self.linear_gelu if is_fused else EAGER.linear_gelu
        return run(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head attention; the caller says where keys and values come from."""

    qkv_weight: Tensor | None
    qkv_bias: Tensor | None

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.source_attention = EAGER.source_attention
        self.register_buffer("qkv_weight", None, persistent=False)
        self.register_buffer("qkv_bias", None, persistent=False)
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def split(self, x: Tensor) -> Tensor:
        """Split the last dimension into heads: ``(..., d)`` to ``(..., H, D)``."""
        return x.unflatten(-1, (self.heads, -1))

    def join_projections(self) -> None:
        """Let one product make query, key and value; the three weights become views of its own.

        For inference, when the weights are where they stay.
        """
        layers = self.q_proj, self.k_proj, self.v_proj
        self.qkv_weight = torch.cat([layer.weight.detach() for layer in layers])
        self.qkv_bias = torch.cat([layer.bias.detach() for layer in layers])
        parts = zip(layers, self.qkv_weight.chunk(3), self.qkv_bias.chunk(3), strict=True)
        for layer, weight, bias in parts:
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.bias = nn.Parameter(bias, requires_grad=False)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the query, key and value of ``(..., d)``, each ``(..., H, D)``."""
        if self.qkv_weight is None:
            return tuple(self.split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return tuple(map(self.split, F.linear(x, self.qkv_weight, self.qkv_bias).chunk(3, -1)))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each ``(B, H, S, D)``, of ``(B, S, d)``."""
        return self.split(self.k_proj(x)).transpose(1, 2), self.split(self.v_proj(x)).transpose(
            1, 2
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Let the unmasked tokens of ``(B, S, d)`` attend to each other; keeps the shape."""
        q, k, v = self.query_key_value(x)
        out = self.source_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)
        projected: Tensor = self.out_proj(out.flatten(2))
        return projected

    def causal(self, x: Tensor) -> Tensor:
        """Let the positions of ``(B, T, d)`` attend to those up to them; to the same shape."""
        q, k, v = (part.transpose(1, 2) for part in self.query_key_value(x))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by its norm."""

    def __init__(self, shape: BartShape) -> None:
        super().__init__()
        d = shape.d_model
        self.self_attn = Attention(d, shape.encoder_attention_heads)
        self.self_attn_layer_norm = AddNorm(d)
        self.fc1: nn.Module = nn.Linear(d, shape.encoder_ffn_dim)
        self.fc2 = nn.Linear(shape.encoder_ffn_dim, d)
        self.final_layer_norm = AddNorm(d)
        self.activation = ACTIVATIONS[shape.activation_function]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map ``(B, S, d)`` to ``(B, S, d)``."""
        x = self.self_attn_layer_norm(x, self.self_attn(x, mask))
        return self.final_layer_norm(x, self.fc2(self.activation(self.fc1(x))))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source, feed-forward, each followed by its norm."""

    def __init__(self, shape: BartShape) -> None:
        super().__init__()
        d = shape.d_model
        self.self_attn = Attention(d, shape.decoder_attention_heads)
        self.self_attn_layer_norm = AddNorm(d)
        self.encoder_attn = Attention(d, shape.decoder_attention_heads)
        self.encoder_attn_layer_norm = AddNorm(d)
        self.fc1: nn.Module = nn.Linear(d, shape.decoder_ffn_dim)
        self.fc2 = nn.Linear(shape.decoder_ffn_dim, d)
        self.final_layer_norm = AddNorm(d)
        self.activation = ACTIVATIONS[shape.activation_function]

    def step(self, x: Tensor, t: int, layer: int, slots: Slots) -> Tensor:
        """Decode position `t` of all rows: ``(R, d)`` to ``(R, d)``."""
        attn, cross = self.self_attn, self.encoder_attn
        q, k, v = attn.query_key_value(x)
        out = attn.out_proj(slots.self_attention(layer, t, q, k, v).flatten(1))
        x = self.self_attn_layer_norm(x, out)
        out = slots.cross_attention(layer, cross.split(cross.q_proj(x))).flatten(1)
        return self._finish(x, cross.out_proj(out))

    def teacher_forced(self, x: Tensor, layer: int, memory: SourceMemory) -> Tensor:
        """Decode all positions of Q targets a source at once: ``(B, Q, T, d)`` to the same."""
        cross = self.encoder_attn
        out = self.self_attn.causal(x.flatten(0, 1)).view_as(x)  # of (B*Q, T, d)
        # Every target and position is one more query to the source that its row stands for.
        queries = self.self_attn_layer_norm(x, out).flatten(1, 2)  # (B, Q*T, d)
        source = memory.keys[layer], memory.values[layer], memory.mask
        out = cross.source_attention(cross.split(cross.q_proj(queries)), *source).flatten(2)
        return self._finish(queries, cross.out_proj(out)).view_as(x)

    def packed(
        self, x: Tensor, targets: PackedTargets, sees: Tensor, source: Tensor, mask: Tensor
    ) -> Tensor:
        """Decode packed targets, ``(R, d)`` to the same.

        Args:
            x: rows.
            targets: how they are packed.
            sees: what to add to the scores between slots. Shape ``(B, 1, M, M)``.
            source: as for `Bart.decode_packed`.
            mask: of the source. Shape ``(B, 1, 1, S)``, bool.
        """
        attn, cross = self.self_attn, self.encoder_attn
        q, k, v = (targets.to_slots(part).transpose(1, 2) for part in attn.query_key_value(x))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)  # (B, H, M, D)
        out = attn.out_proj(targets.to_rows(out.transpose(1, 2)).flatten(1))
        x = self.self_attn_layer_norm(x, out)
        q = targets.to_slots(cross.split(cross.q_proj(x)))
        out = cross.source_attention(q, *cross.key_value(source), mask)
        return self._finish(x, cross.out_proj(targets.to_rows(out).flatten(1)))

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Take the layer from its attention to the source to its end; ``(..., d)``."""
        x = self.encoder_attn_layer_norm(x, attended)
        return self.final_layer_norm(x, self.fc2(self.activation(self.fc1(x))))


class Stack(nn.Module):
    """Positions, their norm and the layers: what encoder and decoder have in common."""

    def __init__(self, shape: BartShape, layers: list[EncoderLayer] | list[DecoderLayer]) -> None:
        super().__init__()
        rows = shape.max_position_embeddings + POSITION_OFFSET
        self.embed_positions = nn.Embedding(rows, shape.d_model)
        self.layernorm_embedding = AddNorm(shape.d_model)
        self.layers = nn.ModuleList(layers)


class BartBody(nn.Module):
    """The shared token embedding with the two stacks."""

    def __init__(self, shape: BartShape) -> None:
        super().__init__()
        self.shared = nn.Embedding(shape.vocab_size, shape.d_model)
        self.encoder = Stack(shape, [EncoderLayer(shape) for _ in range(shape.encoder_layers)])
        self.decoder = Stack(shape, [DecoderLayer(shape) for _ in range(shape.decoder_layers)])


class Bart(Network):
    """BART's two stacks; its LM head, tied to the embedding, is `models.lm_head`.

    Args:
        shape: sizes.
    """

    def __init__(self, shape: BartShape) -> None:
        super().__init__(shape.vocab_size)
        self.shape = shape
        self.model = BartBody(shape)
        self.embedding_scale = shape.d_model**0.5 if shape.scale_embedding else 1.0

    @property
    def embedding(self) -> nn.Embedding:
        """As in `Network`."""
        return self.model.shared

    def run_by(self, kernels: Kernels) -> None:
        """As in `Network`."""
        for module in self.modules():
            if isinstance(module, AddNorm):
                module.add_layer_norm = kernels.add_layer_norm
            elif isinstance(module, Attention):
                module.source_attention = kernels.source_attention
            elif isinstance(module, EncoderLayer | DecoderLayer):
                module.self_attn.join_projections()
                if isinstance(module.fc1, nn.Linear) and module.activation is F.gelu:
                    module.fc1, module.activation = LinearGelu(module.fc1), nn.Identity()
            elif isinstance(module, LinearGelu):
                module.linear_gelu = kernels.linear_gelu

    def encode_hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As in `Network`."""
        mask = attention_mask[:, None, None, :]
        x = self._embed(self.model.encoder, input_ids, 0)
        for layer in self.model.encoder.layers:
            x = layer(x, mask)
        return x

    def project(self, hidden: Tensor, attention_mask: Tensor) -> SourceMemory:
        """As in `Network`."""
        pairs = [layer.encoder_attn.key_value(hidden) for layer in self.model.decoder.layers]  # type: ignore[union-attr,operator]
        mask = attention_mask[:, None, None, :]
        return SourceMemory([k for k, _ in pairs], [v for _, v in pairs], mask)

    def decode_step(self, token_ids: Tensor, t: int, slots: Slots) -> Tensor:
        """As in `Network`."""
        x = self._embed(self.model.decoder, token_ids[:, None], t)[:, 0]
        for index, layer in enumerate(self.model.decoder.layers):
            x = layer.step(x, t, index, slots)  # type: ignore[operator]
        return x

    def decode_teacher_forced(self, decoder_input_ids: Tensor, memory: SourceMemory) -> Tensor:
        """As in `Network`."""
        x = self._embed(self.model.decoder, decoder_input_ids, 0)
        for index, layer in enumerate(self.model.decoder.layers):
            x = layer.teacher_forced(x, index, memory)  # type: ignore[operator]
        return x

    def decode_packed(self, targets: PackedTargets, source: Tensor, source_mask: Tensor) -> Tensor:
        """As in `Network`."""
        stack = self.model.decoder
        x = self._scaled(self.model.shared(targets.input_ids))
        x = stack.layernorm_embedding(x, stack.embed_positions(targets.positions + POSITION_OFFSET))
        sees = torch.where(targets.sees, 0.0, -torch.inf).to(x.dtype)
        mask = source_mask[:, None, None]
        for layer in stack.layers:
            x = layer.packed(x, targets, sees, source, mask)  # type: ignore[operator]
        return x

    def _embed(self, stack: Stack, token_ids: Tensor, start: int) -> Tensor:
        """Embed ``(..., T)`` tokens at positions start, start + 1, ..."""
        first = start + POSITION_OFFSET
        positions = stack.embed_positions.weight[first : first + token_ids.shape[-1]]
        x = self._scaled(self.model.shared(token_ids))
        embedded: Tensor = stack.layernorm_embedding(x, positions)
        return embedded

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.embedding_scale == 1.0 else x * self.embedding_scale
