"""Settings of a training run: frozen, validated when they are made; no torch in here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Self, get_args

LongContexts = Literal["around", "start"]
AbsentAnswers = Literal["drop", "keep"]
Bf16 = Literal["auto", "on", "off"]


class TrainingError(ValueError):
    """A run that cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Shares of the views in which questions are shown; together 1.

    Args:
        window: only the sentences around the answer, about as much as a summary has.
        passage: the whole passage.
        distractors: the passage among others of its article, or else near it in the file, up to
            the model's positions.
        answer_given: a window with the answer behind a separator as source, and the question alone
            as target: the mode in which QAGS generates questions, which QUALS never uses.

    Raises:
        ValueError: a share is negative, or they are not 1 together.
    """

    window: float = 0.65
    passage: float = 0.24
    distractors: float = 0.11
    answer_given: float = 0.0

    def __post_init__(self) -> None:
        if not all(share >= 0 for share in self.shares) or not math.isclose(sum(self.shares), 1):
            raise ValueError(
                f"the shares of the views must be 0 or more and 1 together, but got {self}, which "
                f"is {sum(self.shares):g}; a view that is not named has none"
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares, in the order of `names`."""
        return tuple(getattr(self, name) for name in self.names())

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return what the views are called."""
        return tuple(one.name for one in fields(cls))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``window=0.6,passage=0.4``; what is not named has no share.

        Raises:
            ValueError: no such view, no number, or as for the class.
        """
        shares = dict.fromkeys(cls.names(), 0.0)
        for part in text.split(","):
            name, _, share = part.strip().partition("=")
            if name not in shares:
                raise ValueError(
                    f"views are {', '.join(shares)}, but got {part.strip()!r}; write them as "
                    "window=0.6,passage=0.4"
                )
            try:
                shares[name] = float(share)
            except ValueError:
                raise ValueError(
                    f"the share of {name!r} must be a number, but got {share!r}"
                ) from None
        return cls(**shares)

    def __str__(self) -> str:
        return ",".join(f"{n}={s:g}" for n, s in zip(self.names(), self.shares, strict=True) if s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """What a run is made of.

    Args:
        train: files of questions, SQuAD-format JSON or JSON lines.
        output: folder for checkpoints and, in the end, the model.
        init: a local BART folder, a bundled model's name, a name on the Hugging Face hub, or
            ``minilm:FOLDER`` for a BART made of a BERT-family encoder.
        dev: file of questions to evaluate on; None evaluates nothing.
        decoder_layers: for ``minilm:``, the encoder layers that the decoder's start from.
        sep_token: of an `init` that has no separator yet; by default an unused token of its
            vocabulary, or else a new one.
        positions: of encoder and decoder, where `init` has fewer; new ones start as copies.
        prune: leave out of a WordPiece vocabulary what no text of `train` uses.
        epochs: passes over the questions.
        examples: questions to show, in place of `epochs`.
        minutes: end training by then, counted from the start of the call and saving not included;
            the rate falls in time, however many steps are done. None does all steps.
        learning_rate: between warm-up and decay.
        warmup_steps: over which the rate rises from 0.
        decay: share of all steps, at the end, over which it falls to 0; with 0 it stays, so that
            the run may be prolonged.
        batch_tokens: budget of a batch; a target's token counts 2.5, because of the LM head.
        accumulate: batches a step, on each device.
        dropout: of states; attention and activations then have none, which on a CPU would cost as
            much time as all else. None takes what `init` says of all three.
        label_smoothing: share of each target's weight that is spread over the whole vocabulary.
        views: in which questions are shown.
        early_views: in place of `views` for the first `early_examples`.
        early_examples: how many; short texts at first make a cheap start.
        together: questions that may share one text, so that it is encoded once for all. Shares of
            views are then shares of texts. A pass ends when three questions in ten are left, since
            few of these share a text; they lead the next one.
        renamed: share of texts in which some answers are renamed, in the text and its questions.
        window_sentences: the most that a window shows.
        window_words: beyond which a window takes no further sentence.
        passage_words: to which longer passages are cut around the answer; None goes by the model's
            positions, as passages with distractors do.
        long_contexts: what is left of a source beyond the positions: a part ``"around"`` the
            answer, or its ``"start"``.
        absent_answers: questions whose answer does not stand in their context: ``"drop"`` or
            ``"keep"``.
        skip_invalid: leave out and count what lacks a field, instead of refusing the file.
        caps: most questions of a source, by its name up to the first hyphen.
        every: steps between checkpoints, and between evaluations.
        keep: checkpoints to keep, besides the best one.
        patience: evaluations without improvement after which the run stops; the best checkpoint is
            then the result. None never stops early.
        dev_questions: how many to evaluate on, drawn at random; None takes all.
        seed: of order, views, dropout and draws.
        bf16: ``"auto"`` takes it where the device has it.
        cpu: train on the CPU even if there is a GPU.
        threads: for torch; None leaves its own choice.
        workers: processes that prepare batches; with 0 the training process does it between steps.

    Raises:
        ValueError: a value out of range.
    """

    train: tuple[Path, ...]
    output: Path
    init: str
    dev: Path | None = None
    decoder_layers: tuple[int, ...] = (1, 3, 5)
    sep_token: str | None = None
    positions: int | None = None
    prune: bool = False
    epochs: float = 3.0
    examples: int | None = None
    minutes: float | None = None
    learning_rate: float = 3e-5
    warmup_steps: int = 300
    decay: float = 0.2
    batch_tokens: int = 6_000
    accumulate: int = 1
    dropout: float | None = None
    label_smoothing: float = 0.0
    views: Views = field(default_factory=Views)
    early_views: Views | None = None
    early_examples: int = 0
    together: int = 1
    renamed: float = 0.0
    window_sentences: int = 4
    window_words: int = 65
    passage_words: int | None = None
    long_contexts: LongContexts = "around"
    absent_answers: AbsentAnswers = "drop"
    skip_invalid: bool = False
    caps: dict[str, int] = field(default_factory=dict)
    every: int = 500
    keep: int = 2
    patience: int | None = None
    dev_questions: int | None = 1_000
    seed: int = 0
    bf16: Bf16 = "auto"
    cpu: bool = False
    threads: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        at_least = {
            "accumulate": 1, "batch_tokens": 1, "together": 1, "window_sentences": 1,
            "window_words": 1, "every": 1, "keep": 2, "warmup_steps": 0, "early_examples": 0,
            "examples": 1, "patience": 1, "dev_questions": 1, "passage_words": 1, "threads": 1,
            "positions": 1, "workers": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, but got {value}")
        for name in ("learning_rate", "epochs", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be positive, but got {value}")
        for name in ("decay", "dropout", "label_smoothing", "renamed"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, but got {share}")
        choices = {"long_contexts": LongContexts, "absent_answers": AbsentAnswers, "bf16": Bf16}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                expected = " or ".join(map(repr, get_args(kind)))
                raise ValueError(f"`{name}` must be {expected}, but got {getattr(self, name)!r}")
        if not self.train:
            raise ValueError("`train` must name at least one file")
        if (self.early_views is None) != (self.early_examples == 0):
            raise ValueError("`early_views` and `early_examples` belong together; give both")
        if self.patience is not None and self.dev is None:
            raise ValueError("`patience` needs `dev`, the questions to evaluate on")
        if any(cap < 1 for cap in self.caps.values()):
            raise ValueError(f"`caps` must be at least 1, but got {self.caps}")

    @property
    def window_extra(self) -> int:
        """Neighbours that a window may show beside the answer's own sentence."""
        return self.window_sentences - 1
