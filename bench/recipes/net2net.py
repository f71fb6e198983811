"""Wider and deeper BARTs that compute what a small one does: Net2Net (arXiv 1511.05641).

- Wider: every hidden number stands in several places (heads, feed-forward units and the residual
  stream alike) and what reads it takes the mean of its copies. Layer norms see the same mean and
  variance, so this is exact up to rounding where the new width is a multiple of the old one (768 of
  384). For 1,024 the residual stream has 256 numbers more; they carry the mean of the others, which
  keeps the norms' statistics but for its small changes from token to token.
- Deeper: a layer that changes nothing. Its attention adds only a constant of opposite sign to the
  two copies, so its first norms divide by nearly the same number at every token; its feed-forward
  block then undoes the scale and bias of the norm before it, exactly, since
  gelu(z) - gelu(-z) = z; its last norm puts them back.
- More tokens: the new rows of the embedding repeat old ones (a bias keeps them from being chosen).
- More positions: the table goes on with its last 256 rows repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

POSITION_OFFSET = 2  # rows of BART's position table that no token uses
REPEATED_POSITIONS = 256
SPREAD = 2.0  # constant added to the copies before a norm, in standard deviations of the stream
FAINT = 1e-5  # of an added layer's attention: not 0, which some int8 formats cannot scale

Weights: TypeAlias = dict[str, Tensor]
Statistics: TypeAlias = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Sizes to grow to, and after which old layers the new ones stand.

    Attributes:
        d_model: width.
        heads: attention heads of each layer.
        ffn: feed-forward units of each layer.
        encoder_after: index of the old encoder layer that each added one follows.
        decoder_after: the same for the decoder.
    """

    d_model: int
    heads: int
    ffn: int
    encoder_after: tuple[int, ...]
    decoder_after: tuple[int, ...]
    vocab_size: int = 50_265
    positions: int = 1_024


def widen(weights: Weights, config: dict[str, Any], growth: Growth) -> Weights:
    """Copy every hidden number to all its new places; the layers stay as many as they are."""
    d, old_heads = config["d_model"], config["encoder_attention_heads"]
    copies = growth.d_model // d
    stream = torch.arange(copies * d) % d
    rest = growth.d_model - copies * d  # numbers that carry the mean
    old_dim, new_dim = d // old_heads, growth.d_model // growth.heads
    heads = torch.arange(growth.heads) % old_heads
    attended = (heads[:, None] * old_dim + torch.arange(new_dim) % old_dim).flatten()
    units = torch.arange(growth.ffn) % config["encoder_ffn_dim"]
    # A copied dimension adds to q.k once more; the softmax divides by the root of the new number.
    scale = (old_dim / new_dim) * (new_dim / old_dim) ** 0.5
    norm_scale = (copies * d / growth.d_model) ** 0.5  # the rest's variance is 0

    def carry(x: Tensor, dim: int) -> Tensor:
        mean = x.mean(dim, keepdim=True).expand(*[rest if i == dim else -1 for i in range(x.ndim)])
        return torch.cat([x.index_select(dim, stream), mean], dim)

    def read(weight: Tensor, places: Tensor, more: int = 0) -> Tensor:
        counts = torch.bincount(places)[places]
        return F.pad(weight[:, places] / counts, (0, more))

    grown: Weights = {}
    for name, weight in weights.items():
        if name == "final_logits_bias":
            continue
        w = weight.float()
        module, kind = name.split(".")[-2:]
        if module == "shared":
            rows = torch.arange(growth.vocab_size) % len(w)
            grown[name] = carry(w[rows], 1)
        elif module == "embed_positions":
            more = growth.positions + POSITION_OFFSET - len(w)
            again = torch.arange(more) % REPEATED_POSITIONS + len(w) - REPEATED_POSITIONS
            grown[name] = carry(torch.cat([w, w[again]]), 1)
        elif "norm" in module:
            new = carry(w, 0)
            if kind == "weight":
                new[copies * d :] = 0
                new *= norm_scale
            grown[name] = new
        else:
            inputs = {"out_proj": attended, "fc2": units}.get(module, stream)
            if kind == "weight":
                w = read(w, inputs, rest if inputs is stream else 0)
            if module in ("q_proj", "k_proj", "v_proj"):
                grown[name] = w[attended] * (scale if module == "q_proj" else 1.0)
            else:
                grown[name] = w[units] if module == "fc1" else carry(w, 0)
    # The tied LM head adds up all copies, and reads the mean as well.
    last = f"model.decoder.layers.{config['decoder_layers'] - 1}.final_layer_norm"
    for kind in ("weight", "bias"):
        grown[f"{last}.{kind}"] /= copies
        grown[f"{last}.{kind}"][copies * d :] = 0
    return grown


