"""Which kernels run, and what is said where Triton's cannot."""

import logging

import pytest
import torch

from quals_fast import ops
from quals_fast.ops import EAGER, BackendUnavailableError, resolve_backend

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _recent_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_auto_takes_triton_on_a_gpu_and_eager_elsewhere(monkeypatch):
    monkeypatch.setattr(ops, "HAS_TRITON", True)
    monkeypatch.setattr(ops, "triton_version", lambda: "3.7.1")
    assert resolve_backend("auto", CPU) is EAGER
    assert resolve_backend("auto", GPU).name == "triton"
    assert resolve_backend("eager", GPU) is EAGER


def test_triton_is_not_installed(monkeypatch, caplog):
    monkeypatch.setattr(ops, "HAS_TRITON", False)
    message = r"Triton is not installed: pip install 'triton>=3.6,<3.10'; use backend='eager'"
    with pytest.raises(BackendUnavailableError, match=message):
        resolve_backend("triton", GPU)
    with caplog.at_level(logging.WARNING, "quals_fast"):
        assert resolve_backend("auto", GPU) is EAGER
    assert "continuing with the eager kernels" in caplog.text


@pytest.mark.parametrize("version", ["3.5.1", "3.10.0", "4.0", "2"])
def test_triton_is_too_old_or_too_new(monkeypatch, version):
    monkeypatch.setattr(ops, "HAS_TRITON", True)
    monkeypatch.setattr(ops, "triton_version", lambda: version)
    message = f"Triton {version} is installed, but quals_fast needs >=3.6,<3.10; use backend='eag"
    with pytest.raises(BackendUnavailableError, match=message):
        resolve_backend("triton", GPU)


def test_a_gpu_that_triton_does_not_compile_for(monkeypatch, caplog):
    monkeypatch.setattr(ops, "HAS_TRITON", True)
    monkeypatch.setattr(ops, "triton_version", lambda: "3.7.1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    message = "Triton needs a GPU of compute capability 7.0 or more, but this one has 6.1; use back"
    with pytest.raises(BackendUnavailableError, match=message):
        resolve_backend("triton", GPU)
    with caplog.at_level(logging.WARNING, "quals_fast"):
        assert resolve_backend("auto", GPU) is EAGER
    assert "this one has 6.1; continuing with the eager kernels" in caplog.text


def test_triton_on_a_cpu(monkeypatch):
    monkeypatch.setattr(ops, "HAS_TRITON", True)
    monkeypatch.setattr(ops, "triton_version", lambda: "3.7.1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="run on a GPU, but the device is 'cpu'"):
        resolve_backend("triton", CPU)


def test_onnx_and_unknown_names():
    with pytest.raises(BackendUnavailableError, match="'onnx' runs exported graphs"):
        resolve_backend("onnx", CPU)
    with pytest.raises(ValueError, match="`backend` must be 'auto', 'eager', 'triton' or 'onnx'"):
        resolve_backend("jax", CPU)
