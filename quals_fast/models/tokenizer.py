"""From texts to source ids, and from generated ids to questions and answers."""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from quals_fast.models.checkpoint import (
    AnswerMatch,
    CheckpointError,
    Conventions,
    read_tokenizer,
)
from quals_fast.models.shape import Shape
from quals_fast.results import EOS, SEP, Range

_SPACE = "▁"  # of SentencePiece
_PIECE_CHARACTERS = 4096  # characters that are tokenised together
_MAX_PIECES = 64  # pieces at once; tokenising takes some 200 bytes a character
# Before these characters a word of BERT's always ends; with Chinese characters as words, too.
_BERT = re.compile(r"(?=[ \t\r\n!-/:-@\[-`{-~])")
_BERT_CHINESE = re.compile(r"(?=[ \t\r\n!-/:-@\[-`{-~\u4e00-\u9fff])")
# GPT-2's words may begin with a space, and white space within a run depends on what follows.
_GPT2 = re.compile(r"(?<=\S)(?=[ \t\r\n])")


class Source(NamedTuple):
    """A text as input of the encoder.

    Attributes:
        text: the whole text.
        input_ids: with special tokens, cut to the checkpoint's `max_source_tokens`.
        text_ids: all tokens of the text, uncut and without special tokens; an array, since a list
            would take ten times the memory.
        truncated_tokens: number of tokens that were cut off.
        unknown_tokens: number of tokens of the whole text that the vocabulary lacks.
        space_tokens: number of tokens of the whole text that are nothing but a space.
        places: of each of `text_ids`, the code points that it stands for: start and end, start and
            end, ...; empty unless asked for.
    """

    text: str
    input_ids: list[int]
    text_ids: array[int]
    truncated_tokens: int
    unknown_tokens: int
    space_tokens: int = 0
    places: array[int] = array("i")

    def token_ranges(self) -> list[Range]:
        """Return the code points that each of `text_ids` stands for, which has `places`.

        Marks that the tokenizer drops, such as accents, belong to the token before them.
        """
        ranges = list(zip(self.places[::2], self.places[1::2], strict=True))
        if not self.text.isascii():
            limit = len(self.text)
            for i, (start, end) in reversed(list(enumerate(ranges))):
                while end < limit and is_mark(self.text[end]):
                    end += 1
                ranges[i], limit = (start, end), start
        return ranges

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole text that stand for some of it, known or not."""
        return len(self.text_ids) - self.space_tokens


class QATokenizer:
    """The checkpoint's tokenizer, with the format of its sources and targets.

    Args:
        tokenizer: as loaded from the checkpoint's folder.
        conventions: special ids and lengths of the checkpoint.

    Attributes:
        answer_match: whether answers are looked up by token ids or by text.
        respells: whether the text of tokens may differ from the text that was tokenised.
        unknown_token_id: id of the unknown token; None if the vocabulary lacks nothing, as with
            byte-level BPE.
    """

    def __init__(self, tokenizer: Tokenizer, conventions: Conventions) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._conventions = conventions
        # A "</s>" in a text is text, not the end.
        self._encoder = without_special_pieces(tokenizer) if self._is_unigram else tokenizer
        self._encoder.encode_special_tokens = True
        is_wordpiece = type(tokenizer.model).__name__ == "WordPiece"
        self.answer_match: AnswerMatch = conventions.answer_match or (
            "ids" if is_wordpiece else "text"
        )
        is_bpe = isinstance(tokenizer.model, models.BPE)
        self.respells = self._is_sentencepiece or (is_bpe and tokenizer.normalizer is not None)
        self.unknown_token_id = unknown_token_id(tokenizer)
        # It stands before an unknown character, so every other token would be a known one.
        self._space_id = tokenizer.token_to_id(_SPACE) if self._is_sentencepiece else None
        self._cut = safe_cut(tokenizer)
        s = conventions
        self._readable = {s.sep_token_id: SEP, s.eos_token_id: EOS}  # tokens met so far
        self._added: dict[tuple[tuple[int, ...], bool], str] = {}  # of single tokens

    @classmethod
    def from_folder(cls, folder: Path, conventions: Conventions) -> QATokenizer:
        """Load ``tokenizer.json``, or a byte-level BPE from ``vocab.json`` and ``merges.txt``.

        Raises:
            CheckpointError: there is no tokenizer, it cannot be read, or it does not fit the model.
        """
        tokenizer = cls(read_tokenizer(folder), conventions)
        if tokenizer.size > conventions.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {tokenizer.size} tokens, but the model's vocabulary "
                f"has only {conventions.vocab_size}; use the tokenizer that was saved with the "
                "model"
            )
        if tokenizer._tokenizer.id_to_token(conventions.sep_token_id) is None:
            raise CheckpointError(
                f"{folder}: `sep_token_id` {conventions.sep_token_id} must be a token of the "
                "tokenizer, but it has none of that id; take config and tokenizer from one "
                "checkpoint"
            )
        return tokenizer

    @property
    def _is_unigram(self) -> bool:
        return isinstance(self._tokenizer.model, models.Unigram)

    @property
    def _is_sentencepiece(self) -> bool:
        """Whether pieces write spaces as SentencePiece does; it has Unigram and BPE models."""
        model = self._tokenizer.model
        is_bpe = isinstance(model, models.BPE) and model.token_to_id(_SPACE) is not None
        return self._is_unigram or is_bpe

    def with_conventions(self, conventions: Conventions) -> QATokenizer:
        """Return one for other conventions of the same checkpoint, such as shorter sources."""
        return QATokenizer(self._tokenizer, conventions)

    @classmethod
    def with_masked(
        cls, folder: Path, shape: Shape, conventions: Conventions
    ) -> tuple[QATokenizer, Conventions]:
        """Load a tokenizer as `from_folder`, and mask what a T5 has beyond the tokenizer's tokens.

        The size of a T5's embedding is rounded up to a multiple of 128.
        """
        tokenizer = cls.from_folder(folder, conventions)
        if shape.family == "t5":
            unnamed = range(tokenizer.size, conventions.vocab_size)
            masked = {*conventions.masked_token_ids, *unnamed}
            conventions = replace(conventions, masked_token_ids=tuple(sorted(masked)))
            tokenizer = tokenizer.with_conventions(conventions)
        return tokenizer, conventions

    @property
    def size(self) -> int:
        """One more than the highest id that has a token; ids may have gaps."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def encode(self, texts: Sequence[str], *, with_places: bool = False) -> list[Source]:
        """Tokenise texts, add special tokens, and cut and count what does not fit.

        Long texts are tokenised piece by piece, which gives the same tokens in little memory. Only
        texts without the end of a word, and texts for tokenizers that `safe_cut` does not know, are
        tokenised as a whole.

        Args:
            texts: as given.
            with_places: whether to fill in `Source.places`.
        """
        s = self._conventions
        start = [] if s.bos_token_id is None else [s.bos_token_id]
        room = s.max_source_tokens - len(start) - 1
        sources = []
        for text, (ids, places) in zip(texts, self._tokenise(texts, with_places), strict=True):
            input_ids = [*start, *ids[:room], s.eos_token_id]
            truncated = max(0, len(ids) - room)
            unknown, spaces = (
                0 if token is None else ids.count(token)
                for token in (self.unknown_token_id, self._space_id)
            )
            sources.append(Source(text, input_ids, ids, truncated, unknown, spaces, places))
        return sources

    def _tokenise(
        self, texts: Sequence[str], with_places: bool
    ) -> list[tuple[array[int], array[int]]]:
        """Return all tokens of each text, without special ones, and their places."""
        encode = self._encoder.encode_batch if with_places else self._encoder.encode_batch_fast
        tokens = [(array("i"), array("i")) for _ in texts]
        pieces = (
            (index, start, piece)
            for index, text in enumerate(texts)
            for start, piece in pieces_of(text, self._cut, _PIECE_CHARACTERS)
        )
        while batch := list(islice(pieces, _MAX_PIECES)):
            encodings = encode([piece for *_, piece in batch], add_special_tokens=False)
            for (index, start, _), encoding in zip(batch, encodings, strict=True):
                ids, places = tokens[index]
                ids.extend(encoding.ids)
                if with_places:
                    places.extend(start + place for both in encoding.offsets for place in both)
        return tokens

    def normalise(self, text: str) -> str:
        """Return a part of a word as the tokenizer changes it before it looks for tokens."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def spelled(self, source: Source) -> str:
        """Return a source's text as decoded answers would spell it, to look them up in it.

        SentencePiece, and a BPE with a normaliser, change texts, so it is what their tokens say,
        without the unknown ones.
        """
        if not self.respells:
            return source.text
        runs = groupby(source.text_ids, key=lambda i: i == self.unknown_token_id)
        return "\0".join(self.decode([*ids]) for is_unknown, ids in runs if not is_unknown)

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Return the text of tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def added_text(self, token_ids: tuple[int, ...], *, is_first: bool) -> str:
        """Return the text that tokens add to a text; the first ones may add no leading space."""
        key = (token_ids, is_first)
        if key not in self._added:
            own = self.decode(token_ids)
            text = own if is_first else self.decode(token_ids * 2)[len(own) :]
            if len(token_ids) > 1:
                return text
            self._added[key] = text
        return self._added[key]

    def readable_tokens(self, token_ids: tuple[int, ...]) -> tuple[str, ...]:
        """Return each token as readable text; pieces that continue a word keep their ``##``."""
        for i in token_ids:
            if i not in self._readable:
                self._readable[i] = self._one(i)
        return tuple(self._readable[i] for i in token_ids)

    def _one(self, token_id: int) -> str:
        piece: str | None = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return f"<{token_id}>"
        if isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return self.decode((token_id,))
        return piece


