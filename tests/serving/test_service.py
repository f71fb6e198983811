"""The service in the test's own process: answers, batches, states, failures."""

import asyncio
import gc
import json
import logging
from itertools import pairwise
from operator import itemgetter

import pytest
from calibrations import write_calibration
from services import Gate, call, client_of, serving, until

from quals_fast import QualsScorer
from quals_fast.calibration import Calibration, measures_of
from quals_fast.serving import batcher
from quals_fast.serving.limits import Limits
from quals_fast.serving.service import Service

DISCONNECT = {"type": "http.disconnect"}
NUMBERS = {"score": 0, "spans": []}  # which the size of a batch may change in their last bits


def posts(client, contents):
    return [asyncio.ensure_future(client.post("/v1/score", json=one)) for one in contents]


def by_place(spans):
    """The spans in the order of the text: that of their scores depends on the last bits."""
    return sorted(spans, key=itemgetter("start"))


def test_each_form_gets_what_the_library_says(scorer, pairs, expected):
    async def answers():
        async with serving(scorer) as (_, client):
            contents = [
                pairs[0],
                {"document": pairs[0]["document"], "summaries": [p["summary"] for p in pairs[:4]]},
                {"pairs": pairs, "include_pairs": True},
            ]
            return [answer.json() for answer in await asyncio.gather(*posts(client, contents))]

    one, four, all_ = asyncio.run(answers())
    assert any(row["n_pairs"] for row in expected)
    short = [{name: value for name, value in row.items() if name != "pairs"} for row in expected]
    for row, wanted in [(one, short[0]), *zip(four["results"], short[:4], strict=True)]:
        assert row.keys() == wanted.keys()
        assert row | NUMBERS == wanted | NUMBERS
        assert row["score"] == pytest.approx(wanted["score"], abs=1e-5)
        assert by_place(row["spans"]) == [
            span | {"score": pytest.approx(span["score"], abs=1e-5)}
            for span in by_place(wanted["spans"])
        ]
    for row, wanted in zip(all_["results"], expected, strict=True):
        assert [p["question"] for p in row["pairs"]] == [p["question"] for p in wanted["pairs"]]
        for pair, other in zip(row["pairs"], wanted["pairs"], strict=True):
            assert pair["document_logprobs"] == pytest.approx(other["document_logprobs"], abs=1e-5)


def test_a_service_with_a_calibration_gives_probabilities(scorer, pairs, expected, tmp_path):
    path = write_calibration(tmp_path / "cal.json", scorer.signature)
    calibration = Calibration.load(path)
    calibrated = QualsScorer(scorer.engine, decoding=scorer.decoding, calibration=calibration)

    async def answers():
        async with serving(calibrated) as (_, client):
            asked = {"pairs": [*pairs, pairs[0] | {"summary": " "}]}
            answer = await client.post("/v1/score", json=asked)
            page = await client.post("/v1/explain", json=pairs[0])
            described = (await client.get("/openapi.json")).json()
            return answer.json()["results"], page.text, described

    rows, page, described = asyncio.run(answers())
    for row, wanted in zip(rows, expected, strict=False):
        measures = measures_of(row["score"], wanted["n_pairs"], wanted["truncated_tokens"])
        assert row["probability"] == pytest.approx(calibration.curve.probability(measures))
        assert f"|calibration:{calibration.digest}|" in row["signature"]
    assert rows[-1]["status"] == "empty_summary"
    assert rows[-1]["probability"] is None
    assert f"probability {rows[0]['probability']:.2f}" in page
    schema = described["components"]["schemas"]["Result"]
    assert schema["properties"]["probability"]["type"] == ["number", "null"]
    assert "probability" not in schema["required"]


def test_memory_is_trimmed_every_few_batches(scorer, pairs, monkeypatch):
    trimmed = []
    monkeypatch.setattr(batcher, "TRIM_EVERY", 2)
    monkeypatch.setattr(batcher, "trim_heap", lambda: trimmed.append(1))

    async def ask():
        async with serving(scorer) as (_, client):
            for pair in pairs[:5]:
                await client.post("/v1/score", json=pair)

    asyncio.run(ask())
    assert len(trimmed) == 2


