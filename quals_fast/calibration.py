"""Turn scores into probabilities: a calibration's file, whom it fits, and how it is applied.

A calibration is fitted by `quals_fast.calibrating`. Applying one needs nothing but this module.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from quals_fast.results import SummaryScore
from quals_fast.signature import parts_of

FORMAT = 1  # of the file
BUNDLED = Path(__file__).parent / "models" / "assets" / "qagen-mini" / "calibration.json"
# Parts of a signature that do not matter: they move a score by less than people can tell, or not
# at all.
_MAY_DIFFER = ("calibration", "nopairs", "dtype", "backend", "kernels", "version")

_KEY_LETTERS = 500  # of a document: sites begin all of theirs with a line or two

Measures: TypeAlias = Mapping[str, float]


def measures_of(score: float, n_pairs: int, truncated_tokens: int) -> dict[str, float]:
    """Return what a probability may depend on, by name.

    `exp_score` is the document's likelihood of the pairs, for each token, as a share of the
    summary's: far below 0 all scores mean the same to it.
    """
    return {
        "score": score,
        "exp_score": math.exp(min(score, 1.0)),  # above 0 by chance only; must not overflow
        "n_pairs": n_pairs,
        "truncated": float(truncated_tokens > 0),
    }


MEASURES = tuple(measures_of(0.0, 0, 0))


class CalibrationError(ValueError):
    """A file is no calibration, or one of another model or other settings."""


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic curve.

    Attributes:
        intercept: log-odds where all measures are 0.
        coefficients: by measure.
    """

    intercept: float
    coefficients: dict[str, float]

    def probability(self, measures: Measures) -> float:
        """Return the probability at some measures."""
        log_odds = self.intercept + math.fsum(
            weight * measures[name] for name, weight in self.coefficients.items()
        )
        odds = math.exp(-abs(log_odds))  # at most 1: the other way round may overflow
        return (1.0 if log_odds >= 0 else odds) / (1.0 + odds)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "method": "logistic",
            "intercept": self.intercept,
            "coefficients": self.coefficients,
        }


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A curve that never falls as the score rises: straight between its points, flat beyond them.

    Attributes:
        scores: of the points, ascending.
        probabilities: at these scores.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def probability(self, measures: Measures) -> float:
        """Return the probability at a score."""
        score = measures["score"]
        after = bisect_right(self.scores, score)
        if after in (0, len(self.scores)):
            return self.probabilities[max(0, after - 1)]
        (left, right), (low, high) = (
            points[after - 1 : after + 1] for points in (self.scores, self.probabilities)
        )
        return low + (high - low) * (score - left) / (right - left)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "method": "isotonic",
            "scores": list(self.scores),
            "probabilities": list(self.probabilities),
        }


