"""Settings of a training run: frozen, and validated on creation. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Self, get_args

from quals_fast.models.hub import check_revision

LongContexts = Literal["around", "start"]
AbsentAnswers = Literal["drop", "keep"]
Bf16 = Literal["auto", "on", "off"]


class TrainingError(ValueError):
    """A run cannot start or continue; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Shares of the views in which questions are shown; they sum to 1.

    Args:
        window: only the sentences around the answer, about as long as a summary.
        passage: the whole passage.
        distractors: the passage among others of its article, or else near it in the file, up to
            the model's positions.
        answer_given: a window, a separator and the answer as source, and only the question as
            target: the mode in which QAGS generates questions, which QUALS never uses.

    Raises:
        ValueError: a share is negative, or the shares do not sum to 1.
    """

    window: float = 0.65
    passage: float = 0.24
    distractors: float = 0.11
    answer_given: float = 0.0

    def __post_init__(self) -> None:
        if not all(share >= 0 for share in self.shares) or not math.isclose(sum(self.shares), 1):
            raise ValueError(
                f"the shares of the views must be at least 0 and sum to 1, but got {self}, which "
                f"sums to {sum(self.shares):g}; views that are not named have share 0"
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares, in the order of `names`."""
        return tuple(getattr(self, name) for name in self.names())

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the views."""
        return tuple(one.name for one in fields(cls))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``window=0.6,passage=0.4``; views that are not named have share 0.

        Raises:
            ValueError: a view is unknown, a share is not a number, or as for the class.
        """
        shares = dict.fromkeys(cls.names(), 0.0)
        for part in text.split(","):
            name, _, share = part.strip().partition("=")
            if name not in shares:
                raise ValueError(
                    f"views must be among {', '.join(shares)}, but got {part.strip()!r}; write "
                    "them as window=0.6,passage=0.4"
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
    """Settings of a training run.

    Args:
        train: files of questions, SQuAD-format JSON or JSON lines.
        output: folder for checkpoints and the trained model.
        init: model to start from: a local BART or T5 folder, a bundled model's name, a name on the
            Hugging Face hub, or ``minilm:FOLDER`` for a BART built from a BERT-family encoder.
        revision: branch, tag or commit of an `init` on the hub; by default, its main branch.
        dev: file of questions to evaluate on; None means no evaluation.
        decoder_layers: with ``minilm:``, the encoder layers that are copied into the decoder.
        sep_token: separator for an `init` that has none; by default, an unused token of its
            vocabulary, or else a new one.
        positions: extend encoder and decoder to this many positions; new ones start as copies. A T5
            has no table of positions: this is the length at which its sources are cut.
        prune: remove tokens that no text of `train` uses from a WordPiece vocabulary.
        epochs: passes over the questions.
        examples: number of questions to show, in place of `epochs`.
        minutes: stop training after this many minutes from the start of the call, not counting the
            saving of the model; the learning rate reaches 0 in time, whatever number of steps was
            done. None means no time limit.
        learning_rate: peak learning rate, between warm-up and decay.
        warmup_steps: steps in which the learning rate rises from 0.
        decay: share of all steps over which the learning rate falls to 0 at the end; with 0 it
            stays at its peak, so that the run can be extended.
        batch_tokens: maximum size of a batch; target tokens count 2.5 times, because of the LM
            head.
        accumulate: batches per step, on each device.
        dropout: dropout of hidden states; attention and activations then have none, which on a CPU
            would take as long as everything else. A T5 has one rate for all. None means the values
            of `init`.
        label_smoothing: share of each target's weight that is spread over the whole vocabulary.
        views: shares of the views in which questions are shown.
        early_views: views for the first `early_examples` questions, in place of `views`.
        early_examples: number of these questions; short texts make the start cheap.
        together: maximum number of questions that share a text, which is encoded once for all of
            them. Shares of views are then shares of texts. A pass ends when three in ten questions
            are left, since few of these share a text; they lead the next pass.
        renamed: share of texts in which some answers are renamed, in the text and its questions.
        window_sentences: maximum number of sentences in a window.
        window_words: a window takes no further sentence beyond this many words.
        passage_words: cut longer passages to this many words around the answer; None means the
            limit of the model's positions, as for passages with distractors.
        long_contexts: which part of a source beyond the model's positions is kept: a part
            ``"around"`` the answer, or its ``"start"``.
        absent_answers: what to do with questions whose answer does not occur in the context:
            ``"drop"`` or ``"keep"``.
        skip_invalid: skip and count entries that lack a field, instead of refusing the file.
        caps: maximum number of questions by source (its name up to the first hyphen).
        every: steps between checkpoints, and between evaluations.
        keep: number of checkpoints to keep, besides the best one.
        patience: stop after this many evaluations without improvement and use the best checkpoint.
            None never stops early.
        dev_questions: number of questions to evaluate on, drawn at random; None means all.
        seed: random seed for order, views, dropout and draws.
        bf16: bfloat16 mixed precision; ``"auto"`` uses it if the device supports it.
        cpu: train on the CPU even if a GPU is available.
        threads: CPU threads of torch; None leaves torch's own choice.
        workers: processes that prepare batches; with 0, the training process does it between steps.

    Raises:
        ValueError: a value is out of range.
    """

    train: tuple[Path, ...]
    output: Path
    init: str
    revision: str | None = None
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
                raise ValueError(f"`{name}` must be between 0 and 1, but got {share}")
        choices = {"long_contexts": LongContexts, "absent_answers": AbsentAnswers, "bf16": Bf16}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                expected = " or ".join(map(repr, get_args(kind)))
                raise ValueError(f"`{name}` must be {expected}, but got {getattr(self, name)!r}")
        check_revision(self.init, self.revision)
        if not self.train:
            raise ValueError("`train` must name at least one file")
        if (self.early_views is None) != (self.early_examples == 0):
            raise ValueError("`early_views` and `early_examples` go together; give both or none")
        if self.patience is not None and self.dev is None:
            raise ValueError("`patience` needs `dev`, questions to evaluate on")
        if any(cap < 1 for cap in self.caps.values()):
            raise ValueError(f"`caps` must be at least 1, but got {self.caps}")

    @property
    def window_extra(self) -> int:
        """Sentences that a window may show besides the answer's own."""
        return self.window_sentences - 1
