"""Scoring on a cluster: `score_dataset`, and `quals-fast score --runner ray`."""

import json
import math
import os
import re
import signal
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import tiny_models
from calibrations import write_calibration
from cli_helpers import (
    DOCUMENT,
    MIXED,
    MIXED_IDS,
    MIXED_STATUSES,
    SMALL,
    SUMMARIES,
    assert_usage_error,
    json_lines,
    write,
)
from click.testing import CliRunner
from messages import says
from pyarrow import parquet

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.results import Span, SummaryScore
from quals_fast.scale import datasets, files, score_dataset
from quals_fast.scale.tables import result_table
from quals_fast.scale.workers import MAX_ATTEMPTS, Pool, Worker, start_coordinator

DECODING = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)
RAY = ("--runner", "ray", "--workers", "2")


def texts(n):
    """Return rows of different lengths, some of them bad."""
    summaries = [*SUMMARIES.values(), " ", None, "a \0 in it"]
    return [
        {
            "id": i,
            "document": " ".join([DOCUMENT] * (1 + i % 3)),
            "summary": summaries[i % len(summaries)],
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.write_asking(tmp_path_factory.mktemp("models") / "queens")


@pytest.fixture
def broken(model, tmp_path):
    """Return a model whose config is right, but whose weights cannot be read."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(b"cut off")
    return folder


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, model=model):
        settings = ["--model", str(model), *SMALL]
        return CliRunner().invoke(app, ["score", *map(str, arguments), *settings])

    return invoke


def joined(folder):
    return b"".join(one.read_bytes() for one in sorted(Path(folder).glob("part-*")))


def interrupted(folder, without=()):
    """Make a directory what it was before its job finished, and some files were there."""
    part = Path(folder).rename(f"{folder}.part")
    record = part / "_job.json"
    record.write_text(json.dumps({"job": json.loads(record.read_text())["job"]}))
    for name in without:
        (part / name).unlink()
    (part / ".part-00000-000001.jsonl.1234").write_text('{"id": 64, "sco')
    return part


# A dataset


def test_a_dataset_gets_the_scores_of_the_plain_runner(cluster, model):
    rows = texts(10)
    ds = score_dataset(
        ray.data.from_items(rows), model=model, decoding=DECODING, concurrency=(1, 1)
    )
    scorer = QualsScorer.from_pretrained(model, device="cpu", decoding=DECODING)
    expected = scorer.score(*([row[name] for row in rows] for name in ("document", "summary")))
    scored = {row["id"]: row for row in ds.take_all()}
    assert [scored[row["id"]]["status"] for row in rows] == [one.status for one in expected]
    found = [scored[row["id"]]["score"] for row in rows]
    assert [math.nan if score is None else score for score in found] == pytest.approx(
        expected.scores, abs=1e-6, nan_ok=True
    )


@pytest.mark.slow
def test_rows_of_a_killed_worker_are_scored_once_and_as_by_the_plain_runner(cluster, model, killer):
    rows = texts(240)
    ds = score_dataset(
        ray.data.from_items(rows, override_num_blocks=4), model=model, decoding=DECODING,
        concurrency=(2, 2), batch_size=40, include_pairs=True, include_spans=True,
    )  # fmt: skip
    killed = killer()
    scored = ds.take_all()
    assert len(killed) == 1
    assert sorted(row["id"] for row in scored) == list(range(len(rows)))
    scorer = QualsScorer.from_pretrained(model, device="cpu", decoding=DECODING)
    result = scorer.score(*([row[name] for row in rows] for name in ("document", "summary")))
    for row in scored:
        expected = result[row["id"]].to_dict(include_spans=True)
        assert {name: row[name] for name in ("id", "document", "summary")} == rows[row["id"]]
        assert row["signature"] == result.signature
        assert row["message"] == expected.get("message")
        for name in ("status", "n_pairs", "truncated_tokens", "unknown_tokens"):
            assert row[name] == expected[name]
        assert row["score"] == pytest.approx(expected["score"], abs=1e-6)
        questions = [[pair["question"] for pair in one["pairs"]] for one in (row, expected)]
        assert questions[0] == questions[1]
        places = [[(s["start"], s["end"]) for s in one["spans"]] for one in (row, expected)]
        assert places[0] == places[1]
    assert {row["status"] for row in scored} == {"ok", "no_pairs", "empty_summary", "error"}


def test_a_worker_that_cannot_load_the_model_ends_the_job_with_one_message(cluster, run, broken):
    write("in.jsonl", texts(4))
    result = run("in.jsonl", "-o", "out", *RAY, "--quiet", model=broken)
    assert_usage_error(
        result, "a worker on … (process … cannot load the model: … safetensors … out.part has 0 "
        "files; go on with --resume"
    )  # fmt: skip
    assert len(result.stderr.splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.slow
def test_columns_that_are_not_known_in_advance_are_checked_by_the_workers(cluster, model):
    ds = score_dataset(
        ray.data.from_items(texts(2)).map(lambda row: row), document="article", model=model,
        decoding=DECODING,
    )  # fmt: skip
    with pytest.raises(
        Exception, match=says("`document` … got 'article'; it has 'id', 'document'")
    ):
        ds.take_all()


def test_a_table_has_probabilities_if_its_signature_says_so_and_spans_if_asked_for():
    span = Span(start=3, end=7, score=-2.0)
    rows = [
        SummaryScore(status="ok", score=-1.0, probability=0.25, spans=(span,)),
        SummaryScore(status="error"),
    ]
    signature = "quals|calibration:0|version:1"
    table = result_table(rows, signature, include_pairs=False, include_spans=True)
    assert table.column("probability").to_pylist() == [0.25, None]
    assert table.column("spans").to_pylist() == [[span.to_dict()], []]
    bare = result_table(rows, "quals|version:1", include_pairs=False, include_spans=False)
    assert not {"probability", "pairs", "spans"} & {*bare.column_names}


def test_wrong_arguments_are_refused_before_any_work(cluster, model, tmp_path):
    ds = ray.data.from_arrow(pa.table({"document": ["a"], "summary": ["b"]}))
    for error, message, arguments in [
        (ValueError, "`summary` must be a column … got 'abstract'; it has 'document', 'summary'",
         {"summary": "abstract"}),
        (TypeError, "`threads` follows from `num_cpus`, but got threads=4", {"threads": 4}),
        (TypeError, "`device` follows from `num_gpus`, but got device='cuda'", {"device": "cuda"}),
        (TypeError, "must be those of QualsScorer.from_pretrained, but got beams", {"beams": 3}),
        (ValueError, "`concurrency` must be … but got (3, 2)", {"concurrency": (3, 2)}),
        (ValueError, "`concurrency` must be at least 1", {"concurrency": 0}),
        (ValueError, "`num_cpus` must be at least 1", {"num_cpus": 0}),
        (ValueError, "`num_gpus` must be … at least 0, but got -1", {"num_gpus": -1}),
        (ValueError, "`batch_size` must be at least 1", {"batch_size": 0}),
        (ValueError, "`preset` must be", {"preset": "quick"}),
        (ValueError, "`revision` is for names on the Hugging Face hub", {"revision": "v1"}),
        (CheckpointError, "neither bundled", {"model": str(tmp_path / "none")}),
        (ValueError, "`max_length` must be below the model's 64 positions",
         {"decoding": DecodingConfig(max_length=64)}),
    ]:  # fmt: skip
        with pytest.raises(error, match=says(message)):
            score_dataset(ds, **({"model": model} | arguments))
    taken = ds.add_column("score", lambda batch: pa.array([1.0]), batch_format="pyarrow")
    with pytest.raises(ValueError, match=says("must not have … but has 'score'; rename or drop")):
        score_dataset(taken.materialize(), model=model, decoding=DECODING)
    taken = ray.data.from_arrow(pa.table({"document": ["a"], "summary": ["b"], "probability": [1]}))
    with pytest.raises(ValueError, match=says("must not have … but has 'probability'")):
        score_dataset(taken, model=model, decoding=DECODING, calibration="bundled")


# What workers agree on


def loading(model, **options):
    return Pool().loading(model, {"decoding": DECODING, **options})


def test_a_worker_that_would_score_differently_says_how(cluster, model):
    coordinator = start_coordinator()
    first = Worker(loading(model), coordinator)
    assert first.once("a batch", lambda scorer: scorer.scoring.max_pairs) == 10
    other = Worker(loading(model, decoding=DecodingConfig(num_beams=2, num_beam_groups=2,
                                                          max_length=12)), coordinator)  # fmt: skip
    with pytest.raises(
        RuntimeError, match=says("would score as … beams:2/2 … scores of … beams:6/6")
    ):
        other.once("a batch", lambda scorer: scorer)


def test_a_batch_that_keeps_killing_its_worker_ends_the_job(cluster, model):
    coordinator = start_coordinator()
    worker = Worker(loading(model), coordinator)
    for _ in range(MAX_ATTEMPTS + 1):  # what ends is not counted
        assert worker.once("a batch", lambda scorer: "done") == "done"
    for _ in range(MAX_ATTEMPTS):
        ray.get(coordinator.begin.remote("a batch"))
    with pytest.raises(RuntimeError, match=says("a batch has killed its worker 3 times … lower")):
        worker.once("a batch", lambda scorer: "done")
    assert worker.once("another batch", lambda scorer: "done") == "done"


def dying(worker, where):
    """Return a kind of worker whose process is killed where it loads the model or scores."""

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    class DyingScorer(worker):  # local, so that it reaches other processes by value
        def __init__(self, **arguments):
            if where == "load":
                from quals_fast.scale import workers

                workers.QualsScorer = type("Dying", (), {"from_pretrained": die})
            super().__init__(**arguments)

        def once(self, task, work):
            return super().once(task, die)

    return DyingScorer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("score", "a batch has killed its worker 3 times … out.part has 0 files; … --resume"),
        ("load", "a worker on … was killed 3 times while it loaded the model … give a worker more "
         "memory; out.part has 0 files; go on with --resume"),
    ],
)  # fmt: skip
def test_workers_that_are_killed_again_and_again_end_the_job(
    cluster, run, monkeypatch, where, message
):
    monkeypatch.setattr(files, "_ChunkScorer", dying(files._ChunkScorer, where))
    write("in.jsonl", texts(4))
    result = run("in.jsonl", "-o", "out", "--runner", "ray", "--workers", "1", "--quiet")
    assert result.exit_code == 2
    assert re.search(says(message), result.stderr), result.stderr


@pytest.mark.slow
def test_a_batch_of_a_dataset_that_keeps_killing_its_worker_ends_the_job(
    cluster, model, monkeypatch
):
    monkeypatch.setattr(datasets, "_TableScorer", dying(datasets._TableScorer, "score"))
    ds = score_dataset(
        ray.data.from_items(texts(4)), model=model, decoding=DECODING, concurrency=(1, 1)
    )
    with pytest.raises(Exception, match="a batch has killed its worker 3 times"):
        ds.take_all()


# Files


def test_files_have_the_bytes_of_the_plain_runner_though_a_worker_is_killed(
    cluster, run, model, killer
):
    write("in.jsonl", [*map(json.dumps, texts(150)), *MIXED])
    calibrated = ("--calibration", "cal.json")
    scorer = QualsScorer.from_pretrained(model, device="cpu", decoding=DECODING)
    write_calibration(Path("cal.json"), scorer.signature)
    plain = run("in.jsonl", "-o", "plain.jsonl", "--threads", "1", *calibrated)
    assert any(row["probability"] for row in json_lines(Path("plain.jsonl").read_text()))
    killed = killer()
    result = run("in.jsonl", "-o", "out", *RAY, *calibrated)
    assert len(killed) == 1
    assert result.exit_code == 1, result.stderr
    assert result.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]
    assert joined("out") == Path("plain.jsonl").read_bytes()
    assert len(list(Path("out").glob("part-*"))) == 3
    assert not Path("out.part").exists()


@pytest.mark.slow
def test_resume_scores_what_is_not_there(cluster, run):
    write("in.jsonl", texts(150))
    run("in.jsonl", "-o", "out", *RAY)
    whole = joined("out")
    part = interrupted("out", without=["part-00000-000001.jsonl"])
    before = {one.name: one.stat().st_mtime_ns for one in part.glob("part-*")}
    assert len(before) == 2
    result = run("in.jsonl", "-o", "out", *RAY)
    assert_usage_error(result, "out.part has results of a job that did not finish; … --resume")
    result = run("in.jsonl", "-o", "out", *RAY, "--resume")
    assert result.exit_code == 1, result.stderr
    assert joined("out") == whole
    after = {one.name: one.stat().st_mtime_ns for one in Path("out").glob("part-*")}
    assert after.items() > before.items()
    assert [one.name for one in Path("out").glob(".*")] == []
    assert result.stderr.splitlines()[-1].startswith("150 rows: ")
    again = run("in.jsonl", "-o", "out", *RAY, "--resume")  # nothing is left to do
    assert again.stderr == result.stderr.splitlines(keepends=True)[-1]

    interrupted("out", without=["part-00000-000002.jsonl"])
    write("in.jsonl", texts(149))
    result = run("in.jsonl", "-o", "out", *RAY, "--resume")
    assert_usage_error(result, "cannot resume out: the input was in.jsonl@ … but is now in.jsonl@")
    write("in.jsonl", texts(150))
    result = run("in.jsonl", "-o", "out", *RAY, "--resume", "--max-pairs", "3")
    assert_usage_error(result, "cannot resume out: the settings was … max_pairs=10 … max_pairs=3")
    # Written on another kind of machine.
    first = Path("out.part/part-00000-000000.jsonl")
    first.write_text(first.read_text().replace("dtype:", "dtype:other-than-"))
    result = run("in.jsonl", "-o", "out", *RAY, "--resume", "--quiet")
    assert_usage_error(result, "would score as … the job has scores of … dtype:other-than-")


@pytest.mark.slow
def test_several_files_of_all_kinds_to_parquet(cluster, run, tmp_path):
    good = [row for row in texts(70) if row["summary"]]
    parquet.write_table(pa.Table.from_pylist(good), "a.parquet")
    write("b.jsonl", MIXED)
    write("c.jsonl", [])
    names = ["a.parquet", "b.jsonl", "c.jsonl"]
    run(*names, "-o", "plain.jsonl", "--threads", "1", "--pairs", "--spans")
    included = ["--pairs", "--spans"]
    result = run(*names, "-o", "out", *RAY, "--output-format", "parquet", *included)
    assert result.exit_code == 1, result.stderr
    expected = json_lines(Path("plain.jsonl").read_text())
    rows = parquet.read_table("out").to_pylist()  # skips _job.json
    assert [row["file"] for row in rows] == [row["file"] for row in expected]
    assert [row["id"] for row in rows[-8:]] == list(map(str, MIXED_IDS))
    assert [row["status"] for row in rows[-8:]] == MIXED_STATUSES
    for row, one in zip(rows, expected, strict=True):
        assert row["id"] == str(one["id"])
        assert row["message"] == one.get("message")
        assert row["score"] == pytest.approx(one["score"], abs=1e-6)
        assert [pair["tokens"] for pair in row["pairs"]] == [
            pair["tokens"] for pair in one["pairs"]
        ]
        assert len(row["spans"]) == len(one["spans"])
        for pair in row["pairs"]:
            assert pair["answer_spans"]


@pytest.mark.slow
def test_a_file_that_is_damaged_ends_the_job_with_its_name(cluster, run, monkeypatch):
    table = pa.Table.from_pylist([row for row in texts(3000) if row["summary"]])
    parquet.write_table(table, "in.parquet", row_group_size=500, compression=None)
    content = bytearray(Path("in.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    Path("in.parquet").write_bytes(content)
    result = run("in.parquet", "-o", "out", *RAY, "--quiet")
    assert len(result.stderr.splitlines()) == 1
    assert_usage_error(result, "cannot read in.parquet: ")
    assert not Path("out.part").exists()
    # After it was looked at, only the readers see it.
    monkeypatch.setattr("quals_fast.commands.cluster.look", lambda *_, **__: (3000, []))
    result = run("in.parquet", "-o", "out", *RAY, "--quiet")
    assert len(result.stderr.splitlines()) == 1
    assert_usage_error(result, "cannot read … in.parquet: … out.part has")


def test_ctrl_c_says_how_to_go_on(cluster, run, monkeypatch):
    def score_files(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("quals_fast.scale.files.score_files", score_files)
    write("in.jsonl", texts(2))
    result = run("in.jsonl", "-o", "out", *RAY, "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; out.part has 0 files; go on with --resume\n"


def test_a_cluster_that_cannot_be_reached_or_has_no_gpu_is_one_line(cluster, run, monkeypatch):
    write("in.jsonl", texts(2))
    result = run("in.jsonl", "-o", "out", *RAY, "--device", "cuda")
    assert_usage_error(result, "--device cuda needs a GPU … none; use --device cpu")

    def init(address, **_):
        raise ConnectionError(f"nobody\nat {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    result = run("in.jsonl", "-o", "other", *RAY, "--address", "10.0.0.1:6379")
    assert_usage_error(result, "cannot connect to Ray: nobody at 10.0.0.1:6379")


def test_what_makes_no_sense_on_a_cluster_is_refused(run):
    write("in.jsonl", texts(2))
    write("columns.csv", ["a,b", "1,2"])
    Path("mine").mkdir()
    write("mine/in.jsonl", texts(2))
    for arguments, message in [
        (("in.jsonl", "-o", "out", *RAY, "--shard", "1/2"), "--shard does not go with"),
        (("in.jsonl", "-o", "out", *RAY, "--rows", "3"), "--rows does not go with"),
        (("in.jsonl", "-o", "out", *RAY, "--fail-fast"), "--fail-fast does not go with"),
        (("in.jsonl", "-o", "out", *RAY, "--metric", "qags"), "--metric does not go with"),
        (("in.jsonl", "-o", "out", *RAY, "--seed", "1"), "--seed does not go with"),
        (("in.jsonl", *RAY), "--runner ray writes a directory, but got no -o; add -o DIRECTORY"),
        (("in.jsonl", "-o", "-", *RAY), "--runner ray writes a directory, but got -o -"),
        (("-", "-o", "out", *RAY), "--runner ray needs files, but got standard input"),
        (("in.jsonl", "-o", "out", *RAY, "--device", "cuda:1"), "`--device` must be auto, cpu or"),
        (("in.jsonl", "-o", "out", *RAY, "--resume", "--overwrite"), "leave one of them out"),
        (("in.jsonl", "-o", "out", "--workers", "2"), "--workers needs --runner ray"),
        (("in.jsonl", "-o", "none/out", *RAY), "there is no folder"),
        (("in.jsonl", "-o", "columns.csv", *RAY), "writes a directory, but got"),
        (("in.jsonl", "-o", "mine", *RAY, "--overwrite"), "that quals-fast score did not write"),
        (("mine/in.jsonl", "-o", "mine", *RAY, "--overwrite"), "must not contain INPUT, but mine/"),
        (("columns.csv", "-o", "out", *RAY), "columns.csv must have a column 'document'"),
    ]:  # fmt: skip
        assert_usage_error(run(*arguments), message)
        assert not Path("out").exists() and not Path("out.part").exists(), arguments
    assert Path("mine/in.jsonl").exists()
