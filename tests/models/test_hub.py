"""Names on the hub, asked for by the real client at a small hub on loopback."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import small_hub
import tiny_models
import torch
from cli_helpers import DOCUMENT, SMALL, SUMMARIES
from safetensors.torch import load_file
from small_hub import TOKEN, refused

from quals_fast.models.hub import fetch, is_hub_name, name_of

NAME = "owner/tiny"
FETCH = """
import sys
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.hub import fetch
try:
    print(fetch(*sys.argv[1:]))
except CheckpointError as error:
    sys.exit(str(error))
"""
SCORE = """
import pickle, sys
from quals_fast import DecodingConfig, QualsScorer
few = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)
scorer = QualsScorer.from_pretrained(sys.argv[1], device="cpu", decoding=few)
print(scorer.signature)
print(pickle.loads(pickle.dumps(scorer)).signature)
print(scorer._origin["revision"])
"""


@pytest.fixture
def hub(tiny_folder, tmp_path):
    """A hub with one model in safetensors, beside files that nobody needs."""
    repository = shutil.copytree(tiny_folder, tmp_path / "repositories" / NAME)
    (repository / "README.md").write_text("a model")
    (repository / "pytorch_model.bin").write_bytes(b"large")
    (repository / "modeling_tiny.py").write_text("raise SystemExit")
    with small_hub.small_hub(tmp_path / "repositories") as hub:
        yield hub


@pytest.fixture
def ask(hub, tmp_path):
    """Run a program, by default one that fetches a model, against that hub with its own cache."""

    def _ask(*arguments, code=FETCH, **variables):
        return small_hub.ask(hub, tmp_path / "home", code, *arguments, **variables)

    return _ask


def folder_of(answer):
    assert answer.stdout, answer.stderr
    return Path(answer.stdout.strip())


# What is fetched


def test_what_is_needed_is_fetched_once(hub, ask, tmp_path):
    answer = ask(NAME)
    assert re.search("Fetching 2 files.*Fetching 1 files", answer.stderr, re.DOTALL)  # progress
    folder = folder_of(answer)
    assert folder.is_relative_to(tmp_path / "home" / "hub")
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "tokenizer.json", "model.safetensors",
    }  # fmt: skip
    assert name_of(folder) == f"{NAME}@{hub.commit(NAME)}"
    assert len(hub.fetched) == 3
    assert folder_of(ask(NAME)) == folder
    assert len(hub.fetched) == 3


def test_pickles_are_fetched_where_there_are_no_safetensors(hub, ask):
    repository = hub.root / NAME
    torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    (repository / "model.safetensors").unlink()
    assert (folder_of(ask(NAME)) / "pytorch_model.bin").is_file()


def test_shards_are_fetched(hub, ask):
    repository = hub.root / NAME
    shard = "model-00001-of-00001.safetensors"
    (repository / "model.safetensors").rename(repository / shard)
    index = {"weight_map": {name: shard for name in load_file(repository / shard)}}
    (repository / "model.safetensors.index.json").write_text(json.dumps(index))
    names = {path.name for path in folder_of(ask(NAME)).iterdir()}
    assert {shard, "model.safetensors.index.json"} <= names
    assert "pytorch_model.bin" not in names


def test_settings_of_the_tokenizer_are_fetched(hub, ask):
    others = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
    for name in others:
        (hub.root / NAME / name).write_text("{}")
    assert {*others} <= {path.name for path in folder_of(ask(NAME)).iterdir()}


def test_a_sentencepiece_model_alone_is_fetched_to_be_explained(hub, ask):
    (hub.root / NAME / "tokenizer.json").rename(hub.root / NAME / "spiece.model")
    assert (folder_of(ask(NAME)) / "spiece.model").is_file()


def test_a_commit_can_be_asked_for(hub, ask):
    before = hub.commit(NAME)
    folder = folder_of(ask(NAME))
    (hub.root / NAME / "config.json").write_text("{}")
    assert hub.commit(NAME) != before
    assert folder_of(ask(NAME)).name == hub.commit(NAME)
    assert folder_of(ask(NAME, before)) == folder
    hub.tags["v1"] = before
    assert folder_of(ask(NAME, "v1")) == folder


def test_a_token_opens_what_is_gated(hub, ask):
    hub.gated.add(NAME)
    assert folder_of(ask(NAME, HF_TOKEN=TOKEN)).is_dir()


def test_the_cache_serves_without_a_network(hub, ask):
    folder = folder_of(ask(NAME))
    assert folder_of(ask(NAME, HF_HUB_OFFLINE="1")) == folder
    hub.is_down = True
    assert folder_of(ask(NAME)) == folder
    assert folder_of(ask(NAME, HF_ENDPOINT="http://127.0.0.1:9")) == folder


def test_an_interrupted_download_goes_on(hub, ask):
    hub.cut.add(f"{NAME}/model.safetensors")
    message = f"{NAME} cannot be downloaded from {hub.url}: … ; try again (what has been"
    refused(ask(NAME), message)
    offline = ask(NAME, HF_HUB_OFFLINE="1")
    refused(offline, "owner/tiny … ; download it … where there is a network")
    assert re.search("only partly in the cache|download was interrupted", offline.stderr)
    hub.cut.clear()
    assert (folder_of(ask(NAME)) / "model.safetensors").stat().st_size == (
        hub.root / NAME / "model.safetensors"
    ).stat().st_size


# What cannot be


def test_no_such_name(hub, ask):
    message = (
        f"there is no folder 'owner/none' here, and no such model on {hub.url} that you may read; "
        "check the name, and for a private model set HF_TOKEN"
    )
    refused(ask("owner/none"), message)


def test_no_such_revision(hub, ask):
    message = f"{NAME} has no revision 'v9' on {hub.url}; give a branch, tag or commit"
    refused(ask(NAME, "v9"), message)


def test_gated(hub, ask):
    hub.gated.add(NAME)
    message = f"{NAME} is gated on {hub.url}; accept its terms there, and set HF_TOKEN to a token"
    refused(ask(NAME), message)


def test_offline_and_not_in_the_cache(hub, ask, tmp_path):
    message = (
        f"{NAME} is not in the cache {tmp_path / 'home' / 'hub'}, and HF_HUB_OFFLINE is set; "
        "download it where there is a network (what is there is kept), or give a local folder"
    )
    refused(ask(NAME, HF_HUB_OFFLINE="1"), message)
    folder_of(ask(NAME))
    message = f"{NAME} at revision 'v1' is not in the cache … and HF_HUB_OFFLINE is set; … "
    refused(ask(NAME, "v1", HF_HUB_OFFLINE="1"), message)


def test_no_network(ask):
    endpoint = "http://127.0.0.1:9"
    message = f"{NAME} is not in the cache … , and {endpoint} cannot be reached; download it where"
    refused(ask(NAME, HF_ENDPOINT=endpoint), message)


def test_a_repository_without_weights(hub, ask):
    (hub.root / NAME / "model.safetensors").unlink()
    (hub.root / NAME / "pytorch_model.bin").rename(hub.root / NAME / "tf_model.h5")
    message = (
        f"there are no weights of {NAME} in … : the repository has neither model.safetensors nor "
        "pytorch_model.bin, or its download was interrupted; download it again where there is a "
        "network, or choose another model"
    )
    refused(ask(NAME), message)


def test_an_adapter(hub, ask):
    (hub.root / NAME / "model.safetensors").unlink()
    (hub.root / NAME / "pytorch_model.bin").unlink()
    (hub.root / NAME / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(ask(NAME), "holds a LORA adapter for None, not a whole model; merge the two")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = (
        "there is no folder 'owner/tiny', and downloading it from the Hugging Face hub needs "
        "huggingface_hub: pip install huggingface_hub, or give a local folder"
    )
    with pytest.raises(ModuleNotFoundError, match=re.escape(message)):
        fetch(NAME)


# Names


@pytest.mark.parametrize("name", [NAME, "a/b", "google/flan-t5-base", "a.b/c_d", "1/2"])
def test_names_on_the_hub(name):
    assert is_hub_name(name)


def test_a_local_folder_of_that_name_wins(hub, ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_models.write_checkpoint(tmp_path / NAME, seed=3)
    assert not is_hub_name(NAME)
    assert ask(NAME, code=SCORE).stdout.count("|model:tiny@") == 2
    assert hub.fetched == []


def test_the_name_of_a_local_folder(tmp_path):
    assert name_of(tmp_path / "snapshots" / "some") == "some"


# Scoring


def test_a_scorer_of_a_name(hub, ask, tiny_folder):
    first, again, revision = ask(NAME, code=SCORE).stdout.splitlines()
    digest = re.search(r"\|model:tiny@(\w{12})\|", ask(str(tiny_folder), code=SCORE).stdout)[1]
    assert f"|model:{NAME}@{hub.commit(NAME)}@{digest}|" in first
    assert again == first
    assert revision == hub.commit(NAME)


COMMAND = "from quals_fast.commands.app import main; main()"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": DOCUMENT, "summary": SUMMARIES["a"]}))
    return str(path)


def test_the_command_line(hub, ask, rows):
    commit = hub.commit(NAME)
    options = ("--model", NAME, "--revision", commit, "--device", "cpu", *SMALL)
    found = ask("score", rows, *options, code=COMMAND)
    assert f"|model:{NAME}@{commit}@" in found.stdout
    assert "Fetching" not in found.stderr  # no bars where there is no terminal
    refused(
        ask("score", rows, "--model", "owner/none", code=COMMAND),
        "Error: there is no folder 'owner/none' here, and no such model on",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--revision v1", "`revision` is for names on the Hugging Face hub, but got 'v1' for the"),
        (
            "--revision v1 --metric qags",
            "`--revision` needs --metric quals or classifier or factcc, but got --metric qags",
        ),
    ],
    ids=["bundled", "qags"],
)
def test_options_that_do_not_go_together(hub, ask, rows, options, message):
    refused(ask("score", rows, *options.split(), code=COMMAND), f"Error: {message}")
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--backend onnx",
            f"{NAME} is not an exported model, which is all that backend 'onnx' runs; export it "
            f"with quals-fast export {NAME} OUT, or use backend='auto'",
        ),
        ("--dtype int8", "`dtype` must be one of auto, float32, mixed, bfloat16, float16, but"),
        ("--device cuda:77", "device 'cuda:77' is not available: PyTorch sees"),
        ("--backend numpy", "`backend` must be 'auto', 'eager', 'triton' or 'onnx', but got"),
    ],
    ids=["onnx", "dtype", "device", "backend"],
)
def test_what_cannot_run_is_refused_before_weights_are_fetched(hub, ask, rows, options, message):
    arguments = ("score", rows, "--model", NAME, *options.split())
    refused(ask(*arguments, code=COMMAND), f"Error: {message}")
    assert sorted(hub.fetched) == [f"{NAME}/config.json", f"{NAME}/tokenizer.json"]


# Exported models


@pytest.fixture
def listed(hub):
    """The hub's model as if it had been exported: a manifest lists two files more."""
    files = {name: "" for name in ("config.json", "tokenizer.json", "a.onnx", "weights.bin")}
    for name in ("a.onnx", "b.onnx", "weights.bin"):
        (hub.root / NAME / name).write_bytes(name.encode() * 1000)
    (hub.root / NAME / "quals_fast_onnx.json").write_text(json.dumps({"files": files}))
    return files


