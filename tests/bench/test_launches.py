"""The count of kernels that the GPU path launches: pinned, and checked by hand where it can be."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch.nn import functional as F

from bench.launches import __main__ as command
from bench.launches import counting
from bench.launches.counting import count
from bench.launches.kernels import Launches
from bench.shared.common import ROOT
from quals_fast import DecodingConfig


def counts_of(shape, conventions, precision):
    tokenizer = counting.byte_level_tokenizer(conventions)
    model = counting.without_data(shape, conventions, tokenizer, precision)
    return {size: count(model, DecodingConfig(), size) for size in (1, 128)}


@pytest.fixture(scope="module")
def counts():
    return counts_of(counting.BART_LARGE, counting.BART_LARGE_CONVENTIONS, "float16")


def test_counts_at_the_size_of_bart_large(counts):
    one, many = counts[1], counts[128]
    # A layer's step: 6 products, one with its GELU, 3 norms of sums, 2 attentions, of which one
    # stores keys and values. What is left is embedding, LM head, choice and histories.
    of_layers = 12 * (6 + 3 + 2)
    assert (of_layers, one.products) == (132, 72)
    assert [one.step[t] for t in (2, 7, 8, 59)] == [151, 151, 164, 164]
    assert (one.early, one.usual) == (151, 164)
    both = {"selection": 333, "reading": 1, "other": 15}
    # To the graphs of the search 2, selection 3, rescoring 4; what was found is sorted in a graph.
    of_one = {"encoding": 202, "rescoring": 197, "copies to graphs": 9}
    assert one.outside == both | of_one
    # With many rows GELU is a kernel of its own; in the first step a summary's beams are one row.
    # Of several sources, queries, keys and values are laid out in slots, and taken back: 6 a layer.
    gelu = 12
    assert many.step == {t: number + gelu * (t > 0) for t, number in one.step.items()}
    of_many = {"encoding": 202 + 2 * gelu, "rescoring": 197 + gelu + 12 * 6, "sorting": 10}
    assert many.outside == both | of_many


def test_counts_at_the_size_of_t5_large():
    counts = counts_of(counting.T5_LARGE, counting.T5_LARGE_CONVENTIONS, "bfloat16")
    one, many = counts[1], counts[128]
    # A layer's step: 6 products, 2 attentions, ReLU, and 3 times a norm in float32, its type, its
    # weight and the sum. The bias of all layers, embedding, LM head, choice and histories are left.
    of_layers = 24 * (6 + 2 + 1 + 3 * 4)
    assert (of_layers, one.products) == (504, 144)
    assert (one.early, one.usual) == (534, 547)
    assert one.step == many.step
    assert one.outside["encoding"] == many.outside["encoding"] == 752


def test_a_whole_pass(counts):
    one, many = counts[1], counts[128]
    assert (one.blocking_reads, one.copies_in) == (2, 4)
    assert (
        one.launched == 4 + 9 + 1 + 4
    )  # replays, copies to graphs, what is read joined, copies in
    assert many.launched == many.of_outside + 4
    assert one.stop == 13 and many.stop == 3
    for each, found in ((4, one), (1, many)):
        steps = sum(found.step[t] for t in range(26))
        assert found.total(26) == steps + -(-26 // each) * found.stop + sum(found.outside.values())
    assert 180e6 < one.graph_bytes < 220e6
    assert many.graph_bytes == 0


@pytest.mark.parametrize(
    ("run", "kernels"),
    [
        (lambda x: x.view(-1), 0),
        (lambda x: x.transpose(0, 1).flatten(), 1),  # has to copy
        (lambda x: x.flatten(), 0),  # has not
        (lambda x: x.expand(3, 4, 4).contiguous(), 1),
        (lambda x: torch.empty_like(x), 0),
        (lambda x: torch.zeros_like(x), 1),
        (lambda x: F.linear(x, x) + x, 2),
        (lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3), 1),
        (lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3, attn_mask=x > 0), 5),
        (lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3, attn_mask=x), 1),
        (lambda x: x.sort(), 4),
        (lambda x: F.pad(x, (1, 1)), 2),
    ],
)  # fmt: skip
def test_operations(run, kernels):
    with torch.inference_mode():
        x = torch.empty(4, 4, device="meta")
        with Launches() as launches:
            run(x)
    assert launches.total("other") == kernels, launches.kernels


def test_what_cublas_adds_to_a_product_stands_apart(monkeypatch):
    def event(name):
        of_cpu, span = SimpleNamespace(name="CPU"), SimpleNamespace(elapsed_us=lambda: 1.0)
        return SimpleNamespace(name=name, device_type=of_cpu, time_range=span)

    of_cublas = "void cublasLt::splitKreduce_kernel<32>", "Memset (Device)"
    names = "gemm", *of_cublas, "Memcpy HtoD (Pinned -> Device)"
    profiler = MagicMock()
    profiler.return_value.__enter__.return_value.events.return_value = [*map(event, names)]
    monkeypatch.setattr(torch.profiler, "profile", profiler)
    scorer = SimpleNamespace(score=lambda *texts: None, decoding=DecodingConfig())
    seen = command.profile(scorer, [], [])
    assert (seen["kernels"], seen["added_by_cublas"]) == (1, 2)


def test_copies_from_the_host_are_counted_apart():
    with torch.inference_mode(), Launches() as launches:
        torch.zeros(3, device="cpu").to("meta")
    assert launches.copies_in == 1


def test_a_batch_of_nothing_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["launches", "--batches", "1", "0"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "--batches must be 1 or more, but got 0" in capsys.readouterr().err


def test_the_command_ends_with_a_line_of_json(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "bench.launches", "--batches", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env={**os.environ, "BENCH_RESULTS": str(tmp_path)},
    )
    result = json.loads(found.stdout.splitlines()[-1])
    assert result["kernels_per_step"] == {"1": 164}
    assert result["kernels_outside"] == {"1": 757}
    assert "kernels launched by the pass of a GPU" in found.stdout
