"""Questions and answers of generated sequences as text, read where the sequences are.

A text's key is the polynomial of its lower-cased code points c

    sum over k of (c[k] + 1) * base**k  modulo 2**31 - 1,  for three bases drawn at random,

so equal texts have equal keys, however they are cut into tokens. Two different texts of up to L
characters share all three with a chance below (L / 2**31)**3; for the 3,540 comparisons among 60
hypotheses with L = 1,000 that is 4e-16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import torch
from tokenizers import decoders
from torch import Tensor
from torch.nn import functional as F

from quals_fast.models.tokenizer import QATokenizer

_MODULUS = 2**31 - 1  # products of two remainders fit in int64
_BASES = (852_947_678, 1_576_013_050, 441_877_067)
_BYTES_PER_TOKEN = 8  # room for text; a token of English has 4.5 bytes on average
_REPLACEMENT = 0xFFFD
_CAPITAL_SIGMA = "\u03a3"  # its lower case depends on its neighbours


class Parts(NamedTuple):
    """Places of question and answer in sequences; all ``(B, N, T)``."""

    token_ids: Tensor  # int64
    in_question: Tensor  # bool
    is_sep: Tensor  # bool
    in_answer: Tensor  # bool


class Readings(NamedTuple):
    """What sequences say, if they have exactly one SEP; otherwise meaningless."""

    questions: Tensor  # (B, N, 3) int64 keys
    answers: Tensor  # (B, N, 3) int64 keys
    is_blank: Tensor  # (B, N) bool: the answer is empty or white space
    is_doubtful: Tensor  # (B, N) bool: only the host can read it
    #: The answers' lower-cased code points ``(B, N, L)`` int32 and how many there are; None where
    #: the reader does not look at letters.
    letters: tuple[Tensor, Tensor] | None


class Reader(Protocol):
    """Reads sequences of one tokenizer."""

    def read(self, parts: Parts) -> Readings:
        """Read questions and answers."""
        ...


def reader_for(
    tokenizer: QATokenizer, vocab_size: int, device: torch.device, *, by_letters: bool
) -> Reader | None:
    """Return the reader of a tokenizer's sequences, or None where its decoder is not known.

    Args:
        tokenizer: WordPiece, byte-level BPE and SentencePiece's (Metaspace) are known.
        vocab_size: V of the model, which may have ids that the tokenizer lacks.
        device: where the sequences are.
        by_letters: whether `Readings.letters` are wanted.
    """
    decoder = tokenizer._tokenizer.decoder
    pieces = [tokenizer._tokenizer.id_to_token(i) for i in range(vocab_size)]
    exists = torch.tensor([piece is not None for piece in pieces], device=device)
    named = [piece or "" for piece in pieces]
    if isinstance(decoder, decoders.ByteLevel):
        byte_of = _byte_level_alphabet()
        octets = [_octets(piece, byte_of) for piece in named for _ in range(2)]
        return LetterReader(octets, exists)
    if isinstance(decoder, decoders.WordPiece | decoders.Metaspace):
        # They decode piece by piece, and the first one otherwise than those behind it.
        first = [decoder.decode([piece]) for piece in named]
        later = [decoder.decode(["a", piece]).removeprefix("a") for piece in named]
        texts = [text for both in zip(first, later, strict=True) for text in both]
        if by_letters:
            return LetterReader([text.encode() for text in texts], exists)
        return PieceReader(texts, exists)
    return None


class PieceReader:
    """Composes texts from whole pieces of text, as WordPiece has them.

    Args:
        texts: of token id i, ``texts[2 * i]`` where it comes first and ``texts[2 * i + 1]`` where
            it comes later.
        exists: ids that are tokens; others are left out. Shape ``(V,)``.
    """

    def __init__(self, texts: Sequence[str], exists: Tensor) -> None:
        device = exists.device
        self._exists, self._bases = exists, torch.tensor(_BASES, device=device)
        self._has_text = torch.tensor([text.strip() != "" for text in texts], device=device)
        self._is_doubtful = torch.tensor([_CAPITAL_SIGMA in text for text in texts], device=device)
        lowered = [[ord(c) for c in text.lower()] for text in texts]
        width = max(1, *map(len, lowered))
        rows = torch.tensor([[*row, *[-1] * (width - len(row))] for row in lowered], device=device)
        chunks = [_keys(chunk, chunk >= 0, self._bases) for chunk in rows.split(4096)]
        self._hashes, self._shifts = (torch.cat(part) for part in zip(*chunks, strict=True))

    def read(self, parts: Parts) -> Readings:
        """Read questions and answers."""
        variants, in_question, in_answer = _variants(parts, self._exists)
        hashes, shifts = self._hashes[variants], self._shifts[variants]  # (B, N, T, 3)

        def key(mask: Tensor) -> Tensor:
            mask = mask[..., None]
            return _joined(torch.where(mask, hashes, 0), torch.where(mask, shifts, 1))[0]

        return Readings(
            questions=key(in_question),
            answers=key(in_answer),
            is_blank=~(self._has_text[variants] & in_answer).any(-1),
            is_doubtful=(self._is_doubtful[variants] & (in_question | in_answer)).any(-1),
            letters=None,
        )


class LetterReader:
    """Assembles the bytes of texts and reads them letter by letter, as UTF-8.

    Doubtful are letters without one lower-case letter of their own, and texts with more than 8
    bytes a token.

    Args:
        octets: of token id i, ``octets[2 * i]`` where it comes first and ``octets[2 * i + 1]``
            where it comes later.
        exists: ids that are tokens; others are left out. Shape ``(V,)``.
    """

    def __init__(self, octets: Sequence[bytes], exists: Tensor) -> None:
        device = exists.device
        self._exists, self._bases = exists, torch.tensor(_BASES, device=device)
        self._octets = torch.tensor(list(b"".join([*octets, b"\0"])), device=device)
        self._sizes = torch.tensor([len(octet) for octet in octets], device=device)
        self._starts = self._sizes.cumsum(0) - self._sizes
        lower, is_space = _letters()
        self._lower, self._is_space = lower.to(device), is_space.to(device)

    def read(self, parts: Parts) -> Readings:
        """Read questions and answers."""
        variants, in_question, in_answer = _variants(parts, self._exists)
        sizes = self._sizes[variants]
        middle = (sizes * in_question).sum(-1, keepdim=True)  # (B, N, 1)
        # SEP takes one byte, which stays 0: so the two texts are read apart.
        ends = torch.where(in_question | in_answer, sizes, parts.is_sep.long()).cumsum(-1)
        total = ends[..., -1:]
        width = _BYTES_PER_TOKEN * ends.shape[-1]
        at = torch.arange(width, device=ends.device).expand(*ends.shape[:-1], width)  # (B, N, L)
        token = torch.searchsorted(ends, at.contiguous(), right=True).clamp(max=ends.shape[-1] - 1)
        source = (self._starts[variants] + sizes - ends).gather(-1, token) + at
        is_text = (at < total) & (at != middle)
        source = torch.where(is_text, source, 0)
        octets = torch.where(is_text, self._octets[source], 0)
        code_points, is_start = decode_utf8(octets)
        lower = self._lower[code_points]
        asks = is_start & is_text & (at < middle)
        answers = is_start & is_text & (at > middle)
        return Readings(
            questions=_keys(lower, asks, self._bases)[0],
            answers=_keys(lower, answers, self._bases)[0],
            is_blank=~(answers & ~self._is_space[code_points]).any(-1),
            is_doubtful=((lower < 0) & (asks | answers)).any(-1) | (total[..., 0] > width),
            letters=to_front(lower, answers),
        )


@cache
def _letters() -> tuple[Tensor, Tensor]:
    """Return lower-case letters, int32, -1 where doubtful, and what is white space."""
    lower = torch.arange(0x110000, dtype=torch.int32, device="cpu")
    is_space = torch.zeros(0x110000, dtype=torch.bool, device="cpu")
    for code_point, letter in enumerate(map(chr, range(0x110000))):
        lowered = letter.lower()
        if lowered != letter:
            lower[code_point] = ord(lowered) if len(lowered) == 1 else -1
        elif letter.isspace():
            is_space[code_point] = True
    lower[ord(_CAPITAL_SIGMA)] = -1
    return lower, is_space


def decode_utf8(octets: Tensor) -> tuple[Tensor, Tensor]:
    """Decode bytes as ``bytes.decode("utf-8", "replace")`` does.

    Args:
        octets: behind the end, zeros. Shape ``(..., L)``, int64, L at least 4.

    Returns:
        Code points, int64, and where characters start; both ``(..., L)``. A code point counts only
        where a character starts.
    """
    second, third, fourth = (F.pad(octets[..., k:], (0, k)) for k in (1, 2, 3))
    needed = (octets >= 0xC2).long() + (octets >= 0xE0) + (octets >= 0xF0)
    needed = torch.where(octets > 0xF4, 0, needed)
    # The second byte's range excludes overlong forms, surrogates and what is above 0x10FFFF.
    least = 0x80 + 0x20 * (octets == 0xE0) + 0x10 * (octets == 0xF0)
    most = 0xBF - 0x20 * (octets == 0xED) - 0x30 * (octets == 0xF4)
    fits = (needed >= 1) & (second >= least) & (second <= most)
    taken = fits.long()
    code_points = torch.where(needed == 0, octets, octets & (0x3F >> needed))
    code_points = torch.where(needed >= 1, code_points << 6 | second & 0x3F, code_points)
    for k, octet in ((2, third), (3, fourth)):
        fits = fits & (needed >= k) & (octet & 0xC0 == 0x80)
        taken = taken + fits
        code_points = torch.where(needed >= k, code_points << 6 | octet & 0x3F, code_points)
    is_whole = (taken == needed) & ((octets < 0x80) | (needed > 0))
    inside = torch.zeros_like(is_whole)
    for k in (1, 2, 3):
        inside = inside | F.pad(taken[..., :-k] >= k, (k, 0))
    return torch.where(is_whole, code_points, _REPLACEMENT), ~inside


def to_front(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move what is kept of each row ``(..., L)`` to its front; return the rows and how many."""
    width = keep.shape[-1]
    place = torch.where(keep, keep.cumsum(-1) - 1, width)  # one column more takes the rest
    rows = values.new_zeros(*keep.shape[:-1], width + 1).scatter_(-1, place, values)
    return rows[..., :-1], keep.sum(-1)


