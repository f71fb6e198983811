"""The long jobs for a GPU work on a CPU too, say what is missing, and lose nothing on the way."""

import argparse
import gzip
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bench.recipes import gpu_conseq, gpu_jobs, gpu_train, pieces
from bench.recipes.bundle import store
from bench.recipes.grow import folder_of
from bench.recipes.qags_training.loop import Recipe
from bench.shared.options import TINY
from bench.studies.conseq_experiment import __main__ as conseq
from bench.studies.conseq_experiment.likelihood import SummaryTask, train_by_likelihood
from bench.studies.conseq_experiment.measures import Measures
from bench.studies.conseq_experiment.page import page
from bench.studies.conseq_experiment.texts import Text
from quals_fast.commands import app as cli
from quals_fast.models.loading import read_weights
from quals_fast.training.qagen import pipeline

ROOT = Path(__file__).parents[2]
SENTENCE = "The mayor of the town opened a bridge over the river on Monday."


@pytest.fixture(scope="module")
def tiny():
    return folder_of(TINY)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "conseq"])
def test_the_dry_run_does_all_and_leaves_the_tree_alone(job):
    def files():
        return {p: p.stat().st_mtime_ns for f in ("bench/results", "examples", "runs")
                for p in (ROOT / f).rglob("*")}  # fmt: skip

    before = files()
    threads = {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [ROOT / "bench" / f"gpu_{job}.sh", "--dry-run"],
        env=os.environ | threads,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the dry run covered every step of a run on a GPU\n")
    assert files() == before


def test_the_index_names_every_command():
    index = (ROOT / "bench" / "README.md").read_text()
    named = set(re.findall(r"`(?:python -m )?(?:bench\.)?(?:(?:ops|gpu|claim)\.)?(\w+)`", index))
    named |= set(re.findall(r"bench/(\w+)\.(?:sh|py)", index))
    commands = [path.parent for path in (ROOT / "bench").glob("*/__main__.py")]
    for path in (ROOT / "bench").rglob("*.py"):
        if "\nif __name__ == " in path.read_text() and path.name != "__main__.py":
            commands.append(path)
    assert len(commands) > 30
    assert {path.stem for path in commands} <= named


# In pieces, and together again


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8_000)
    for name in ("a/one.txt", "a/b/two.txt", "left.txt"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(9_000))
    return tmp_path / "run"


def test_pieces_are_small_and_give_the_folder_back(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.tar.09").write_text("of a longer run before")
    pieces.split(folder, [folder / "a"], tmp_path / "out", "x")
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["x.sha256", "x.tar.00", "x.tar.01", "x.tar.02", "x.tar.03"]
    assert all(path.stat().st_size <= 8_000 for path in (tmp_path / "out").iterdir())
    assert pieces.join(tmp_path / "out", tmp_path / "back") == ["x"]
    back = [path for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert len(back) == 2
    for path in back:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "back")).read_bytes()


def test_pieces_that_are_damaged_or_missing_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must contain pieces with their checksums, .* has none"):
        pieces.join(folder, tmp_path / "back")
    pieces.split(folder, [folder / "a"], tmp_path / "out", "x")
    piece = tmp_path / "out" / "x.tar.01"
    piece.write_bytes(piece.read_bytes()[::-1])
    with pytest.raises(ValueError, match=r"x\.tar\.01 does not match its checksum; get it again"):
        pieces.join(tmp_path / "out", tmp_path / "back")
    piece.unlink()
    with pytest.raises(ValueError, match=r"x\.tar\.01 is missing, but x\.sha256 lists it"):
        pieces.join(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


# Work that ends in time


def test_a_command_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    log = tmp_path / "log"
    print_and_wait = "echo begun; sleep 60 & wait"
    assert gpu_jobs.run_for(0.5, ["bash", "-c", print_and_wait], log) is None
    assert gpu_jobs.run_for(20, ["bash", "-c", "echo failed >&2; exit 3"], log) == 3
    assert log.read_text() == "begun\nfailed\n"


def test_all_that_is_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path), "--run", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as error:
        gpu_train.main()
    for what in ("qa_train.jsonl.gz: questions", "qa_dev.jsonl.gz", "start: a model", "a GPU"):
        assert what in str(error.value)
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.delitem(sys.modules, "rouge_score.rouge_scorer", raising=False)
    with pytest.raises(SystemExit, match=r"documents with summaries(.|\n)*rouge_score(.|\n)*a GPU"):
        gpu_conseq.main()
    assert not (tmp_path / "r").exists()


# Training


