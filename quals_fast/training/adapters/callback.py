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
    """Callback of a Hugging Face Trainer that logs the QUALS of generated summaries.

    At every evaluation, the model in training summarises `documents`, and the summaries are scored.
    The log gets the mean score ``eval_quals`` in nats per token, its 95 % interval
    (``eval_quals_low``, ``eval_quals_high``), and the number of summaries with a score
    (``eval_quals_scored``) and without one, by reason (``eval_quals_no_pairs``,
    ``eval_quals_empty``, ``eval_quals_unknown``, ``eval_quals_error``). These values are also added
    to the evaluation's metrics, where ``metric_for_best_model`` and callbacks that were added later
    find them. Several processes share the documents; each must hold the whole model.

    With a `BackgroundScorer`, training continues while summaries are scored. Scores are then logged
    after the first step at which they are ready, or at the end of training, with
    ``eval_quals_step``, the step that they belong to. They are not added to the metrics. This works
    with one process only. Close the `BackgroundScorer` after training.

    Args:
        trainer: The trainer that the callback is added to.
        documents: Texts to summarise.
        scorer: A scorer, the name or folder of a model, or a `BackgroundScorer`.
        batch_size: Number of documents to summarise at once.
        max_source_tokens: Truncate documents to this many tokens for the summariser. By default,
            only tokenizer and model limit the length.
        generate: Arguments for the model's ``generate``.
        n_resamples: Number of bootstrap resamples for the interval.
        on_error: ``"skip"`` leaves failing rows out of the mean, and logs and counts them;
            ``"raise"`` raises the error.
        prefix: Prefix of the keys.

    Raises:
        ValueError: If there are no documents, the trainer has no tokenizer, `on_error` is invalid,
            or `scorer` is a `BackgroundScorer` and there are several processes.
        TypeError: If `documents` is not a list or vector.

    Example:
        ```python
        trainer.add_callback(QualsCallback(trainer, documents))
        ```
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
            raise ValueError("`trainer` must have a tokenizer, but has none; set processing_class=")
        self._background = scorer if isinstance(scorer, BackgroundScorer) else None
        if self._background is not None and trainer.accelerator.num_processes > 1:
            raise ValueError(
                "a BackgroundScorer as `scorer` needs a single process, but got "
                f"{trainer.accelerator.num_processes}; use a QualsScorer"
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
        """Log scores that are ready."""
        self._collect(wait=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the remaining scores and log them."""
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
        self._trainer.log(dict(logged))  # a copy, since log() adds keys
        return logged


def quals_compute_metrics(
    tokenizer: Any,
    scorer: QualsScorer | str = "qagen-mini",
    *,
    documents: Sequence[str] | None = None,
    n_resamples: int = 1000,
    on_error: str = "skip",
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Create a ``compute_metrics`` function for Hugging Face's ``Seq2SeqTrainer``.

    The trainer needs ``predict_with_generate=True``. Every process that computes metrics scores
    all summaries.

    Args:
        tokenizer: Tokenizer of the summariser.
        scorer: A scorer, or the name or folder of a model.
        documents: Documents of the evaluation set, in its order. By default, they are decoded from
            the model's inputs. These may be truncated, and need
            ``include_for_metrics=["inputs"]``.
        n_resamples: Number of bootstrap resamples for the interval.
        on_error: ``"skip"`` leaves failing rows out of the mean, and logs and counts them;
            ``"raise"`` raises the error.

    Returns:
        A function that returns the mean score ``quals`` in nats per token, its 95 % interval
        (``quals_low``, ``quals_high``), and the number of summaries with a score
        (``quals_scored``) and without one, by reason (``quals_no_pairs``, ``quals_empty``,
        ``quals_unknown``, ``quals_error``). It raises `ValueError` if it gets logits instead of
        token ids, if the documents are missing, or if their number differs from that of the
        summaries.

    Raises:
        TypeError: If `documents` is not a list or vector.
        ValueError: If `on_error` is invalid.
    """
    given = None if documents is None else check_texts("documents", documents)
    scores, mode = as_scorer(scorer), check_on_error(on_error)

    def decode(ids: Any) -> list[str]:
        ids = np.asarray(ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                "quals_compute_metrics needs generated token ids, but got logits of shape "
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
                    "quals_compute_metrics needs the documents, but `documents` was not given and "
                    "the Trainer passes no inputs; give documents=, or set "
                    "include_for_metrics=['inputs'] in Seq2SeqTrainingArguments"
                )
            texts = decode(prediction.inputs)
        return summarise(score_each(scores, texts, summaries, mode), n_resamples=n_resamples)

    return compute_metrics
