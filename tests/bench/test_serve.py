"""The benchmark of the service: clients, figures, the section of the page."""

import json
import math
import random
import re

import pytest
from services import listening

from bench.container import steps
from bench.report import serving
from bench.report.results import Reader
from bench.serve import (
    BATCHED,
    SINGLE,
    SUMMARIES_A_DOCUMENT,
    compare,
    difference,
    figures,
    in_a_loop,
    median_of,
    short_requests,
    workload,
)
from bench.serve_memory import resident_mib
from bench.shared import common
from bench.shared.common import ROOT, Pair, finish
from bench.shared.service import Load, Server, load
from bench.shared.weights import MODEL, weights_of
from quals_fast import DecodingConfig, QualsScorer

PAIRS = [Pair(str(i), f"queen anne won {i} games", "anne won" * (i != 3), None) for i in range(8)]


@pytest.fixture(scope="module")
def scorer(tiny_folder):
    decoding = DecodingConfig(num_beams=4, num_beam_groups=4, min_length=2, max_length=8)
    return QualsScorer.from_pretrained(tiny_folder, device="cpu", decoding=decoding)


def test_clients_get_what_the_library_says(scorer):
    expected = in_a_loop(scorer, PAIRS)
    with listening(scorer) as url:
        found = load(url, PAIRS, 3)
        assert difference(found, expected) < 1e-5
        assert min(found.latencies) > 0 and max(found.latencies) <= found.seconds
        with pytest.raises(RuntimeError, match=r"requests failed: .*status 422"):
            load(url, [PAIRS[0]._replace(summary="x" * 100_001)], 1)


def test_scores_that_differ():
    one = Load(1.0, [1.0, 1.0], [-1.0, None])
    assert difference(one, Load(1.0, [1.0, 1.0], [-1.5, None])) == 0.5
    with pytest.raises(RuntimeError, match="disagree on which pairs have a score"):
        difference(one, Load(1.0, [1.0, 1.0], [None, None]))


def test_percentiles_are_of_all_rounds():
    loads = [Load(2.0, [i / 1000 for i in range(0, 50)], []), Load(1.0, [0.1] * 51, [])]
    found = figures(loads)
    assert found["latency_ms"] == {"p50": 100.0, "p95": 100.0, "p99": 100.0, "n": 101}
    assert (found["requests_per_s"]["low"], found["requests_per_s"]["high"]) == (25.0, 51.0)


def test_the_interval_of_a_median_holds_it_and_narrows():
    draw = random.Random(0)
    many = [3.0 + draw.gauss(0, 1) for _ in range(400)]
    found, fewer = median_of(many), median_of(many[:40])
    assert found["low"] < 3.0 < found["high"] and found["low"] < found["value"] < found["high"]
    assert found["high"] - found["low"] < (fewer["high"] - fewer["low"]) / 2 < 0.5
    assert found["n"] == 400


def test_summaries_of_a_document_arrive_apart():
    pairs = workload("documents", None, 2 * SUMMARIES_A_DOCUMENT)
    documents = [pair.document for pair in pairs]
    assert len(set(documents)) == 2 and len(set(documents[:SUMMARIES_A_DOCUMENT])) == 1
    assert len({pair.summary for pair in pairs}) > SUMMARIES_A_DOCUMENT


def test_the_page_shows_a_result(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert serving.serve(Reader()) == "It has not been measured yet."
    assert serving.memory(Reader()) == ""
    cases = []
    with listening(scorer) as url:
        servers = {name: Server(url, 1, 1.0) for name in (BATCHED, SINGLE)}
        compare(servers, scorer, PAIRS, {1: 2, 2: 2}, 2, math.inf, cases.append)
        pairs = [pair._replace(id=str(i)) for i in range(3) for pair in PAIRS]
        short = short_requests(servers[BATCHED], scorer, pairs, {1: 8, 2: 8})
    assert len(cases) == 2  # saved after each round
    assert max(cases[1]["max_abs_delta"], short["max_abs_delta"]) < 1e-5
    assert cases[1]["library"]["latency_ms"]["n"] == 4
    assert cases[1]["clients"]["2"][BATCHED]["latency_ms"]["n"] == 4
    once = {"median": 1.25, "low": 1.0, "high": 1.5, "n": 3}
    result = {
        "dtype": "float32",
        "start_up_s": {"PyTorch": once, "slim": once},
        "short_requests": short,
        "workloads": {"pairs": cases[1]},
    }
    finish("serve", result, weights=weights_of(MODEL))
    text = serving.serve(Reader())
    lines = [line for line in text.splitlines() if line.startswith("| pairs |")]
    assert len(lines) == 5  # the library, and two servers with one and two clients
    assert "From the command to ready: 1.25 (1.00 to 1.50, n = 3) s PyTorch" in text
    assert "(median of 8 differences, with its 95 % interval; aim:" in text
    assert re.search(r"by clients: \d+, \d+, \d+ ms with 1; \d+, \d+, \d+ ms with 2 \(n = 8", text)
    resident = {"100": 600.0, "200": 601.0}
    measured = {"clients": 64, "settings": {"cache_mib": 16}, "resident_mib": resident}
    finish("serve_memory", measured, weights=weights_of(MODEL))
    assert "different: 600 MiB after 100, 601 after 200 requests" in serving.memory(Reader())


def test_the_page_tells_the_parts_of_the_image_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert "has not been done yet" in serving.container(Reader())
    sizes = {"environment": 1238.7, "model": 168.0}
    result = {"base_image": "docker.io/library/python:3.11-slim", "megabytes": sizes}
    finish("container", result, weights=weights_of(MODEL))
    text = serving.container(Reader())
    assert "| base image, `python:3.11-slim` | not measured" in text
    assert "| virtual environment | 1,239 |\n| exported model, int8 | 168 |" in text


def test_the_container_file_has_only_steps_that_are_run():
    found = steps(ROOT / "Containerfile")
    names = [name for name, _ in found]
    assert names == ["FROM", "WORKDIR", "COPY", "RUN", "COPY", "USER", "EXPOSE", "CMD"]
    assert json.loads(found[-1][1])[:2] == ["quals-fast", "serve"]


def test_resident_memory_is_read_in_mib():
    assert resident_mib("Name:\tpython\nVmHWM:\t 9000 kB\nVmRSS:\t 2048 kB\n") == 2.0