def deepen(
    weights: Weights,
    part: str,
    after: tuple[int, ...],
    config: dict[str, Any],
    growth: Growth,
    statistics: Statistics,
) -> Weights:
    """Insert layers that change (almost) nothing behind the old layers that `after` names."""
    prefix = f"model.{part}.layers."
    grown = {name: w for name, w in weights.items() if not name.startswith(prefix)}
    number = 0
    for old in range(config[f"{part}_layers"]):
        start = f"{prefix}{old}."
        layer = {name[len(start) :]: w for name, w in weights.items() if name.startswith(start)}
        added = identity_layer(layer, config["d_model"], growth, *statistics[part][old])
        for one in [layer, *[added] * after.count(old)]:
            grown |= {f"{prefix}{number}.{name}": w.clone() for name, w in one.items()}
            number += 1
    return grown


def identity_layer(layer: Weights, d: int, growth: Growth, mean: float, std: float) -> Weights:
    """Return a layer that gives back what the last norm of `layer` put out.

    Args:
        layer: weights of the old layer, widened.
        d: width before widening.
        growth: the new sizes.
        mean: mean of that norm's output over its numbers, on average over tokens.
        std: the same of its standard deviation.
    """
    width, copies = growth.d_model, growth.d_model // d
    live = copies * d
    scale, bias = layer["final_layer_norm.weight"], layer["final_layer_norm.bias"]
    sign = torch.zeros(width)
    sign[:live] = torch.where(torch.arange(live) < live // 2, 1.0, -1.0)
    spread = SPREAD * std
    # Standard deviation at the first norm; the rest stands at the mean and adds nothing.
    divisor = ((std**2 + spread**2) * live / width) ** 0.5
    new = {name: w.clone() for name, w in layer.items()}
    for name in layer:
        if name.endswith("out_proj.weight"):
            new[name] *= FAINT
        elif name.endswith("out_proj.bias"):
            new[name] = torch.zeros(width)
        elif "attn_layer_norm" in name:
            new[name] = torch.full((width,), float(name.endswith("weight")))
    new["self_attn.out_proj.bias"] = spread * sign
    # y is (x + spread * sign - mean) / divisor; y + ffn(y) shall be level * (x - bias) / scale.
    level = float(scale[:live].abs().median()) / divisor
    gain = torch.full((width,), -1.0)
    shift = torch.zeros(width)
    gain[:live] = level * divisor / scale[:live] - 1
    shift[:live] = level * (mean - bias[:live]) / scale[:live]
    shift -= spread / divisor * sign
    # Units read the mean of a number's copies, whose constants cancel, with either sign.
    groups = torch.cat([torch.arange(live) % d, torch.full((width - live,), d)])
    read = F.one_hot(groups).T.float()  # (old numbers, new numbers)
    read /= read.sum(1, keepdim=True)
    both = torch.cat([read, -read])
    units = torch.arange(growth.ffn) % len(both)
    counts = torch.bincount(units)
    write_back = F.one_hot(groups).float() * gain[:, None]
    new["fc1.weight"], new["fc1.bias"] = both[units], torch.zeros(growth.ffn)
    new["fc2.weight"] = torch.cat([write_back, -write_back], 1)[:, units] / counts[units]
    new["fc2.bias"] = shift
    return new