def test_scores_do_not_depend_on_the_load(scorer, pairs, expected):
    """Requests of many sizes at once, in batches that they share."""

    async def answers():
        async with serving(scorer, max_batch=5) as (_, client):
            requests = [{"pairs": pairs[i % 16 : i % 16 + 1 + i % 3]} for i in range(100)]
            return requests, await asyncio.gather(*posts(client, requests))

    by_pair = {tuple(p.values()): row for p, row in zip(pairs, expected, strict=True)}
    for request, answer in zip(*asyncio.run(answers()), strict=True):
        rows = answer.json()["results"]
        for pair, row in zip(request["pairs"], rows, strict=True):
            wanted = by_pair[tuple(pair.values())]
            assert row["status"] == wanted["status"]
            assert row["score"] == pytest.approx(wanted["score"], abs=1e-5)


def test_texts_that_cannot_be_scored_get_a_status_and_harm_no_other(scorer, pairs, expected):
    bad = [("d", ""), ("", "s"), ("d", "a\0b"), ("d", "\ud800"), ("d", "\u200b")]
    rows = [pairs[0], *({"document": d, "summary": s} for d, s in bad), pairs[1]]

    async def answer():
        async with serving(scorer) as (_, client):
            content = json.dumps({"pairs": rows})  # httpx cannot encode a lone surrogate
            headers = {"Content-Type": "application/json"}
            return (await client.post("/v1/score", content=content, headers=headers)).json()

    found = asyncio.run(answer())["results"]
    statuses = ["empty_summary", "empty_document", "error", "error", "empty_summary"]
    assert [row["status"] for row in found[1:-1]] == statuses
    assert "NUL character at position 1" in found[3]["message"]
    assert "lone surrogate U+D800 at position 0" in found[4]["message"]
    for row, wanted in ((found[0], expected[0]), (found[-1], expected[1])):
        assert row["score"] == pytest.approx(wanted["score"], abs=1e-5)


def test_pairs_that_wait_at_the_same_time_are_scored_together(scorer):
    gate = Gate(scorer)

    async def sizes():
        async with serving(gate, max_batch=4, max_wait_ms=0) as (service, client):
            first = posts(client, [{"document": "d", "summary": "first"}])
            await until(lambda: service._batcher._n_running == 1)
            rest = posts(client, [{"document": "d", "summary": f"s{i}"} for i in range(6)])
            await until(lambda: service._batcher.n_waiting == 6)
            gate.open()
            await asyncio.gather(*first, *rest)

    asyncio.run(sizes())
    assert [len(batch) for batch in gate.batches] == [1, 4, 2]
    assert gate.batches[1] == ["s0", "s1", "s2", "s3"]  # in the order of arrival


def test_requests_take_turns(scorer):
    """A short request does not wait for all pairs of a long one, nor a long one for many short."""
    gate = Gate(scorer)

    def of(*summaries):
        return {"document": "d", "summaries": summaries}

    async def run():
        async with serving(gate, max_batch=3, max_wait_ms=0) as (service, client):
            first = posts(client, [of("first")])
            await until(lambda: service._batcher._n_running == 1)
            asked = [of("a0", "a1", "a2", "a3"), of("b0"), of("c0", "c1"), of("d0")]
            rest = [post for one in asked for post in posts(client, [one])]
            await until(lambda: service._batcher.n_waiting == 8)
            gate.open()
            await asyncio.gather(*first, *rest)

    asyncio.run(run())
    assert gate.batches[1:] == [["a0", "b0", "c0"], ["d0", "a1", "c1"], ["a2", "a3"]]