def test_of_an_export_what_its_manifest_lists_is_fetched(listed, hub, ask):
    names = {path.name for path in folder_of(ask(NAME)).iterdir()}
    assert names == {*listed, "quals_fast_onnx.json"}
    assert len(hub.fetched) == 5
    assert folder_of(ask(NAME, HF_HUB_OFFLINE="1"))


def test_an_export_that_lacks_a_file(listed, hub, ask):
    (hub.root / NAME / "weights.bin").unlink()
    message = (
        f"weights.bin of {NAME} is not in … : the repository lacks it, or its download was "
        "interrupted; download it again where there is a network, or choose another model"
    )
    refused(ask(NAME), message)


def test_an_interrupted_download_of_an_export_goes_on(listed, hub, ask):
    hub.cut.add(f"{NAME}/weights.bin")
    refused(ask(NAME), f"{NAME} cannot be downloaded from {hub.url}: … ; try again")
    refused(ask(NAME, HF_HUB_OFFLINE="1"), "owner/tiny … ; download it … where there is a network")
    hub.cut.clear()
    assert (folder_of(ask(NAME)) / "weights.bin").is_file()


@pytest.mark.parametrize("files", [None, ["a"], {"../a": ""}], ids=str)
def test_a_manifest_that_is_damaged(listed, hub, ask, rows, files):
    (hub.root / NAME / "quals_fast_onnx.json").write_text(json.dumps({"files": files}))
    answer = ask("score", rows, "--model", NAME, code=COMMAND)
    refused(answer, "Error: … was exported in format None by quals_fast None, but this version")
    assert len(hub.fetched) == 3


