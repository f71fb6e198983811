"""Hugging Face's Trainer with batches under a token budget, perplexity, and safe checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from quals_fast.training.qagen import checkpoints
from quals_fast.training.qagen.batches import Examples, Plan, group
from quals_fast.training.qagen.clock import Clock
from quals_fast.training.qagen.network import Collator
from quals_fast.training.qagen.settings import TrainingError, Views
from quals_fast.training.qagen.starting_point import StartingPoint, save_folder

_EVALUATION_TOKENS = 8_000  # of a batch
_LARGEST_EXPONENT = 700  # math.exp raises beyond


class QagenTrainer(Seq2SeqTrainer):  # type: ignore[misc]
    """Trains a starting point on a plan of batches.

    Args:
        start: network, tokenizer and conventions.
        arguments: Hugging Face's.
        examples: of the run.
        plan: the batches of all processes.
        dev: questions to evaluate on, by view; empty evaluates nothing.
        report: takes lines about the progress.
        clock: ends the run in time; None leaves it all its steps.
    """

    def __init__(
        self,
        start: StartingPoint,
        arguments: Seq2SeqTrainingArguments,
        examples: Examples,
        plan: Plan,
        dev: Mapping[str, Examples],
        report: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self._start, self._plan, self._dev, self._clock = start, plan, dev, clock
        super().__init__(
            model=start.network,
            args=arguments,
            train_dataset=examples,
            eval_dataset=dict(dev) or None,
            data_collator=Collator(start.conventions.pad_token_id),
            callbacks=[_Lines(report), *([] if clock is None else [clock])],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the plan's batches, this process' share of them."""
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self._plan,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Return the schedule of the learning rate, which a clock may bring forward."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self._clock is not None:
            scheduler.lr_lambdas = [self._clock.in_time(one) for one in scheduler.lr_lambdas]
        return scheduler

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return nats per token and perplexity of question-answer pairs, and nats by view.

        ``eval_loss`` covers the views that generate pairs, not ``answer_given``.
        """
        self.model.eval()
        sums = {view: self._nats(examples) for view, examples in self._dev.items()}
        self.model.train()
        pairs = [(nats, tokens) for view, (nats, tokens) in sums.items() if view != "answer_given"]
        nats, tokens = (sum(column) for column in zip(*(pairs or sums.values()), strict=True))
        mean = nats / tokens
        perplexity = math.inf if mean > _LARGEST_EXPONENT else math.exp(mean)
        metrics = {"eval_loss": mean, "eval_perplexity": perplexity}
        metrics |= {f"eval_{view}_loss": nats / tokens for view, (nats, tokens) in sums.items()}
        self.log(dict(metrics))
        control: TrainerControl = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        return metrics

    def _nats(self, examples: Examples) -> tuple[float, float]:
        """Return the summed nats of all target tokens, and their number."""
        pairs = {place: examples[place] for place in range(len(examples))}
        mine = group(pairs, _EVALUATION_TOKENS)[self.args.process_index :: self.args.world_size]
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in mine:
            inputs = self._prepare_inputs(self.data_collator([pairs[place] for place in batch]))
            with self.compute_loss_context_manager():
                outputs = self.model(**inputs)
            total += torch.stack((outputs["nats"].double(), outputs["tokens"].double()))
        nats, tokens = self.accelerator.reduce(total, reduction="sum").tolist()
        return nats, tokens

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            save_folder(self._start, Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise TrainingError(
                f"the weights are no longer finite at step {self.state.global_step}, so they are "
                "not saved; earlier checkpoints are intact: start over with a lower "
                "--learning-rate, or from one of them with --init"
            )
        with checkpoints.writing(folder, removes=self.args.should_save):
            super()._save_checkpoint(model, trial)


class _Lines(TrainerCallback):  # type: ignore[misc]
    """Prints a line for each entry of the log."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last = (0, time.monotonic())

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock."""
        self._last = (state.global_step, time.monotonic())

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Print an entry."""
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        stamp = f"{time.strftime('%H:%M:%S')} step {state.global_step:,} of {state.max_steps:,}"
        if "loss" in logs:
            before, then = self._last
            self._last = (state.global_step, time.monotonic())
            pace = (self._last[1] - then) / max(1, state.global_step - before)
            self._report(
                f"{stamp}: loss {logs['loss']:.3f}, learning rate {logs['learning_rate']:.1e}, "
                f"{pace:.2f} s per step"
            )
        elif "eval_loss" in logs:
            views = [f"{v} {logs[k]:.4f}" for v in Views.names() if (k := f"eval_{v}_loss") in logs]
            self._report(
                f"{stamp}: perplexity {logs['eval_perplexity']:.3f} on the questions of --dev "
                f"(nats per token: {', '.join(views)})"
            )