@pytest.mark.parametrize(("recipe", "place"), [(gpu_train.FIRST, 0), (gpu_train.SECOND, 1)])
def test_the_recipes_are_those_of_the_bundled_model(recipe, place, monkeypatch):
    """As docs/train-your-own.md says them; every option is one of train-qagen."""
    text = (ROOT / "docs" / "train-your-own.md").read_text()
    section = text[text.index("## The bundled model's size") :]
    said = re.findall(r"^quals-fast (train-qagen [^`]*?)\n(?!    )", section, re.M)[place]
    settings = []
    monkeypatch.setattr(pipeline, "train", lambda one, report: settings.append(one))
    own = ["train-qagen", "--train", "t", "--init", "i", "-o", "o", *recipe.arguments(1)]
    for arguments in (shlex.split(said.replace("\\\n", "")), own):
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
    for name in ("together", "caps", "passage_words", "views", "early_views", "early_examples",
                 "learning_rate", "warmup_steps", "batch_tokens", "examples", "decay", "renamed",
                 "positions", "prune"):  # fmt: skip
        assert getattr(settings[0], name) == getattr(settings[1], name), name


def test_a_run_that_was_stopped_leaves_its_last_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="has no complete checkpoint; use more --minutes"):
        gpu_train._best_of(tmp_path)
    last = tmp_path / "checkpoint-4"
    monkeypatch.setattr(gpu_train.checkpoints, "last_whole", lambda folder, say: last)
    assert gpu_train._best_of(tmp_path) == last
    (tmp_path / "model.safetensors").write_text("whole")
    assert gpu_train._best_of(tmp_path) == tmp_path


def test_as_many_models_come_back_as_fit(tmp_path, monkeypatch):
    for name, size in (("best", 60), ("second", 30), ("third", 30)):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.safetensors").write_bytes(b"x" * size)
    monkeypatch.setattr(gpu_train, "KEPT_BYTES", 100)
    assert gpu_train._pack(tmp_path, ["best", "second", "third"], tmp_path / "out") == [
        "best",
        "second",
    ]
    pieces.join(tmp_path / "out", tmp_path / "back")
    assert sorted(p.name for p in (tmp_path / "back" / "models").iterdir()) == ["best", "second"]


@pytest.mark.parametrize(("name", "expected"), [("qags_xsum", "ace"), ("frank", "abcde")])
def test_even_rows_of_qags_are_left_for_acceptance(tmp_path, monkeypatch, name, expected):
    path = tmp_path / f"factcons_{name}.jsonl.gz"
    labels = dict(zip("abcde", (0.0, 1.0, 1.0, 0.5, 0.0), strict=True))
    rows = [{"document": d, "summary": d, "label": label} for d, label in labels.items()]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    seen = []

    def score(scorer, documents, summaries):
        seen.extend(documents)
        return [argparse.Namespace(score=labels[one]) for one in summaries]

    monkeypatch.setattr(gpu_train, "score_each", score)
    found = gpu_train.with_people(None, path, None)
    assert "".join(seen) == expected
    assert found["n"] == len(expected)
    assert found["pearson"]["value"] == pytest.approx(1.0)
    assert found["auc"]["value"] == 1.0


def test_a_model_that_asks_nothing_has_no_correlation(tmp_path, monkeypatch):
    rows = [{"document": "a", "summary": "a", "label": 1.0}] * 4
    path = tmp_path / "factcons_frank.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    scores = [argparse.Namespace(score=score) for score in (0.5, 0.1, math.nan, math.nan)]
    monkeypatch.setattr(gpu_train, "score_each", lambda *_: scores)
    assert gpu_train.with_people(None, path, None) == {"n": 2, "n_missing": 2}


def test_a_stored_model_is_loaded_with_weights_as_before(tiny, tmp_path):
    store(tiny, tmp_path / "stored")
    one, other = (read_weights(folder) for folder in (tiny, tmp_path / "stored"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name].float(), atol=0.02, rtol=0.02)


# The experiment


def recipe(**changes):
    return Recipe(
        **{
            "examples": 32,
            "minutes": None,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "seed": 0,
            "threads": 1,
        }
        | changes
    )


TEXTS = [Text(SENTENCE, "The mayor opened a bridge."), Text(SENTENCE * 2, SENTENCE)] * 4


def test_summaries_end_and_documents_begin_with_special_tokens(tiny):
    """Whatever the base's tokenizer adds: the engine adds its special tokens itself."""
    task = SummaryTask(TEXTS, 0.1, str(tiny), "cpu", frozen=False)
    begin, end = (tiny_models.CONFIG[f"{name}_token_id"] for name in ("bos", "eos"))
    for pair in (task.draw(row, None, 0.0) for row in range(task.size)):
        assert [pair.source[0], pair.source[-1], pair.target[-1]] == [begin, end, end]


def test_the_summariser_is_what_was_stored(tiny, tmp_path):
    """So it is the same wherever it is written again; frozen embeddings need not be stored."""
    arguments = (TEXTS, recipe(), 0.1, tmp_path, str(tiny))
    train_by_likelihood(*arguments, frozen=True)
    stored = load_file(tmp_path / "summariser_int8.safetensors")
    assert not any("shared" in name or "embed_positions" in name for name in stored)
    target = tmp_path / "summariser"
    first = (target / "model.safetensors").read_bytes()
    base, found = read_weights(tiny), read_weights(target)
    torch.testing.assert_close(found["model.shared.weight"], base["model.shared.weight"])
    assert not torch.equal(found["model.encoder.layers.0.fc1.weight"].half(),
                           base["model.encoder.layers.0.fc1.weight"].half())  # fmt: skip
    for path in [*target.iterdir(), tmp_path / "checkpoint.pt"]:
        path.unlink()
    target.rmdir()
    train_by_likelihood(*arguments, frozen=True)
    assert (target / "model.safetensors").read_bytes() == first
    AutoModelForSeq2SeqLM.from_pretrained(target)
    ids = AutoTokenizer.from_pretrained(target)("the").input_ids
    assert ids[-1] == tiny_models.CONFIG["eos_token_id"]
    with pytest.raises(ValueError, match="was made with frozen True, but now it is False"):
        train_by_likelihood(*arguments, frozen=False)


