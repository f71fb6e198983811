"""The micro-benchmarks, each once on tiny inputs: they run, and check what they time."""

import pytest
import torch
from exported_folders import TEXT

from bench import bench_engine, bench_operations
from bench.bench_engine import ENGINES, largest_error, relative_error
from bench.gpu.stages import OPS
from bench.shared.common import Pair
from quals_fast import DecodingConfig, ops


@pytest.mark.parametrize("op", OPS)
def test_every_implementation_of_an_operation_is_right(op):
    case = bench_operations.case_of(op, tiny=True)
    found = bench_operations.implementations(op, case)
    assert "eager" in found and set(found) == set(bench_operations.names_of(op))
    for one in found.values():
        one.call()
        assert one.error() <= 1


def test_every_operation_is_timed():
    assert set(OPS) == set(ops.Kernels.__slots__) - {"name"}


def test_an_implementation_is_timed(benchmark):
    case = bench_operations.case_of("group_select", tiny=True)
    name = bench_operations.names_of("group_select")[-1]  # not the reference
    bench_operations.run_operation(benchmark, "group_select", name, case)
    assert benchmark.group == f"group_select: {case.config}"
    assert benchmark.extra_info["error over tolerance"] <= 1


def test_a_wrong_result_is_not_timed(monkeypatch):
    wrong = bench_operations.Implementation(lambda: None, lambda: float("nan"))
    monkeypatch.setattr(bench_operations, "implementations", lambda op, case: {"mine": wrong})
    with pytest.raises(AssertionError, match="span_match, mine: the error is nan times"):
        bench_operations.run_operation(None, "span_match", "mine", None)
    one = object.__new__(bench_engine.Subject)
    one.tolerance = 1e-4
    with pytest.raises(AssertionError, match=r"search: the error is 0\.2, more than 0\.0001"):
        one.time(None, "search", 0.2, print)


@pytest.fixture
def small(one_layer_model, request, monkeypatch):
    """The pair, the model and the search are small; the caches are empty before and after."""
    cached = (bench_engine.pair, bench_engine.subject, bench_engine.reference)
    for function in (*cached, bench_engine.expected):
        function.cache_clear()
        request.addfinalizer(function.cache_clear)
    monkeypatch.setattr(bench_engine, "folder_of", lambda name: one_layer_model)
    texts = lambda *given: [Pair("0", f"{TEXT} . {TEXT}", TEXT, None)]  # noqa: E731
    monkeypatch.setattr(bench_engine, "load_workload", texts)
    decoding = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)
    monkeypatch.setattr(bench_engine.Subject, "decoding", decoding)


PARTS = ("encoding", "decoding_step", "search", "rescoring", "pair")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_engine_is_timed(part, small, benchmark):
    getattr(bench_engine, f"bench_{part}")(benchmark, "float32")
    assert benchmark.extra_info["error"] <= bench_engine.EXACT
    if part == "rescoring":
        assert bench_engine.expected().targets  # there was something to rescore


@pytest.mark.slow  # its model is exported in all types
@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_an_export_is_timed(part, small, exported, monkeypatch, benchmark):
    monkeypatch.setattr(bench_engine, "exported", lambda folder, dtype: exported[dtype][0])
    getattr(bench_engine, f"bench_{part}")(benchmark, "onnx")
    assert benchmark.extra_info == {"error": pytest.approx(0, abs=1e-4), "dtype": "float32"}


def test_engines_are_the_default_one_and_float32():
    assert [ENGINES[name]["dtype"] for name in ("float32", "auto")] == ["float32", "auto"]


def test_errors_are_those_of_the_worst():
    assert relative_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 5.0])]) == (
        pytest.approx(1 / 34**0.5)
    )
    assert largest_error([[1.0], [2.0, 5.0]], [[1.5], [2.0, 4.0]]) == 1.0
