"""Text to source ids and generated ids back to questions and answers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from quals_fast.models.checkpoint import AnswerMatch, CheckpointError, Settings


class Source(NamedTuple):
    """A text as the encoder takes it.

    Attributes:
        input_ids: with special tokens, cut to the checkpoint's `max_source_tokens`.
        text_ids: all tokens of the text, uncut and without special tokens.
        truncated_tokens: tokens that were cut off.
    """

    input_ids: list[int]
    text_ids: list[int]
    truncated_tokens: int


class QATokenizer:
    """The checkpoint's tokenizer, with the format of its sources and targets.

    Args:
        tokenizer: as loaded from the checkpoint's folder.
        settings: special ids and lengths of the checkpoint.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Settings) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # a "</s>" in a text is text, not the end
        self._tokenizer = tokenizer
        self._settings = settings
        is_wordpiece = type(tokenizer.model).__name__ == "WordPiece"
        self.answer_match: AnswerMatch = settings.answer_match or (
            "ids" if is_wordpiece else "text"
        )

    @classmethod
    def from_folder(cls, folder: Path, settings: Settings) -> QATokenizer:
        """Load ``tokenizer.json``, or a byte-level BPE from ``vocab.json`` and ``merges.txt``.

        Raises:
            CheckpointError: there is no tokenizer, it cannot be read, or it does not fit the model.
        """
        tokenizer = read_tokenizer(folder)
        size = max(tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps
        if size > settings.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {size} tokens, but the model's vocabulary only "
                f"{settings.vocab_size}; the two do not belong together"
            )
        return cls(tokenizer, settings)

    def with_settings(self, settings: Settings) -> QATokenizer:
        """Return one for other settings of the same checkpoint, such as shorter sources."""
        return QATokenizer(self._tokenizer, settings)

    def encode(self, texts: list[str]) -> list[Source]:
        """Tokenise texts, add special tokens, cut what does not fit and count it."""
        s = self._settings
        start = [] if s.bos_token_id is None else [s.bos_token_id]
        room = s.max_source_tokens - len(start) - 1
        sources = []
        for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False):
            ids = encoding.ids
            cut = max(0, len(ids) - room)
            sources.append(Source([*start, *ids[:room], s.eos_token_id], ids, cut))
        return sources

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Return the text of tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def readable_tokens(self, token_ids: tuple[int, ...]) -> tuple[str, ...]:
        """Return each token as it is read: pieces that continue a word keep their ``##``."""
        named = {self._settings.sep_token_id: "<sep>", self._settings.eos_token_id: "<eos>"}
        return tuple(named.get(i) or self._one(i) for i in token_ids)

    def _one(self, token_id: int) -> str:
        piece: str | None = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return f"<{token_id}>"
        if isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return self.decode((token_id,))
        return piece


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json``, or a byte-level BPE from ``vocab.json`` and ``merges.txt``.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(
                f"{path} is not a tokenizer of the tokenizers library: {error}"
            ) from error
    elif vocab.is_file() and merges.is_file():
        try:
            tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{vocab} and {merges.name} are no BPE: {error}") from error
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json with "
            "merges.txt; save it there with transformers' tokenizer.save_pretrained()"
        )
    return tokenizer