def test_a_batch_waits_for_others_but_not_for_long(scorer):
    pair, alone = Gate(scorer, is_open=True), Gate(scorer, is_open=True)

    async def run():
        async with serving(pair, max_batch=2, max_wait_ms=20_000) as (_, client):
            together = posts(client, [{"document": "d", "summary": s} for s in ("a", "b")])
            await asyncio.gather(*together)  # full, so it does not wait
        async with serving(alone, max_batch=2, max_wait_ms=50) as (_, client):
            began = asyncio.get_running_loop().time()
            await client.post("/v1/score", json={"document": "d", "summary": "alone"})
            return asyncio.get_running_loop().time() - began

    assert 0.05 <= asyncio.run(run()) < 5
    assert (pair.batches, alone.batches) == ([["a", "b"]], [["alone"]])


def test_by_default_a_batch_fills_the_engine_s_token_budget(scorer):
    async def info():
        async with serving(scorer) as (_, client):
            return (await client.get("/info")).json()

    found = asyncio.run(info())
    assert found["limits"]["max_batch"] == scorer.engine.max_batch_tokens // (6 * 13)
    assert found["limits"]["max_characters"] == 100_000
    assert found["signature"] == scorer.signature
    assert found["model"] == "tiny"


def test_a_full_queue_refuses_more(scorer):
    gate = Gate(scorer)

    async def run():
        async with serving(gate, queue=3, max_request_pairs=3, max_wait_ms=0) as (service, client):
            first = posts(client, [{"document": "d", "summary": "first"}])
            await until(lambda: service._batcher._n_running == 1)
            waiting = posts(client, [{"document": "d", "summaries": ["a", "b"]}])
            await until(lambda: service._batcher.n_waiting == 2)
            refused = await client.post(
                "/v1/score", json={"document": "d", "summaries": ["c", "d"]}
            )
            fits = posts(client, [{"document": "d", "summary": "e"}])
            gate.open()
            return refused, await asyncio.gather(*first, *waiting, *fits)

    refused, taken = asyncio.run(run())
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert [answer.status_code for answer in taken] == [200] * 3


def test_a_client_that_goes_away_holds_nobody_up(scorer):
    gate = Gate(scorer)

    async def run():
        async with serving(gate, max_wait_ms=0, queue=2, max_request_pairs=2) as (service, client):
            first = posts(client, [{"document": "d", "summary": "first"}])
            await until(lambda: service._batcher._n_running == 1)
            leaves = {"document": "d", "summaries": ["gone", "gone"]}
            sent = await call(service.app, leaves, then=[DISCONNECT])
            assert sent[0]["status"] == 499
            stays = posts(client, [{"document": "d", "summaries": ["a", "b"]}])  # there is room
            await until(lambda: service._batcher.n_waiting == 2)
            gate.open()
            assert (await stays[0]).status_code == 200
            await first[0]
            sent = await call(service.app, leaves, then=[])  # and stays
            assert sent[0]["status"] == 200

    asyncio.run(run())
    assert gate.batches == [["first"], ["a", "b"], ["gone", "gone"]]


def test_a_client_that_goes_away_during_its_batch(scorer):
    gate = Gate(scorer)

    async def run():
        async with serving(gate, max_wait_ms=0) as (service, client):
            leaves = asyncio.ensure_future(
                call(service.app, {"document": "d", "summary": "x"}, then=[DISCONNECT])
            )
            assert (await leaves)[0]["status"] == 499
            stays = posts(client, [{"document": "d", "summary": "y"}])
            gate.open()
            return (await stays[0]).status_code

    assert asyncio.run(run()) == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401), ("Bearer wrong", 401), ("Basic secret", 401), ("Bearer", 401),
        ("Bearer sécret", 401), ("secret", 401), ("Bearer secret", 200), ("bearer  secret", 200),
    ],
)  # fmt: skip
def test_a_token(scorer, header, status):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}

    async def run():
        async with serving(scorer, token="secret") as (_, client):
            texts = {"document": "d", "summary": "s"}
            answers = [
                await client.post("/v1/score", json=texts, headers=headers),
                await client.post("/v1/explain", json=texts, headers=headers),
                await client.get("/info", headers=headers),
                await client.get("/metrics", headers=headers),
            ]
            free = [await client.get(path) for path in ("/", "/health", "/ready", "/openapi.json")]
            return answers, free

    answers, free = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [status] * 4
    assert [answer.status_code for answer in free] == [200] * 4
    if status == 401:
        assert answers[0].headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in answers[0].json()["error"]


