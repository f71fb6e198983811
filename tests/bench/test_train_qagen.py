"""The speed of `train-qagen`: figures of whole runs, and a page that shows them once measured."""

import json
import sys

import pytest
import tiny_t5
from town import BRIDGE, line

from bench import train_qagen
from bench.report import __main__ as report
from bench.report.results import command_of
from bench.shared import common, weights
from bench.shared.weights import RANDOM, origin


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """The command line of a small run of a tiny T5 1.1, which stands in for a FLAN-T5."""
    folder = tiny_t5.write_t5(tmp_path / "t5", tiny_t5.T5_1_1)
    for module in (train_qagen, weights):
        monkeypatch.setattr(module, "folder_of", lambda name: folder)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    questions = tmp_path / "town.jsonl"
    questions.write_text(json.dumps(line(BRIDGE, "Queen Anne", "forty four", "1969")) + "\n")
    return ["--models", "flan-t5-base", "--train", str(questions), "--examples", "6"]


def test_a_t5_is_measured_and_stands_on_the_page(arguments, monkeypatch):
    assert report.section("train_qagen").startswith("Not measured yet")
    options = [*arguments, "--rounds", "2", "--batch-tokens", "110"]
    monkeypatch.setattr(sys, "argv", ["train_qagen", *options])
    train_qagen.main()
    result = json.loads((common.RESULTS / "train_qagen.json").read_text())
    described = result["weights"]["flan-t5-base"]
    assert described["recipe"] == RANDOM and origin("flan-t5-base", described) is None
    case = result["cases"]["flan-t5-base"]
    assert case["examples_per_s"]["n"] == case["tflop_per_s"]["n"] == 2
    assert case["steps"] >= 2
    assert "| flan-t5-base | 1 threads of an " in report.section("train_qagen")


def test_figures_are_those_of_the_rounds():
    run = {"examples": 10, "flop": 3e12, "source_tokens": 700, "target_tokens": 90, "steps": 4}
    found = train_qagen.summarise([run | {"seconds": 2.0}, run | {"seconds": 5.0}])
    assert found["examples_per_s"] == {"median": 3.5, "low": 2.0, "high": 5.0, "n": 2}
    assert found["tflop_per_s"]["high"] == 1.5
    assert found["tokens_of_example"] == [70, 9]


def test_the_commands_that_write_results_of_a_t5(tmp_path):
    commands = {
        "train_qagen": "python -m bench.train_qagen",
        "train_qagen_gpu": "python -m bench.train_qagen --device cuda",
        "training_cost_t5": "python -m bench.training_cost --policy t5-small",
        "training_cost_t5_gpu": "python -m bench.training_cost --policy flan-t5-base --device cuda",
    }
    for name, command in commands.items():
        assert command_of(tmp_path / f"{name}.json") == command