def is_mark(c: str) -> bool:
    """Return whether a character is a mark on the letter before it, such as an accent."""
    return unicodedata.category(c).startswith("M")


def unknown_token_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of a tokenizer's unknown token, or None if it has none."""
    model = tokenizer.model
    if isinstance(model, models.Unigram):  # has no such attribute in Python
        unknown: int | None = json.loads(tokenizer.to_str())["model"]["unk_id"]
        return unknown
    return None if model.unk_token is None else model.token_to_id(model.unk_token)


def without_special_pieces(tokenizer: Tokenizer) -> Tokenizer:
    """Return a Unigram tokenizer that finds no special token in a text.

    Special tokens are pieces of its vocabulary, so they get names that no text contains.
    """
    content = json.loads(tokenizer.to_str())
    added = content["added_tokens"]
    special = {token["content"] for token in added if token["special"]}
    content["model"]["vocab"] = [
        (f"\0{piece}" if piece in special else piece, score)
        for piece, score in content["model"]["vocab"]
    ]
    content["added_tokens"] = [token for token in added if not token["special"]]
    content["post_processor"] = None  # it would look for them
    return Tokenizer.from_str(json.dumps(content))


def safe_cut(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern of places where a text can be cut without changing its tokens.

    This must hold whatever text is on either side. None for tokenizers where it is not known.
    """
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if not all(added.special for added in tokenizer.get_added_tokens_decoder().values()):
        return None  # texts are not searched for special tokens; other added tokens could be cut
    if isinstance(splitter, pre_tokenizers.BertPreTokenizer):
        if isinstance(normalizer, normalizers.BertNormalizer) and normalizer.handle_chinese_chars:
            return _BERT_CHINESE
        if normalizer is None or isinstance(normalizer, normalizers.BertNormalizer):
            return _BERT
    is_gpt2 = (
        normalizer is None
        and isinstance(splitter, pre_tokenizers.ByteLevel)
        and splitter.use_regex
        and not splitter.add_prefix_space
    )
    return _GPT2 if is_gpt2 else None


def pieces_of(text: str, cut: re.Pattern[str] | None, size: int) -> Iterator[tuple[int, str]]:
    """Cut a text at the first place after every `size` characters; `cut` None: nowhere.

    Yields the start of each piece, and the piece.
    """
    start = 0
    while cut is not None and (place := cut.search(text, start + size)):
        yield start, text[start : place.start()]
        start = place.start()
    yield start, text[start:]
