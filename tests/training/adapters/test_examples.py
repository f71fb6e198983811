"""The examples run, here with models of a few thousand parameters."""

import runpy
import sys
from pathlib import Path

import pytest
import tiny_trainers

import quals_fast.training

EXAMPLES = Path(__file__).parents[3] / "examples" / "training"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("summariser", "causal_model")}
    for kind, folder in folders.items():
        getattr(tiny_trainers, kind)().save_pretrained(folder)
        tiny_trainers.tokenizer().save_pretrained(folder)
    return folders


@pytest.mark.parametrize(
    ("name", "kind", "printed"),
    [
        ("metric", None, "all: "),
        ("module", None, "|backend:"),
        ("reward", "causal_model", "rewards/quals/mean"),
        ("callback", "summariser", "eval_quals_step"),
        ("conseq", "summariser", "ConSeqResult("),
    ],
)
def test_example(name, kind, printed, models, qagen_folder, monkeypatch, capsys):
    model = [] if kind is None else ["--model", str(models[kind])]
    # ConSeq needs a scorer that knows the words of the examples.
    scorer = [] if name == "conseq" else ["--scorer", str(qagen_folder)]
    command = [f"{name}.py", "--rows", "2", *scorer, *model]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert printed in capsys.readouterr().out


def test_all_public_names_can_be_had():
    for name in quals_fast.training.__all__:
        assert getattr(quals_fast.training, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Metric'"):
        _ = quals_fast.training.Metric
