"""The benchmark of the service: clients, figures, the section of the page."""

import json
import math

import pytest
from services import listening

from bench.container import steps
from bench.report import serving
from bench.report.results import Reader
from bench.serve import (
    BATCHED,
    SINGLE,
    SUMMARIES_A_DOCUMENT,
    added_ms,
    compare,
    difference,
    figures,
    in_a_loop,
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
    assert found["latency_ms"] == {"p50": 100.0, "p95": 100.0, "p99": 100.0}
    assert (found["requests_per_s"]["low"], found["requests_per_s"]["high"]) == (25.0, 51.0)


def test_what_the_server_adds_is_of_the_same_pair():
    server = [Load(1.0, [0.011, 0.102], []), Load(1.0, [0.053], [])]
    library = [Load(1.0, [0.01, 0.1], []), Load(1.0, [0.05], [])]
    assert added_ms(server, library) == pytest.approx(2.0)


def test_summaries_of_a_document_arrive_apart():
    pairs = workload("documents", None, 2 * SUMMARIES_A_DOCUMENT)
    documents = [pair.document for pair in pairs]
    assert len(set(documents)) == 2 and len(set(documents[:SUMMARIES_A_DOCUMENT])) == 1
    assert len({pair.summary for pair in pairs}) > SUMMARIES_A_DOCUMENT


def test_the_page_shows_a_result(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert serving.serve(Reader()) == "It has not been measured yet."
    with listening(scorer) as url:
        servers = {name: Server(url, 1, 1.0) for name in (BATCHED, SINGLE)}
        case = compare(servers, scorer, PAIRS, [1, 2], 2, math.inf)
    assert serving.memory(Reader()) == ""
    once = {"median": 1.25, "low": 1.0, "high": 1.5, "n": 3}
    result = {
        "dtype": "float32",
        "start_up_s": {"PyTorch": once, "slim": once},
        "workloads": {"pairs": case},
    }
    finish("serve", result, weights=weights_of(MODEL))
    text = serving.serve(Reader())
    lines = [line for line in text.splitlines() if line.startswith("| pairs |")]
    assert len(lines) == 5  # the library, and two servers with one and two clients
    assert "From the command to ready: 1.25 (1.00 to 1.50, n = 3) s PyTorch" in text
    assert "by clients: " in text and " ms with 1 (pairs). Scores differ" in text
    assert case["max_abs_delta"] < 1e-5
    resident = {"clients": 32, "resident_mib": {"100": 600.0, "200": 601.0}}
    finish("serve_memory", resident, weights=weights_of(MODEL))
    assert "32 clients: 600 MiB after 100, 601 after 200" in serving.memory(Reader())


def test_the_container_file_has_only_steps_that_are_run():
    found = steps(ROOT / "Containerfile")
    names = [name for name, _ in found]
    assert names == ["FROM", "WORKDIR", "COPY", "RUN", "COPY", "USER", "EXPOSE", "CMD"]
    assert json.loads(found[-1][1])[:2] == ["quals-fast", "serve"]


def test_resident_memory_is_read_in_mib():
    assert resident_mib("Name:\tpython\nVmHWM:\t 9000 kB\nVmRSS:\t 2048 kB\n") == 2.0
