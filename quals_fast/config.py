"""Settings of the search and of the score: frozen, and validated on creation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Rule = Literal["fairseq09", "hamming"]
SummaryLogprob = Literal["model", "search"]
Tokens = Literal["all", "answer"]


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless a setting is one of its choices."""
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be {expected}, but got {value!r}")


def check_integer(name: str, value: object, least: int) -> None:
    """Raise `TypeError` or `ValueError` unless a setting is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, but got {type(value).__name__} {value!r}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, but got {value}")


def check_number(
    name: str, value: object, least: float = -math.inf, most: float = math.inf
) -> None:
    """Raise `TypeError` or `ValueError` unless a setting is a finite number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a number, but got {type(value).__name__} {value!r}")
    if not math.isfinite(value) or not least <= value <= most:
        bounds = [] if least == -math.inf else [f"of at least {least:g}"]
        bounds += [] if most == math.inf else [f"of at most {most:g}"]
        wanted = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"`{name}` must be {wanted}, but got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingConfig:
    """Settings of the diverse beam search that generates question-answer pairs from a summary.

    The defaults are the published settings: 60 beams, 60 groups, penalty 0.5 (arXiv 2105.04623,
    amazon-science/fact-check-summarization).

    Args:
        rule: The search rule. ``"fairseq09"`` is the search of the published program, ``"hamming"``
            that of the diverse beam search paper and of Hugging Face transformers up to 4.56. The
            two find different pairs.
        num_beams: Number of hypotheses for each summary.
        num_beam_groups: Number of groups that the beams are split into. Groups avoid the tokens
            that earlier groups chose. Must divide `num_beams`.
        diversity_penalty: Penalty in nats, subtracted from a token's log-probability for each use
            by an earlier group.
        length_penalty: Exponent from -10 to 10. A hypothesis scores its summed log-probability
            divided by ``length ** length_penalty``.
        min_length: Minimum number of tokens before EOS.
        max_length: Maximum number of tokens before EOS.

    Raises:
        ValueError: If a value is out of range, or `num_beam_groups` does not divide `num_beams`.
        TypeError: If a value has the wrong type.
    """

    rule: Rule = "fairseq09"
    num_beams: int = 60
    num_beam_groups: int = 60
    diversity_penalty: float = 0.5
    length_penalty: float = 1.0
    min_length: int = 8
    max_length: int = 60

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, get_args(Rule))
        check_integer("num_beams", self.num_beams, 1)
        check_integer("num_beam_groups", self.num_beam_groups, 1)
        if self.num_beams % self.num_beam_groups:
            divisors = [n for n in range(1, self.num_beams + 1) if self.num_beams % n == 0]
            raise ValueError(
                f"`num_beam_groups` must divide `num_beams`, but got {self.num_beam_groups} groups "
                f"for {self.num_beams} beams; use one of {', '.join(map(str, divisors))}"
            )
        check_number("diversity_penalty", self.diversity_penalty, 0.0)
        check_number("length_penalty", self.length_penalty, -10.0, 10.0)
        check_integer("min_length", self.min_length, 0)
        check_integer("max_length", self.max_length, 1)
        if self.max_length < self.min_length:
            raise ValueError(
                f"`max_length` must be at least `min_length`, but got {self.max_length} "
                f"with a `min_length` of {self.min_length}"
            )

    @property
    def group_size(self) -> int:
        """Beams in one group."""
        return self.num_beams // self.num_beam_groups

    @property
    def min_vocab_size(self) -> int:
        """Number of usable tokens that a model needs for every group to find its candidates."""
        return 2 * self.group_size + 2

    @property
    def max_candidates(self) -> int:
        """Number of top tokens per row that the search needs: it can never choose any other.

        Source: docs/semantics.md 1.1, shortcut.
        """
        return 2 * self.num_beams if self.rule == "fairseq09" else self.num_beams + self.group_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """Settings that turn question-answer pairs into a score.

    Args:
        summary_logprob: Which log-probabilities given the summary to use: ``"model"``, the model's
            own, or ``"search"``, the search scores, which include the diversity penalty, as in the
            published program.
        tokens: Which tokens of a pair count: ``"all"``, as published, or ``"answer"``, those after
            SEP, EOS included. docs/models.md says for which summaries that is better.
        max_pairs: Stop selecting pairs at the end of the round in which this number is reached. In
            a round, each distinct answer gets a turn, so there may be more pairs. None selects all
            distinct pairs.
        no_pairs_score: Score of a summary that yields no pairs. None gives NaN.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If a value has the wrong type.
    """

    summary_logprob: SummaryLogprob = "model"
    tokens: Tokens = "all"
    max_pairs: int | None = 10
    no_pairs_score: float | None = None

    def __post_init__(self) -> None:
        check_choice("summary_logprob", self.summary_logprob, get_args(SummaryLogprob))
        check_choice("tokens", self.tokens, get_args(Tokens))
        if self.max_pairs is not None:
            check_integer("max_pairs", self.max_pairs, 1)
        if self.no_pairs_score is not None:
            check_number("no_pairs_score", self.no_pairs_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named settings.

    Attributes:
        decoding: Settings of the search.
        scoring: Settings of the score.
        about: What distinguishes them, in a few words.
    """

    decoding: DecodingConfig
    scoring: ScoringConfig
    about: str


PRESETS = {
    "published": Preset(
        decoding=DecodingConfig(), scoring=ScoringConfig(), about="the settings of the QUALS paper"
    ),
    "fast": Preset(
        decoding=DecodingConfig(num_beams=30, num_beam_groups=30),
        scoring=ScoringConfig(),
        about="30 beams instead of 60",
    ),
}


def settings_of(name: str) -> Preset:
    """Return the settings of a preset in `PRESETS`.

    Raises:
        ValueError: If there is no such preset.
    """
    check_choice("preset", name, tuple(PRESETS))
    return PRESETS[name]
