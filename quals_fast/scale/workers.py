"""Workers: processes of a Ray cluster, each with a scorer that is loaded once.

All workers of a job must score alike, so the first tells a coordinator what its scores depend on,
and any other that differs stops the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature as parameters_of
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from quals_fast.calibration import Calibration
from quals_fast.config import check_integer, check_number, settings_of
from quals_fast.models.checkpoint import check_fits, read_checkpoint
from quals_fast.models.hub import check_revision, is_hub_name
from quals_fast.scorer import QualsScorer
from quals_fast.signature import must_match

T = TypeVar("T")

MAX_ATTEMPTS = 3  # at what kills its worker: a batch, or loading the model
_PLACEMENT = ("device", "threads")  # follow from the resources that a worker gets
_OPTIONS = set(parameters_of(QualsScorer.from_pretrained).parameters) - {"model", *_PLACEMENT}
_NOT_LOADED = (ValueError, TypeError, OSError, MemoryError, RuntimeError, ImportError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How many workers there are, and what each has.

    Attributes:
        concurrency: the most workers, or the least and the most; None for as many as the cluster
            has room for. Ray starts the least at once, even if they leave no core to what reads.
        num_cpus: cores of a worker, and the threads that it computes with.
        num_gpus: GPUs of a worker; a fraction shares one among several. 0 scores on the CPU.

    Raises:
        ValueError: a number is out of range.
        TypeError: it is not a number.
    """

    concurrency: int | tuple[int, int] | None = None
    num_cpus: int = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        check_integer("num_cpus", self.num_cpus, 1)
        check_number("num_gpus", self.num_gpus, 0)
        bounds = self.concurrency
        if isinstance(bounds, tuple):
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"`concurrency` must be the most workers, or the least and the most, but got "
                    f"{bounds!r}"
                )
        elif bounds is not None:
            check_integer("concurrency", bounds, 1)

    def map(
        self, ds: Dataset, worker: type, *, batch_size: int, arguments: Mapping[str, Any]
    ) -> Dataset:
        """Return the results of `worker`, called with batches of `ds` as tables of pyarrow.

        Args:
            ds: the rows.
            worker: class of a `Worker`.
            batch_size: rows of a batch.
            arguments: of its constructor.
        """
        bounds = self.concurrency
        least, most = bounds if isinstance(bounds, tuple) else (1, bounds)
        return ds.map_batches(
            worker,
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus or None,
            fn_constructor_kwargs=dict(arguments),
        )

    def loading(self, model: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check what can be checked without a worker.

        Args:
            model: as for `QualsScorer.from_pretrained`.
            options: of the same.

        Returns:
            The arguments with which a worker calls it.

        Raises:
            TypeError: there is no such option.
            ValueError: a setting is wrong or does not fit the model.
            CheckpointError: the model cannot be used.
        """
        for name, instead in (("threads", "num_cpus"), ("device", "num_gpus")):
            if name in options:
                raise TypeError(
                    f"`{name}` follows from `{instead}`, but got {name}={options[name]!r}; give "
                    f"{instead}"
                )
        unknown = options.keys() - _OPTIONS
        if unknown:
            raise TypeError(
                f"options must be those of QualsScorer.from_pretrained, but got "
                f"{', '.join(sorted(unknown))}; it has {', '.join(sorted(_OPTIONS))}"
            )
        preset = settings_of(options.get("preset", "published"))
        check_revision(model, options.get("revision"))
        if not is_hub_name(model):
            from quals_fast.models.loading import model_folder

            folder = model_folder(model)
            check_fits(*read_checkpoint(folder), options.get("decoding") or preset.decoding)
            model = str(folder.resolve()) if Path(model).is_dir() else str(model)
        if options.get("calibration") is not None:  # workers need not have the file
            options = {**options, "calibration": Calibration.load(options["calibration"])}
        device = "cuda" if self.num_gpus else "cpu"
        return {**options, "model": model, "device": device, "threads": self.num_cpus}


def start_coordinator(expected: str | None = None) -> Any:
    """Start a `Coordinator` as an actor of the cluster; return its handle."""
    # On this node: without it the job ends anyway, while any other may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Coordinator).remote(expected)


class Coordinator:
    """What the workers of a job must know of one another.

    Args:
        expected: what the scores of the job depend on, if that is known.
    """

    def __init__(self, expected: str | None = None) -> None:
        self._expected = expected
        self._attempts: dict[str, int] = {}

    def agree(self, own: str) -> str:
        """Return what the scores of the job depend on: what the first worker says."""
        self._expected = self._expected or own
        return self._expected

    def begin(self, task: str) -> int:
        """Return how often a task has begun since it last ended."""
        self._attempts[task] = self._attempts.get(task, 0) + 1
        return self._attempts[task]

    def end(self, task: str) -> None:
        """Forget a task that is done."""
        self._attempts.pop(task, None)


class Worker:
    """A scorer in a process of the cluster.

    What is wrong with the model is said when the first batch comes: an error of a constructor
    reaches the caller as the death of a process.

    Args:
        loading: arguments of `QualsScorer.from_pretrained`.
        coordinator: handle of the job's coordinator.
    """

    def __init__(self, loading: dict[str, Any], coordinator: Any) -> None:
        self._coordinator = coordinator
        self._scorer: QualsScorer | None = None
        self._problem = ""
        task = f"loading {actor_id()}"
        if ray.get(coordinator.begin.remote(task)) > MAX_ATTEMPTS:
            self._problem = (
                f"{_here()} was killed {MAX_ATTEMPTS} times while it loaded the model, perhaps for "
                "lack of memory; give a worker more memory"
            )
            return
        try:
            self._scorer = QualsScorer.from_pretrained(**loading)
        except _NOT_LOADED as error:
            self._problem = f"{_here()} cannot load the model: {error}"
            return
        coordinator.end.remote(task)
        own = must_match(self._scorer.signature)
        expected = ray.get(coordinator.agree.remote(own))
        if own != expected:
            self._problem = (
                f"{_here()} would score as {own}, but the job has scores of {expected}; make the "
                "nodes alike, or set what differs, such as the dtype"
            )

    def once(self, task: str, work: Callable[[QualsScorer], T]) -> T:
        """Do a piece of work, unless it has killed its worker too often.

        Args:
            task: name of the work, which must be the same when Ray repeats it: the task id that a
                worker gets from Ray is another each time.
            work: what to do.

        Raises:
            RuntimeError: it has, or the worker cannot score.
        """
        if self._scorer is None or self._problem:
            raise RuntimeError(self._problem)
        attempts = ray.get(self._coordinator.begin.remote(task))
        if attempts > MAX_ATTEMPTS:
            raise RuntimeError(
                f"a batch has killed its worker {MAX_ATTEMPTS} times, perhaps for lack of memory; "
                "give a worker more memory, or lower max_batch_tokens"
            )
        result = work(self._scorer)
        self._coordinator.end.remote(task)
        return result


def actor_id() -> str:
    """Return the id of the worker, which it keeps when Ray starts it again."""
    return str(ray.get_runtime_context().get_actor_id())


def _here() -> str:
    return f"a worker on {ray.util.get_node_ip_address()} (process {os.getpid()})"