def test_while_it_starts(scorer):
    gate = Gate(scorer)

    def load():
        gate._open.wait(20)
        return scorer

    async def run():
        service = Service(load, Limits())
        async with service.app.router.lifespan_context(service.app), client_of(service) as client:
            texts = {"document": "d", "summary": "s"}
            before = [
                await client.get("/health"),
                await client.get("/ready"),
                await client.get("/info"),
                await client.post("/v1/score", json=texts),
            ]
            gate.open()
            await until(lambda: service._batcher is not None)
            after = [await client.get("/ready"), await client.post("/v1/score", json=texts)]
            return before, after

    before, after = asyncio.run(run())
    assert [answer.status_code for answer in before] == [200, 503, 503, 503]
    assert before[3].headers["Retry-After"] == "1"
    assert before[3].json() == {"error": "the service is starting"}
    assert [answer.status_code for answer in after] == [200, 200]


def test_it_is_warm_before_it_is_ready(scorer, monkeypatch):
    """With kernels that are compiled for a length, by a whole score; else by a few tokens."""
    calls = []
    for name in ("search", "rescore"):
        whole = getattr(scorer.engine, name)
        monkeypatch.setattr(
            scorer.engine, name,
            lambda texts, what, name=name, whole=whole: calls.append((name, what))
            or whole(texts, what),
        )  # fmt: skip

    async def run(gate):
        async with serving(gate) as (service, _):
            return service.is_idle

    short, whole = Gate(scorer), Gate(scorer, is_open=True)
    assert asyncio.run(run(short))
    assert [name for name, _ in calls] == ["search", "rescore"]
    assert calls[0][1].max_length == 3 and calls[0][1].num_beams == scorer.decoding.num_beams
    assert len(calls[1][1][0][0]) <= 4  # of the only target
    assert short.batches == []
    compiled = {"dtype": "float16", "backend": "triton", "kernels": "lm_head_topk"}
    monkeypatch.setattr(type(scorer.engine.model), "runs_as", lambda self: compiled)
    assert asyncio.run(run(whole))
    assert whole.batches == [["Anne opened the bridge."]]


def test_a_service_that_no_longer_scores_says_so(scorer, caplog):
    async def run():
        async with serving(scorer, max_wait_ms=0) as (service, client):

            def broken():
                raise ZeroDivisionError

            service._batcher._next_batch = broken
            texts = {"document": "d", "summary": "s"}
            answers = [
                await client.post("/v1/score", json=texts),
                await client.post("/v1/score", json=texts),
                await client.get("/ready"),
                await client.get("/health"),
            ]
            return service.failure, answers

    failure, answers = asyncio.run(run())
    assert isinstance(failure, ZeroDivisionError)
    assert [answer.status_code for answer in answers] == [500, 503, 503, 503]
    assert answers[1].json() == {"error": "the service has failed; see the log"}
    assert answers[3].json() == {"status": "failed"}
    assert "scoring has ended: ZeroDivisionError" in caplog.text


def test_while_it_stops_it_finishes_and_takes_nothing_new(scorer):
    gate = Gate(scorer)

    async def run():
        async with serving(gate) as (service, client):
            texts = {"document": "d", "summary": "s"}
            accepted = posts(client, [texts])
            await until(lambda: not service.is_idle)
            service.is_stopping = True
            refused = [await client.post("/v1/score", json=texts), await client.get("/ready")]
            assert (await client.get("/health")).status_code == 200
            assert not service.is_idle
            gate.open()
            answer = await accepted[0]
            await until(lambda: service.is_idle)
            return refused, answer

    refused, answer = asyncio.run(run())
    assert [one.status_code for one in refused] == [503, 503]
    assert refused[0].json() == {"error": "the service is stopping"}
    assert answer.status_code == 200


