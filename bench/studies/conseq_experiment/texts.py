"""The experiment's texts: news articles of the BBC with a sentence that a journalist wrote."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from quals_fast.jobs.files import read_rows
from quals_fast.jobs.parsing import InputRow
from quals_fast.models.loading import model_folder

SOURCE_TOKENS = 160  # of the summariser, special tokens included
SUMMARY_TOKENS = (8, 60)
_REFERENCES = ("defacto-xsum", "entfa-xsum", "xsum-extracts")
_SYSTEM_SUMMARIES = "qags-random1000-xsum"
_WITH_LEAD = "bbc-news-summary"


class Text(NamedTuple):
    """A document, cut to what the summariser reads, and a summary of it."""

    document: str
    summary: str


@dataclass(frozen=True, slots=True)
class Texts:
    """What is learnt from and what is reported on; no document is in two of them.

    Attributes:
        references: XSum's documents with their references; learnt by likelihood and by ConSeq.
        others: learnt by likelihood only: XSum's documents with summaries of other systems, and
            articles without their first sentence, with this sentence.
        held_out: XSum's documents with their references, seen by no training.
    """

    references: list[Text]
    others: list[Text]
    held_out: list[Text]


def read_texts(
    path: Path, held_out: int, limit: int | None = None, base: str = "qagen-mini"
) -> Texts:
    """Read, cut and divide the texts of a file in the format of docsum_pairs.

    Every program sees the cut document and nothing else, so that no score hangs on what the
    summariser could not know.

    Args:
        path: JSON lines with ``document``, ``summary`` and ``source``.
        held_out: how many documents to report on.
        limit: of the references and of the others, for trials.
        base: model whose tokens are counted.
    """
    cut = Cutter(base)
    references: dict[str, Text] = {}
    systems: dict[str, Text] = {}
    leads: list[Text] = []
    for row in read_rows(str(path)):
        source = row.fields["source"]
        if source in _REFERENCES:
            _add(references, cut, row)
        elif source == _SYSTEM_SUMMARIES:
            _add(systems, cut, row)
        elif source == _WITH_LEAD:
            lead, _, rest = row.document.partition("\n\n")
            leads.append(Text(cut.document(rest), " ".join(lead.split())))
    # By hash, so that a document stays where it is when the file grows.
    texts = sorted(references.values(), key=_hash)
    others = [text for key, text in systems.items() if key not in references] + leads
    random.Random(0).shuffle(others)
    kept = [[text for text in part if cut.is_summary(text.summary)] for part in (texts, others)]
    return Texts(
        references=kept[0][held_out:][:limit],
        others=kept[1][:limit],
        held_out=kept[0][:held_out],
    )


def _add(texts: dict[str, Text], cut: Cutter, row: InputRow) -> None:
    """Take a row unless its document is there; sources spell the same one differently later on."""
    key = "".join(row.document.split()).lower()[:150]
    texts.setdefault(key, Text(cut.document(row.document), row.summary))


class Cutter:
    """Cuts texts by tokens of the base, whose vocabulary the summariser has.

    Args:
        base: bundled model, or a folder.
    """

    def __init__(self, base: str = "qagen-mini") -> None:
        self._tokenizer = Tokenizer.from_file(str(model_folder(base) / "tokenizer.json"))
        self._tokenizer.no_truncation()

    def document(self, text: str) -> str:
        """Cut behind the last whole sentence that fits; white space becomes single spaces."""
        text = " ".join(text.split())
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        longest = SOURCE_TOKENS - 2
        if len(offsets) <= longest:
            return text
        text = text[: offsets[longest - 1][1]]
        end = max(text.rfind(mark) for mark in (". ", "? ", "! ", '." '))
        return text[: end + 1] if end > 0 else text

    def is_summary(self, text: str) -> bool:
        """Whether a summary has the length of those that are to be written."""
        count = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return SUMMARY_TOKENS[0] <= count <= SUMMARY_TOKENS[1]


def _hash(text: Text) -> str:
    return hashlib.sha256(text.document.encode()).hexdigest()
