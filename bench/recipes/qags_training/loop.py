"""The training loop of the benchmarks' small networks: length-sorted batches, decay, resume."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

_BATCHES_PER_POOL = 32
_WARMUP = 0.05
_SECONDS_BETWEEN_CHECKPOINTS = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a run is made of: its seed and its few numbers.

    With `minutes`, a run that turns out slower ends in time all the same: its learning rate
    follows the clock wherever the clock is ahead of the examples.
    """

    examples: int
    minutes: float | None
    batch_size: int
    learning_rate: float
    seed: int
    threads: int


class Task(Protocol):
    """A network in training: how it draws an example and what a batch costs.

    Attributes:
        size: how many different questions there are.
        network: whose parameters are trained where they require a gradient.
    """

    size: int
    network: Any

    def draw(self, question: int, rng: random.Random, progress: float) -> Any:
        """Return an encoded example; its length decides its batch."""

    def loss(self, batch: list[Any]) -> Tensor:
        """Return the mean loss of a batch."""


def train(task: Task, recipe: Recipe, folder: Path) -> Path:
    """Train, or go on where the checkpoint in `folder` ends; return the checkpoint's path."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    weights = {n: p for n, p in task.network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in weights.values() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in weights.values() if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    done = 0
    if path.is_file():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        task.network.load_state_dict(saved["weights"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])
        done = int(saved["done"])
    console = Console(width=100)
    began_at, clock = time.monotonic(), 0.0
    start = done / recipe.examples
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.1f} %"))
    saved_at = time.monotonic()
    task.network.train()
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        shown = bar.add_task("training", total=recipe.examples, completed=done)
        while done < recipe.examples and clock < 1:
            losses, began = [], time.monotonic()
            for batch in _pool(task, recipe, done, max(clock, done / recipe.examples)):
                if recipe.minutes is not None:
                    spent = (time.monotonic() - began_at) / 60 / recipe.minutes
                    clock = start + (1 - start) * spent
                progress = max(clock, done / recipe.examples)
                if progress >= 1:
                    break
                rate = recipe.learning_rate * _schedule(progress, done / recipe.examples)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = task.loss(batch)
                loss.backward()
                nn.utils.clip_grad_norm_(weights.values(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                done += len(batch)
                bar.update(shown, completed=done)
            if not losses:
                break
            speed = len(losses) * recipe.batch_size / (time.monotonic() - began)
            mean = sum(losses) / len(losses)
            stamp = time.strftime("%H:%M:%S")
            console.print(f"{stamp} {done:>7,} examples, loss {mean:.3f}, {speed:.1f} a second")
            if time.monotonic() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS:
                _save(path, weights, optimizer, done, recipe)
                saved_at = time.monotonic()
    _save(path, weights, optimizer, done, recipe)
    return path


def _pool(task: Task, recipe: Recipe, done: int, progress: float) -> Iterator[list[Any]]:
    """Draw the next examples, put those of like length together, and shuffle the batches."""
    rng = random.Random(f"{recipe.seed} {done}")
    count = _BATCHES_PER_POOL * recipe.batch_size
    drawn = []
    for place in range(done, done + count):
        question = _order(task.size, recipe.seed, place // task.size)[place % task.size]
        drawn.append(task.draw(question, rng, progress))
    drawn.sort(key=len)
    batches = [drawn[i : i + recipe.batch_size] for i in range(0, count, recipe.batch_size)]
    rng.shuffle(batches)
    yield from batches


_orders: dict[tuple[int, int, int], list[int]] = {}


def _order(size: int, seed: int, epoch: int) -> list[int]:
    """Return the order of an epoch's questions."""
    key = (size, seed, epoch)
    if key not in _orders:
        _orders[key] = list(range(size))
        random.Random(f"order {seed} {epoch}").shuffle(_orders[key])
    return _orders[key]


def _schedule(progress: float, done: float) -> float:
    return min(done / _WARMUP + 1e-3, max(0.0, (1 - progress) / (1 - _WARMUP)))


def _save(
    path: Path,
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    done: int,
    recipe: Recipe,
) -> None:
    content = {
        "weights": {name: p.detach() for name, p in weights.items()},
        "optimizer": optimizer.state_dict(),
        "done": done,
        "recipe": {name: getattr(recipe, name) for name in recipe.__dataclass_fields__},
    }
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)