SLIM = "import sys\nsys.modules['torch'] = None\n"


@pytest.fixture
def export(exported, hub):
    """The name of an exported model on the hub."""
    shutil.copytree(exported["float32"][0], hub.root / "owner" / "exported")
    return "owner/exported"


def test_an_exported_model_scores_without_pytorch(export, hub, ask):
    first, again, revision = ask(export, code=SLIM + SCORE).stdout.splitlines()
    assert f"|model:{export}@{hub.commit(export)}@" in first
    assert "|dtype:float32|backend:onnx-cpu|" in first
    assert again == first
    assert revision == hub.commit(export)


def test_the_command_line_takes_an_exported_model(export, ask, rows):
    for backend in ("auto", "onnx"):
        arguments = ("score", rows, "--model", export, "--backend", backend, *SMALL)
        assert f"|model:{export}@" in ask(*arguments, code=SLIM + COMMAND).stdout
    arguments = ("score", rows, "--model", export, "--backend", "eager", *SMALL)
    message = "Error: … holds exported ONNX graphs, which backend 'eager' cannot run; use backend="
    refused(ask(*arguments, code=COMMAND), message)


def test_without_pytorch_other_models_are_not_fetched(hub, ask, rows):
    answer = ask("score", rows, "--model", NAME, code=SLIM + COMMAND)
    refused(answer, "Error: this backend needs PyTorch: pip install quals-fast without --no-deps")
    assert f"{NAME}/model.safetensors" not in hub.fetched


def test_the_small_install_says_that_names_need_huggingface_hub(ask, rows):
    code = f"{SLIM}sys.modules['huggingface_hub'] = None\n{COMMAND}"
    message = (
        f"Error: there is no folder '{NAME}', and downloading it from the Hugging Face hub "
        "needs huggingface_hub: pip install huggingface_hub, or give a local folder"
    )
    refused(ask("score", rows, "--model", NAME, code=code), message)


def test_local_models_do_without_it(ask, tiny_folder):
    code = "sys.modules['huggingface_hub'] = None\n" + SCORE
    assert ask(str(tiny_folder), code=f"import sys\n{code}").stdout.count("|model:tiny@") == 2