def _variants(parts: Parts, exists: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of the tables of texts, and both parts without ids that are no tokens."""
    exist = exists[parts.token_ids]
    in_question, in_answer = parts.in_question & exist, parts.in_answer & exist
    is_later = (in_question & (in_question.cumsum(-1) > 1)) | (
        in_answer & (in_answer.cumsum(-1) > 1)
    )
    return 2 * parts.token_ids + is_later, in_question, in_answer


def _keys(letters: Tensor, counts: Tensor, bases: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and shifts of the letters that count; letters ``(..., L)``, keys ``(..., 3)``."""
    counts = counts[..., None]
    return _joined(
        torch.where(counts, letters[..., None] + 1, 0).long(), torch.where(counts, bases, 1)
    )


def _joined(hashes: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and shift (base ** length) of texts joined along ``(..., L, 3)``, pair by pair."""
    missing = (1 << (hashes.shape[-2] - 1).bit_length()) - hashes.shape[-2]
    hashes, shifts = F.pad(hashes, (0, 0, 0, missing)), F.pad(shifts, (0, 0, 0, missing), value=1)
    while hashes.shape[-2] > 1:
        hashes = (hashes[..., ::2, :] + shifts[..., ::2, :] * hashes[..., 1::2, :]) % _MODULUS
        shifts = shifts[..., ::2, :] * shifts[..., 1::2, :] % _MODULUS
    return hashes[..., 0, :], shifts[..., 0, :]


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for (GPT-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _octets(piece: str, byte_of: dict[str, int]) -> bytes:
    """Return what a byte-level token stands for; an added one may stand for its own text."""
    if all(c in byte_of for c in piece):
        return bytes(byte_of[c] for c in piece)
    return piece.encode()
