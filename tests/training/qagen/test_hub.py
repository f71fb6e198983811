"""A run that starts from a name on the hub, asked for by the real client at a hub on loopback."""

import json
import shutil

import pytest
import tiny_t5
from click.testing import CliRunner
from small_hub import ask, small_hub

from quals_fast.commands.app import app
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.training.qagen.settings import TrainingSettings

NAME = "owner/base"
OPTIONS = "--batch-tokens 110 --warmup-steps 1 --every 2 --bf16 off --cpu --threads 1".split()
COMMANDS = """
import json, sys
from click.testing import CliRunner
from quals_fast.commands.app import app
results = [CliRunner().invoke(app, arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([[result.exit_code, result.output] for result in results]))
"""


@pytest.fixture
def hub(tmp_path):
    with small_hub(tmp_path / "repositories") as hub:
        yield hub


@pytest.fixture
def train(hub, questions, tmp_path):
    """Run `quals-fast train-qagen` with each of some options; return exit codes and outputs."""

    def _train(*runs):
        files = ["--train", str(questions), "-o", str(tmp_path / "run")]
        commands = [["train-qagen", "--init", NAME, *files, *OPTIONS, *run] for run in runs]
        answer = ask(hub, tmp_path / "home", COMMANDS, json.dumps(commands))
        assert answer.stdout, answer.stderr
        return json.loads(answer.stdout.splitlines()[-1])

    return _train


def recorded(tmp_path):
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    return run["identity"]["init"], run["revision"], run["identity"]["commit"]


def test_a_t5_at_a_tag_is_trained_and_resumed(hub, train, tmp_path):
    folder = tiny_t5.write_t5(hub.root / NAME, tiny_t5.T5_1_1)
    hub.tags["v1"] = commit = hub.commit(NAME)
    (folder / "README.md").write_text("the main branch has moved on")
    first, other, again = train(
        ["--examples", "12", "--revision", "v1"],
        ["--examples", "16"],
        ["--examples", "16", "--revision", commit],
    )
    assert first[0] == 0 and "wrote" in first[1], first
    assert other == [
        2,
        f"Error: {tmp_path / 'run'} belongs to a run that started from {NAME} at commit {commit}, "
        f"but got {hub.commit(NAME)}; resume it with --revision {commit}, or choose a new --output "
        "folder\n",
    ]
    assert again[0] == 0 and "resuming from" in again[1], again
    assert recorded(tmp_path) == (NAME, commit, commit)
    assert read_checkpoint(tmp_path / "run")[0] == read_checkpoint(folder)[0]
    assert not any(name.endswith("README.md") for name in hub.fetched)


def test_a_bart_is_trained_and_what_the_hub_does_not_have_is_refused(hub, train, base, tmp_path):
    shutil.copytree(base, hub.root / NAME)
    no_name, no_revision, trained = train(
        ["--init", "owner/none"], ["--revision", "v9"], ["--examples", "4"]
    )
    message = "Error: there is no folder 'owner/none' here, and no such model on"
    assert no_name[0] == 2 and no_name[1].startswith(message)
    message = f"Error: {NAME} has no revision 'v9' on {hub.url}; give a branch, tag or commit\n"
    assert no_revision == [2, message]
    assert trained[0] == 0 and "resuming" not in trained[1], trained
    assert recorded(tmp_path) == (NAME, None, hub.commit(NAME))
    assert read_checkpoint(tmp_path / "run")[1] == read_checkpoint(base)[1]


@pytest.mark.parametrize("init", ["qagen-mini", "minilm:owner/base", "."])
def test_a_revision_of_what_is_not_on_the_hub(init, questions, tmp_path):
    message = "`revision` is for names on the Hugging Face hub, but got 'v1' for the model"
    with pytest.raises(ValueError, match=f"{message} '{init}'; leave it out"):
        TrainingSettings(train=(questions,), output=tmp_path, init=init, revision="v1")
    files = ["--train", str(questions), "-o", str(tmp_path / "run"), "--init", init]
    result = CliRunner().invoke(app, ["train-qagen", *files, "--revision", "v1"])
    assert result.exit_code == 2
    assert f"Error: {message}" in result.stderr