Curve: TypeAlias = Logistic | Isotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How a score of one model, with one set of settings, becomes a probability.

    Attributes:
        name: of its file, for messages.
        digest: first 12 hexadecimal digits of the SHA-256 of its file.
        curve: from measures to a probability.
        settings: the parts of a signature that a scorer must have, as from `settings_of`.
        content: all that its file holds.
    """

    name: str
    digest: str
    curve: Curve
    settings: dict[str, str]
    content: dict[str, Any]

    @classmethod
    def load(cls, source: str | Path | Calibration) -> Calibration:
        """Read a file that ``quals-fast calibrate`` wrote.

        Args:
            source: its name, or ``"bundled"`` for that of the bundled model. A calibration is
                returned as it is.

        Raises:
            CalibrationError: it cannot be read or is no calibration.
        """
        if isinstance(source, Calibration):
            return source
        path = BUNDLED if source == "bundled" else Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CalibrationError(
                f"cannot read the calibration {str(source)!r}: {error.strerror}; give 'bundled' or "
                "a file that quals-fast calibrate wrote"
            ) from error
        digest = hashlib.sha256(data).hexdigest()[:12]
        return cls._parsed("bundled" if source == "bundled" else path.name, digest, data)

    @classmethod
    def _parsed(cls, name: str, digest: str, data: bytes) -> Calibration:
        def refuse(problem: str) -> NoReturn:
            raise CalibrationError(
                f"{name} is no calibration: {problem}; write one with quals-fast calibrate"
            )

        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            refuse("it must be JSON")
        if not isinstance(content, dict) or "calibration_format" not in content:
            refuse("it must be an object with `calibration_format`")
        if content["calibration_format"] != FORMAT:
            raise CalibrationError(
                f"{name} has calibration format {content['calibration_format']!r}, but this "
                f"version of quals_fast reads format {FORMAT}; install a newer version, or write "
                "one with quals-fast calibrate"
            )
        settings = content.get("settings")
        if not (
            isinstance(settings, dict)
            and "model" in settings
            and all(isinstance(value, str) for value in settings.values())
        ):
            refuse("`settings` must be an object of texts, with `model` among them")
        if not isinstance(content.get("documents", []), list):
            refuse("`documents` must be an array")
        try:
            curve = _curve(content)
        except ValueError as error:
            refuse(str(error))
        return cls(name=name, digest=digest, curve=curve, settings=settings, content=content)

    def check(self, signature: str) -> None:
        """Check that scores with a signature are those that the calibration was fitted to.

        Raises:
            CalibrationError: they come from another model or other settings; the message names
                each, with both values.
        """
        own, other = self.settings, settings_of(signature)
        differing = [
            f"{key} {own.get(key, 'unknown')} (this scorer: {other.get(key, 'unknown')})"
            for key in dict.fromkeys([*own, *other])
            if _comparable(key, own.get(key)) != _comparable(key, other.get(key))
        ]
        if differing:
            raise CalibrationError(
                f"the calibration {self.name} is for other scores: {', '.join(differing)}; score "
                "as it says, or fit one for these scores with quals-fast calibrate"
            )

    def probability(self, row: SummaryScore) -> float | None:
        """Return the probability that people call a summary consistent; None without a score."""
        if row.status != "ok":
            return None
        measures = measures_of(row.score, len(row.pairs), row.truncated_tokens)
        return self.curve.probability(measures)

    def has_seen(self, document: str) -> bool:
        """Return whether the calibration was fitted on a document."""
        return document_key(document) in self.content.get("documents", ())


def settings_of(signature: str) -> dict[str, str]:
    """Return the parts of a signature that a calibration and a scorer must share."""
    parts = parts_of(signature)
    return {key: value for key, value in parts.items() if key not in _MAY_DIFFER}


def document_key(document: str) -> str:
    """Return a short hash of how a document begins, the same in any layout or case.

    Where the same document was cut off does not matter.
    """
    letters = "".join(islice(filter(str.isalnum, document.casefold()), _KEY_LETTERS))
    return hashlib.sha256(letters.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _comparable(key: str, value: str | None) -> str | None:
    """Return what must be equal: of a model its digest, since a folder may have any name."""
    return value.rpartition("@")[2] if key == "model" and value is not None else value


def _curve(content: dict[str, Any]) -> Curve:
    """Return the curve of a file; raise `ValueError` if it cannot be used."""
    method = content.get("method")
    if method == "logistic":
        coefficients = content.get("coefficients")
        if not isinstance(coefficients, dict) or not coefficients.keys() <= {*MEASURES}:
            raise ValueError(f"`coefficients` must be an object with {' or '.join(MEASURES)}")
        if not _are_numbers([content.get("intercept"), *coefficients.values()]):
            raise ValueError("`intercept` and `coefficients` must be finite numbers")
        return Logistic(content["intercept"], coefficients)
    if method == "isotonic":
        scores, probabilities = (content.get(name, []) for name in ("scores", "probabilities"))
        points: tuple[Any, Any] = (scores, probabilities)
        if not all(isinstance(one, list) and one and _are_numbers(one) for one in points):
            raise ValueError("`scores` and `probabilities` must be arrays of finite numbers")
        is_in_range = all(0 <= one <= 1 for one in probabilities)
        if len(scores) != len(probabilities) or not is_in_range or not _ascends(scores):
            raise ValueError(
                "`scores` must ascend, with a probability from 0 to 1 for each of them"
            )
        return Isotonic(tuple(scores), tuple(probabilities))
    raise ValueError(f"`method` must be 'logistic' or 'isotonic', but is {method!r}")


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(type(one) in (int, float) and math.isfinite(one) for one in values)


def _ascends(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))
