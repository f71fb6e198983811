"""Generate summaries with a sequence-to-sequence model without disturbing its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def generate_summaries(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    batch_size: int = 8,
    max_source_tokens: int | None = None,
    seed: int = 0,
    **generate: Any,
) -> list[list[str]]:
    """Generate summaries of documents, without autograd and in evaluation mode.

    The model's mode and the state of the random number generators are restored afterwards.

    Args:
        model: a sequence-to-sequence model of transformers.
        tokenizer: its tokenizer.
        documents: texts.
        batch_size: number of documents at once.
        max_source_tokens: truncate documents to this many tokens; None means the limit of tokenizer
            and model.
        seed: random seed, for ``do_sample=True``.
        generate: arguments of the model's ``generate``.

    Returns:
        For each document as many summaries as ``num_return_sequences`` says, by default one.

    Raises:
        ValueError: the model has no encoder.
    """
    if not model.config.is_encoder_decoder:
        raise ValueError(
            f"`model` must be a sequence-to-sequence model, but got {type(model).__name__}; score "
            "summaries of other models with QualsScorer.score or QualsReward"
        )
    longest = longest_text(model, tokenizer, max_source_tokens)
    device = next(model.parameters()).device
    summaries: list[list[str]] = []
    # The device as default: otherwise new tensors would be on the host program's default device.
    with evaluating(model), own_random_numbers(device, seed), torch.no_grad(), device:
        for first in range(0, len(documents), batch_size):
            texts = list(documents[first : first + batch_size])
            inputs = tokenizer(
                texts, truncation=True, max_length=longest, padding=True, return_tensors="pt"
            )
            ids = model.generate(
                input_ids=inputs["input_ids"].to(device),
                attention_mask=inputs["attention_mask"].to(device),
                **generate,
            )
            decoded = tokenizer.batch_decode(ids, skip_special_tokens=True)
            each = len(decoded) // len(texts)
            summaries += [decoded[i * each : (i + 1) * each] for i in range(len(texts))]
    return summaries


def longest_text(model: Any, tokenizer: Any, wanted: int | None = None) -> int:
    """Return the smallest of the wanted length and the limits of model and tokenizer, in tokens."""
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = (wanted, tokenizer.model_max_length, positions)
    return min(limit for limit in limits if limit is not None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def own_random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's random numbers, and restore their state afterwards."""
    is_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if is_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        if is_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
