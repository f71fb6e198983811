"""Weights in pytorch_model.bin: read as tensors; whatever else is in one is refused and not run."""

import argparse
import os
import pickle
import shlex

import pytest
import torch
from model_folders import WEIGHTS, fails, load, parameters, split_in_two
from safetensors.torch import load_file, save_file

from quals_fast.models import pickles

PICKLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
SAVE = "; save the model with transformers' save_pretrained()"


@pytest.fixture
def pickled(folder):
    """The tiny model as older programs saved it: tied weights share their memory."""
    weights = load_file(folder / WEIGHTS)
    weights["lm_head.weight"] = weights["model.shared.weight"]
    weights["model.encoder.version"] = torch.tensor([3.0])
    torch.save(weights, folder / PICKLE)
    (folder / WEIGHTS).unlink()
    return folder


def test_a_pickle_is_the_model(pickled, tiny_folder):
    assert parameters(load(pickled)) == parameters(load(tiny_folder))


def test_a_pickle_from_before_pytorch_1_6(pickled, tiny_folder):
    weights = torch.load(pickled / PICKLE)
    torch.save(weights, pickled / PICKLE, _use_new_zipfile_serialization=False)
    assert parameters(load(pickled)) == parameters(load(tiny_folder))


def test_it_is_mapped_and_not_read(pickled, monkeypatch):
    asked = []

    def spy(path, **options):
        asked.append(options)
        return load_pickle(path, **options)

    load_pickle = torch.load
    monkeypatch.setattr(torch, "load", spy)
    pickles.read_pickled(pickled / PICKLE)
    assert asked == [{"map_location": "cpu", "weights_only": True, "mmap": True}]


def test_parameters_are_tensors(tmp_path):
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / PICKLE)
    (tensor,) = pickles.read_pickled(tmp_path / PICKLE).values()
    assert type(tensor) is torch.Tensor and not tensor.requires_grad


def test_safetensors_come_first(pickled, tiny_folder):
    digest = load(pickled).digest
    save_file(load_file(tiny_folder / WEIGHTS), pickled / WEIGHTS)
    (pickled / PICKLE).write_bytes(b"")
    assert load(pickled).digest == load(tiny_folder).digest != digest


@pytest.fixture
def shards(pickled):
    """The model in two files."""
    weights = {name: tensor.clone() for name, tensor in torch.load(pickled / PICKLE).items()}
    return split_in_two(pickled, PICKLE, weights, torch.save)


def test_two_shards_are_one_model(shards, tiny_folder):
    assert parameters(load(shards)) == parameters(load(tiny_folder))


def test_missing_shard(shards):
    (shards / "pytorch_model-00002-of-00002.bin").unlink()
    message = f"{shards / INDEX} names pytorch_model-00002-of-00002.bin, which is not in the folder"
    fails(shards, message, "; download it too")


# What is refused


class Command:
    """Pickled, it is the call of a command that leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before-1.6"])
def test_a_command_is_refused_and_does_not_run(pickled, tmp_path, as_zip):
    trace = tmp_path / "trace"
    weights = torch.load(pickled / PICKLE) | {"x": Command(trace)}
    torch.save(weights, pickled / PICKLE, _use_new_zipfile_serialization=as_zip)
    message = (
        f"{pickled / PICKLE} must hold tensors and nothing else, but holds posix.system, "
        "which could run code and was not run; get the weights as safetensors, from someone you "
        "trust"
    )
    fails(pickled, message)
    assert not trace.exists()
    torch.load(pickled / PICKLE, weights_only=False)  # the file does what it is refused for
    assert trace.exists()


def test_a_plain_pickle_with_a_command(pickled, tmp_path):
    trace = tmp_path / "trace"
    (pickled / PICKLE).write_bytes(pickle.dumps(Command(trace), protocol=2))
    fails(pickled, "but holds posix.system, which could run code and was not run; ")
    assert not trace.exists()


def test_objects_are_refused(pickled):
    weights = torch.load(pickled / PICKLE) | {"args": argparse.Namespace(lr=1e-4)}
    torch.save(weights, pickled / PICKLE)
    fails(pickled, "must hold tensors and nothing else, but holds argparse.Namespace, which could ")


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        pytest.param({"epoch": 3}, "epoch", id="number"),
        pytest.param({"model": {"a": torch.ones(1)}}, "model", id="dictionary"),
        pytest.param({3: torch.ones(1)}, 3, id="name"),
        pytest.param({"a": torch.eye(2).to_sparse()}, "a", id="sparse"),
        pytest.param({"a": torch.ones(2, device="meta")}, "a", id="no-data"),
    ],
)
def test_only_tensors_are_in_it(pickled, extra, name):
    torch.save(torch.load(pickled / PICKLE) | extra, pickled / PICKLE)
    message = (
        f"{pickled / PICKLE} must hold tensors and nothing else, but its {name!r} is no plain "
        "tensor"
    )
    fails(pickled, message, SAVE)


def test_a_list_is_no_model(pickled):
    torch.save([torch.ones(1)], pickled / PICKLE)
    fails(pickled, f"{pickled / PICKLE} must hold tensors by name, but holds a list", SAVE)


UNREADABLE = " is not a readable PyTorch file; it may be incomplete, or a Git LFS pointer: download"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="one-byte-short"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"version https://git-lfs.github.com/spec/v1\n", id="git-lfs"),
        pytest.param(lambda data: data.replace(b"shared", b"s\xffared"), id="name"),
    ],
)
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before-1.6"])
def test_damaged_files(pickled, damage, as_zip):
    path = pickled / PICKLE
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=as_zip)
    path.write_bytes(damage(path.read_bytes()))
    fails(pickled, f"{path}{UNREADABLE}", " it again")


def test_a_zip_without_a_pickle(pickled):
    path = pickled / PICKLE
    path.write_bytes(path.read_bytes().replace(b"data.pkl", b"date.pkl"))
    fails(pickled, f"{path}{UNREADABLE}", " it again")


def test_damaged_shard(shards):
    path = shards / "pytorch_model-00002-of-00002.bin"
    path.write_bytes(path.read_bytes()[:-1])
    fails(shards, f"{path}{UNREADABLE}", " it again")
