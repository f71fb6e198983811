"""QUALS of generated summaries in the logs of a Hugging Face Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from transformers import EvalPrediction, Trainer, TrainerCallback

from quals_fast.results import QualsResult, SummaryScore
from quals_fast.scorer import QualsScorer
from quals_fast.training.adapters.background import BackgroundScorer
from quals_fast.training.adapters.rows import as_scorer, check_on_error, score_each, summarise
from quals_fast.training.adapters.summaries import generate_summaries
from quals_fast.validation import check_texts

_LOG = logging.getLogger("quals_fast.training")


class QualsCallback(TrainerCallback):  # type: ignore[misc]
    """Summarises documents at every evaluation, scores the summaries and logs `rows.summarise`.

    The keys, ``eval_quals`` and so on, are also put among the evaluation's metrics, where
    ``metric_for_best_model`` and callbacks that were added later find them. Several processes share
    the documents; each must hold the whole model.

    With a `BackgroundScorer` training goes on meanwhile. The scores are then logged, beside
    ``eval_quals_step`` that says of which step they are, after the first step that finds them done,
    or at the end, and are not among the metrics. Close it after training. One process only.

    Args:
        trainer: the callback's own, for its logs: ``trainer.add_callback(QualsCallback(trainer,
            documents))``.
        documents: to summarise.
        scorer: a scorer, the name or folder of a model, or a `BackgroundScorer`.
        batch_size: documents summarised at once.
        max_source_tokens: documents are cut to so many for the summariser.
        generate: arguments of the model's `generate`.
        n_resamples: of the interval.
        on_error: ``"skip"`` leaves failing rows out, logs and counts them; ``"raise"`` raises.
        prefix: of the keys.

    Raises:
        ValueError: no documents, no tokenizer, `on_error` is neither, or a background with several
            processes.
        TypeError: `documents` is not a list or vector.
    """

    def __init__(
        self,
        trainer: Trainer,
        documents: Sequence[str],
        scorer: QualsScorer | BackgroundScorer | str = "qagen-mini",
        *,
        batch_size: int = 8,
        max_source_tokens: int | None = None,
        generate: dict[str, Any] | None = None,
        n_resamples: int = 1000,
        on_error: str = "skip",
        prefix: str = "eval",
    ) -> None:
        self._documents: list[Any] = list(check_texts("documents", documents))
        if not self._documents:
            raise ValueError("`documents` must not be empty; give the documents to summarise")
        if trainer.processing_class is None:
            raise ValueError("`trainer` must have a tokenizer; give it one as processing_class=")
        self._background = scorer if isinstance(scorer, BackgroundScorer) else None
        if self._background is not None and trainer.accelerator.num_processes > 1:
            raise ValueError(
                "a `scorer` in the background is for one process, but got "
                f"{trainer.accelerator.num_processes}; give a QualsScorer"
            )
        self.scorer = None if isinstance(scorer, BackgroundScorer) else as_scorer(scorer)
        self._trainer = trainer
        self._reading: dict[str, Any] = {
            "batch_size": batch_size,
            "max_source_tokens": max_source_tokens,
        }
        self._generate = dict(generate or {})
        self._n_resamples, self._prefix = n_resamples, prefix
        self._on_error = check_on_error(on_error)
        self._waiting: list[tuple[int, Future[QualsResult]]] = []

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Summarise and score, or hand the summaries to the background."""
        accelerator = self._trainer.accelerator
        mine = self._documents[accelerator.process_index :: accelerator.num_processes]
        generated = generate_summaries(
            accelerator.unwrap_model(self._trainer.model),
            self._trainer.processing_class,
            mine,
            **self._reading,
            **self._generate,
        )
        summaries = [one for (one,) in generated]
        if self._background is not None:
            self._waiting.append((state.global_step, self._background.score_async(mine, summaries)))
            return
        assert self.scorer is not None
        rows = score_each(self.scorer, mine, summaries, self._on_error)
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            rows = gather_object(rows)
        metrics.update(self._log(rows))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log what the background has done."""
        self._collect(wait=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the background and log the rest."""
        self._collect(wait=True)

    def _collect(self, *, wait: bool) -> None:
        while self._waiting and (wait or self._waiting[0][1].done()):
            step, future = self._waiting.pop(0)
            error = future.exception()
            if error is not None and self._on_error == "raise":
                raise error
            if error is not None:
                _LOG.warning("the summaries of step %d have no scores: %s", step, error)
                continue
            self._log(list(future.result().flat()), quals_step=step)

    def _log(self, rows: list[SummaryScore], **more: float) -> dict[str, float]:
        values = summarise(rows, n_resamples=self._n_resamples) | more
        logged = {f"{self._prefix}_{key}": value for key, value in values.items()}
        self._trainer.log(dict(logged))  # it adds to what it is given
        return logged


def quals_compute_metrics(
    tokenizer: Any,
    scorer: QualsScorer | str = "qagen-mini",
    *,
    documents: Sequence[str] | None = None,
    n_resamples: int = 1000,
    on_error: str = "skip",
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a `compute_metrics` for Seq2SeqTrainer, which needs ``predict_with_generate=True``.

    Every process that computes metrics scores all summaries.

    Args:
        tokenizer: of the summariser.
        scorer: a scorer, or the name or folder of a model.
        documents: of the evaluation set, in its order. None decodes them from the model's inputs,
            which are cut to its length and need ``include_for_metrics=["inputs"]``.
        n_resamples: of the interval.
        on_error: ``"skip"`` leaves failing rows out, logs and counts them; ``"raise"`` raises.

    Returns:
        A function to the values of `rows.summarise`. It raises ValueError where the documents are
        not as many as the summaries or not to be had, or where it is given logits.

    Raises:
        TypeError: `documents` is not a list or vector.
        ValueError: `on_error` is neither.
    """
    given = None if documents is None else check_texts("documents", documents)
    scores, mode = as_scorer(scorer), check_on_error(on_error)

    def decode(ids: Any) -> list[str]:
        ids = np.asarray(ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                "quals_compute_metrics needs generated token ids, but got logits, of shape "
                f"{ids.shape}; set predict_with_generate=True in Seq2SeqTrainingArguments"
            )
        padded = np.where(ids < 0, tokenizer.pad_token_id, ids)  # the Trainer pads with -100
        texts: list[str] = tokenizer.batch_decode(padded, skip_special_tokens=True)
        return texts

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted = prediction.predictions
        summaries = decode(predicted[0] if isinstance(predicted, tuple) else predicted)
        texts = given
        if texts is None:
            if prediction.inputs is None:
                raise ValueError(
                    "quals_compute_metrics needs the documents, but got no `documents` and the "
                    "Trainer passes no inputs; give documents=, or include_for_metrics=['inputs'] "
                    "to Seq2SeqTrainingArguments"
                )
            texts = decode(prediction.inputs)
        return summarise(score_each(scores, texts, summaries, mode), n_resamples=n_resamples)

    return compute_metrics
