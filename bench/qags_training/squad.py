"""Extractive answers and their scores, as much as is needed to say how good a network is."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from rich.progress import track
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

LONGEST = 384
OVERLAP = 128
LONGEST_ANSWER = 30
_TOKENS_PER_BATCH = 3_072


class Found(NamedTuple):
    """The best span of a text, and by how much no answer at all is better."""

    text: str
    null_margin: float


@torch.inference_mode()
def answer(
    network: nn.Module, tokenizer: Tokenizer, asked: Sequence[tuple[str, str]]
) -> list[Found]:
    """Answer each question on its text, in windows where the text is long."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST, stride=OVERLAP, strategy="only_second")
    windows: list[tuple[int, Encoding]] = []
    for number, encoding in enumerate(tokenizer.encode_batch(list(asked))):
        windows += [(number, window) for window in (encoding, *encoding.overflowing)]
    windows.sort(key=lambda window: len(window[1]))
    best: dict[int, tuple[float, str]] = {}
    null: dict[int, float] = {}
    for batch in track(list(_batches(windows)), "answering"):
        starts, ends, mask = _logits(network, [window for _, window in batch])
        scores = starts[:, :, None] + ends[:, None, :]  # (B, T, T)
        near = torch.ones(scores.shape[1:], dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
        allowed = near & mask[:, :, None] & mask[:, None, :]
        top = scores.masked_fill(~allowed, -torch.inf).flatten(1).max(1)
        for row, (number, window) in enumerate(batch):
            null[number] = min(null.get(number, torch.inf), float(scores[row, 0, 0]))
            score = float(top.values[row])
            if number not in best or score > best[number][0]:
                first, last = divmod(int(top.indices[row]), scores.shape[1])
                a, b = window.offsets[first][0], window.offsets[last][1]
                best[number] = (score, asked[number][1][a:b])
    return [Found(best[n][1], null[n] - best[n][0]) for n in range(len(asked))]


def exact_match(found: str, right: Iterable[str]) -> float:
    """Return 1 if a right answer is the same but for case, articles and punctuation."""
    return float(any(normal(found) == normal(answer) for answer in right))


def f1(found: str, right: Iterable[str]) -> float:
    """Return the best word F1 with a right answer (SQuAD's; 1 if both are empty)."""
    return max(_f1(normal(found).split(), normal(answer).split()) for answer in right)


def normal(text: str) -> str:
    """Return the text lower-cased, without punctuation, articles and needless spaces."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    return 2 * (Counter(found) & Counter(right)).total() / (len(found) + len(right))


def _batches(windows: list[tuple[int, Encoding]]) -> Iterable[list[tuple[int, Encoding]]]:
    batch: list[tuple[int, Encoding]] = []
    for window in windows:  # sorted, so this one is the longest
        if batch and (len(batch) + 1) * len(window[1]) > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(window)
    yield batch


def _logits(network: nn.Module, windows: list[Encoding]) -> tuple[Tensor, Tensor, Tensor]:
    """Return start and end logits and which tokens belong to the text, each ``(B, T)``."""
    longest = max(map(len, windows))
    ids = torch.zeros(len(windows), longest, dtype=torch.long)
    types, real = torch.zeros_like(ids), torch.zeros_like(ids)
    text = torch.zeros(len(windows), longest, dtype=torch.bool)
    for row, window in enumerate(windows):
        n = len(window)
        ids[row, :n], types[row, :n] = torch.tensor(window.ids), torch.tensor(window.type_ids)
        real[row, :n] = 1
        text[row, :n] = torch.tensor([part == 1 for part in window.sequence_ids])
    out = network(input_ids=ids, token_type_ids=types, attention_mask=real)
    return out.start_logits.float(), out.end_logits.float(), text
