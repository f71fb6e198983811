"""Sentences of a summary."""

from __future__ import annotations

import sys
from typing import Any


class SentenceSplitter:
    """Splits texts at line breaks, and at what spaCy's rules take for the end of a sentence.

    FactCC's training data has the sentences of spaCy's parser, which differ from version to version
    of its model. The rules need no model, and know the usual English abbreviations.

    Raises:
        ModuleNotFoundError: spaCy is not installed.
    """

    def __init__(self) -> None:
        try:
            import spacy
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "a classifier reads a summary sentence by sentence, and finding them needs spaCy, "
                'which is not installed: pip install ".[qags]" in the checkout'
            ) from error
        self.name = f"spacy-{spacy.__version__}"
        self._nlp: Any = spacy.blank("en")
        self._nlp.add_pipe("sentencizer")
        self._nlp.max_length = sys.maxsize  # rules take little memory

    def split(self, text: str) -> list[str]:
        """Return the sentences that have a letter or digit; the whole text if none has."""
        lines = [line for line in text.splitlines() if line.strip()]
        found = [span.text.strip() for doc in self._nlp.pipe(lines) for span in doc.sents]
        return [one for one in found if any(map(str.isalnum, one))] or [text.strip()]