def test_a_failure_shows_no_trace_and_no_text(scorer, caplog):
    gate = Gate(scorer, is_open=True)
    gate.fails_on["my secret"] = ZeroDivisionError("my secret")

    async def run():
        async with serving(gate) as (_, client):
            texts = {"document": "my secret", "summary": "my secret"}
            failed = await client.post("/v1/score", json=texts)
            return failed, await client.post("/v1/score", json=texts | {"summary": "s"})

    with caplog.at_level(logging.DEBUG):
        failed, after = asyncio.run(run())
    assert failed.status_code == 500
    assert failed.json() == {"error": "the request could not be scored; see the log"}
    assert after.status_code == 200
    assert "a batch failed: ZeroDivisionError" in caplog.text
    assert "services.py" in caplog.text  # where it was raised
    assert "my secret" not in caplog.text
    assert len([record for record in caplog.records if record.name == "quals_fast"]) == 1


def test_a_text_that_the_tokenizer_cannot_take_harms_no_other(scorer, pairs, expected, caplog):
    gate = Gate(scorer, is_open=True)
    gate.fails_on["poison"] = Exception("tokenizers failed on poison")

    async def run():
        async with serving(gate) as (_, client):
            rows = [pairs[0], {"document": "d", "summary": "poison"}]
            return (await client.post("/v1/score", json={"pairs": rows})).json()["results"]

    good, bad = asyncio.run(run())
    assert good["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
    assert bad["status"] == "error"
    assert bad["message"].startswith("Exception: tokenizers failed on poison; length in ")
    assert "a window of 2 rows failed (Exception)" in caplog.text
    assert "poison" not in caplog.text


def test_metrics(scorer):
    async def run():
        async with serving(scorer) as (_, client):
            await client.post("/v1/score", json={"document": "d", "summaries": ["", "a", "b"]})
            await client.post("/v1/score", content="{", headers={"Content-Type": "text/plain"})
            return (await client.get("/metrics")).text

    text = asyncio.run(run())
    for line in (
        'quals_fast_requests_total{code="200"} 1.0',
        'quals_fast_requests_total{code="415"} 1.0',
        'quals_fast_pairs_total{status="empty_summary"} 1.0',
        "quals_fast_batch_pairs_sum 3.0",
        "quals_fast_queue_pairs 0.0",
        "quals_fast_request_seconds_count 1.0",
    ):
        assert f"\n{line}\n" in text


def test_other_paths_and_methods_are_answered_in_json(scorer):
    async def run():
        async with serving(scorer) as (_, client):
            return [await client.get(path) for path in ("/v2", "/health/", "/v1/score")]

    *missing, wrong = asyncio.run(run())
    for answer in missing:
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")


def test_an_explanation_is_a_page_without_scripts(scorer, pairs):
    async def run():
        async with serving(scorer) as (_, client):
            document = pairs[0]["document"] + " <script>"
            texts = {"document": document, "summary": pairs[0]["summary"]}
            page = await client.post("/v1/explain", json=texts)
            return page, await client.post("/v1/explain", json={"pairs": 3})

    page, refused = asyncio.run(run())
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "&lt;script&gt;" in page.text and "<script" not in page.text
    assert 'class="pair"' in page.text
    assert refused.status_code == 422


def test_requests_leave_nothing_behind(scorer, pairs):
    async def run():
        counts = []
        async with serving(scorer) as (_, client):
            for _ in range(4):
                for _ in range(5):
                    answers = await asyncio.gather(*posts(client, pairs[:10]))
                    assert {answer.status_code for answer in answers} == {200}
                del answers
                gc.collect()
                counts.append(len(gc.get_objects()))
        return counts

    _, *counts = asyncio.run(run())
    # A leak shows in every turn; what other threads of the process leave, in one.
    growth = min(after - before for before, after in pairwise(counts))
    assert growth < 25, "50 requests left that many objects"