class Scorer:
    """Scores by the number of words."""

    def __init__(self, signature):
        self.signature = signature

    def score(self, documents, summaries):
        rows = [argparse.Namespace(score=float(len(s.split())), status="ok") for s in summaries]
        return argparse.Namespace(rows=rows)


def test_columns_measured_elsewhere_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bench.studies.conseq_experiment.measures.score_each",
        lambda scorer, documents, summaries, on_error: scorer.score(documents, summaries).rows,
    )
    summaries = [SENTENCE] * len(TEXTS)
    elsewhere, here = (Measures(TEXTS, tmp_path, lambda *_: None) for _ in range(2))
    elsewhere._quals = Scorer("quals|gpu")
    found = elsewhere.quals(summaries)
    here._qags = Scorer("qags|cpu")
    assert here.of(summaries)["QUALS"] == found == [13.0] * len(TEXTS)
    assert here.signatures == ["quals|gpu", "qags|cpu"]
    (path,) = tmp_path.glob("quals-*.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    here._quals = Scorer("quals|cpu")
    with pytest.raises(ValueError, match=r"was made with signature 'quals\|gpu', but now it is"):
        here.quals(summaries)


def test_finish_needs_what_write_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--finish", "--run", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"written\.json is missing: run the first two steps"):
        conseq.main()


def test_a_gpu_has_a_result_and_a_page_of_its_own(tmp_path, monkeypatch):
    """From summaries that were written on a GPU to the page, with a QAGS of words."""
    arms = {"MLE": 1, "ConSeq-QUALS": 2, "ConSeq-ROUGE": 1}
    held_out = [[SENTENCE, f"The mayor opened bridge {n}."] for n in range(4)]
    written = {
        "header": {},
        "held_out": held_out,
        "summaries": {arm: [[f"the mayor did {n} {'it ' * (n + k)}" for n in range(4)]]
                      for arm, k in arms.items()},
        "result": {
            "data": "some.jsonl", "device": "cuda",
            "written_on": {"cpu": "some CPU", "threads": 16, "python": "3.12", "commit": "abc",
                           "versions": {"torch": "2.11.0", "transformers": "5.17.0"},
                           "dirty": False, "gpu": "NVIDIA H100", "driver": "580"},
            "texts": {"source_tokens": 160, "references": 20, "others": 10, "held_out": 4},
            "likelihood": {"seen": 60, "learning_rate": 2e-4},
            "conseq": {"num_samples": 6, "beams": 10, "positive_fraction": 0.5, "epochs": 2,
                       "negative_fraction": 0.5, "batch_size": 8, "learning_rate": 5e-5,
                       "seeds": [0]},
            "selection": {by: {"documents": 9, "chosen": 3, "references": -1, "samples": -2,
                               "positives": -1, "negatives": -3} for by in ("quals", "rouge")},
            "selection_shared": 2, "generate": {"num_beams": 4}, "examples": [],
        },
    }  # fmt: skip
    (tmp_path / "written.json").write_text(json.dumps(written))
    monkeypatch.setattr(sys, "argv", ["x", "--finish", "--run", str(tmp_path)])
    for name in ("quals", "qags"):
        monkeypatch.setattr(Measures, f"_{name}", Scorer(f"{name}|x"))
    monkeypatch.setattr(
        "bench.studies.conseq_experiment.measures.score_each",
        lambda scorer, documents, summaries, on_error: scorer.score(documents, summaries).rows,
    )
    monkeypatch.setattr("bench.shared.common.RESULTS", tmp_path)
    monkeypatch.setattr(conseq, "RESULTS", tmp_path)
    monkeypatch.setattr(conseq, "PAGE", tmp_path / "conseq_report.md")
    conseq.main()
    result = json.loads((tmp_path / "conseq_experiment_gpu.json").read_text())
    assert result["differences"]["ConSeq-QUALS - MLE"]["QAGS"]["value"] == pytest.approx(1.0)
    text = (tmp_path / "conseq_report_gpu.md").read_text()
    assert "and QUALS: NVIDIA H100, driver 580; some CPU, 16 threads" in text
    assert "](conseq_report_gpu.svg)" in text
    assert (tmp_path / "conseq_report_gpu.svg").is_file()
    assert not (tmp_path / "conseq_report.md").exists()
    result["device"] = "cpu"
    assert "NVIDIA H100" not in page(result, "x.svg")
