"""How fast is each operation, in every implementation that runs on this machine?

    pytest bench/bench_operations.py --benchmark-enable

Takes the first workload of each benchmark in bench/ops: one summary, sizes of the bundled model. On
a GPU, the Triton kernels and eager torch are timed, launches included; bench/ops measures device
times, at all sizes. On a CPU, eager torch is timed, and what the CPU engine uses instead. Eager is
the reference, so every other implementation is compared with it first. Triton's interpreter is left
out, since it says nothing about speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from quals_fast_kernels.group_select_host import group_select_host
from torch import Tensor

from bench.gpu.stages import OPS
from bench.ops.common import DEVICE, Case, inequality
from bench.shared.common import synchronize
from quals_fast.models.integers import has_fast_int8
from quals_fast.models.lm_head import CpuLMHead, ScreenedLMHead
from quals_fast.ops import EAGER
from quals_fast.reference.tolerances import QUALS

SCREENED = 0.05  # nats that 8-bit integers may move a row's log-probabilities


class Implementation(NamedTuple):
    """One way to compute an operation.

    Attributes:
        call: computes it on the case's inputs.
        error: returns how far the result is from eager's, over what is allowed.
    """

    call: Callable[[], Any]
    error: Callable[[], float]


@cache
def case_of(op: str, tiny: bool = False) -> Case:
    """Return an operation's first workload."""
    torch.manual_seed(0)
    first: Case = next(iter(import_module(f"bench.ops.bench_{op}").cases(tiny)))
    return first


def implementations(op: str, case: Case) -> dict[str, Implementation]:
    """Return all implementations of an operation that run here."""
    eager = case.providers["eager"]
    reference = Implementation(eager, lambda: 0.0)
    if DEVICE == "cuda":
        kernel = Implementation(case.providers["triton"], case.agree)
        return {"triton": kernel, "eager": reference}
    assert isinstance(eager, partial)
    return {"eager": reference} | _ON_CPU.get(op, lambda eager: {})(eager)


def _group_select(eager: partial[Any]) -> dict[str, Implementation]:
    arrays: list[Any] = [None if x is None else x.numpy() for x in eager.args]
    call = partial(group_select_host, *arrays, **eager.keywords)

    def error() -> float:
        return inequality(map(torch.from_numpy, call()), eager())

    return {"numpy": Implementation(call, error)}


def _lm_head_topk(eager: partial[Any]) -> dict[str, Implementation]:
    hidden, weight, bias, k, suppressed = eager.args
    found = {}
    for name, (head, tolerance) in _heads(weight, bias).items():
        call = partial(head.topk, hidden, k, suppressed, exact_edge=False)
        found[name] = Implementation(call, partial(_error_of_best, call, eager, tolerance))
    return found


def _linear_logprob(eager: partial[Any]) -> dict[str, Implementation]:
    hidden, weight, bias, target_ids = eager.args
    found = {}
    for name, (head, tolerance) in _heads(weight, bias).items():
        call = partial(head.logprob, hidden, target_ids)
        found[name] = Implementation(call, partial(_error, call, eager, tolerance))
    return found


def _heads(weight: Tensor, bias: Tensor) -> dict[str, tuple[CpuLMHead, float]]:
    """Return the LM heads of the CPU engine, and how far they may be from eager."""
    heads = {"blocks": (CpuLMHead(weight, bias, EAGER), QUALS)}
    if has_fast_int8():
        heads["8-bit screen"] = (ScreenedLMHead(weight, bias, EAGER), SCREENED)
    return heads


def _error(call: Callable[[], Tensor], eager: Callable[[], Tensor], tolerance: float) -> float:
    return float((call() - eager()).abs().max()) / tolerance


def _error_of_best(call: Callable[[], Any], eager: Callable[[], Any], tolerance: float) -> float:
    """Compare the log-probabilities from the best on: which of two equals is in does not matter."""
    ours, theirs = (run()[0].sort(descending=True).values for run in (call, eager))
    return float((ours - theirs).abs().max()) / tolerance


_ON_CPU: dict[str, Callable[[Any], dict[str, Implementation]]] = {
    "group_select": _group_select,
    "lm_head_topk": _lm_head_topk,
    "linear_logprob": _linear_logprob,
}


def names_of(op: str) -> list[str]:
    """Return the names of an operation's implementations, without its inputs of full size."""
    return [*implementations(op, case_of(op, tiny=True))]


@pytest.mark.parametrize(
    ("op", "name"),
    [pytest.param(op, name, id=f"{op}-{name}") for op in OPS for name in names_of(op)],
)
def bench_operation(benchmark: BenchmarkFixture, op: str, name: str) -> None:
    """Time one implementation of an operation."""
    run_operation(benchmark, op, name, case_of(op))


def run_operation(benchmark: BenchmarkFixture, op: str, name: str, case: Case) -> None:
    """Compare an implementation with eager, then time it."""
    with torch.inference_mode():
        one = implementations(op, case)[name]
        error = one.error()
        assert error <= 1, f"{op}, {name}: the error is {error:.3g} times the tolerance"
        benchmark.group = f"{op}: {case.config}"
        benchmark.extra_info |= {"error over tolerance": error, "device": DEVICE}
        benchmark(_finished, one.call)


def _finished(call: Callable[[], Any]) -> None:
    call()
    synchronize()
