"""ONNX Runtime sessions: which provider runs, how many threads, and errors that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from quals_fast.errors import BackendUnavailableError
from quals_fast.models.checkpoint import CheckpointError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NUMPY_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_PLACE_IN_SOURCE = re.compile(r"\S*/onnxruntime/\S+:\d+ .*?\) (const )?")


@cache
def runtime() -> ModuleType:
    """Import ONNX Runtime, without its telemetry.

    From 1.29 on it writes a device's id to the home directory and sends events, unless a variable
    says otherwise when it is imported. What the user has set there, or a program that has imported
    it before, stays as it is.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    is_mine = _NO_TELEMETRY not in os.environ
    if is_mine:
        os.environ[_NO_TELEMETRY] = "1"
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "backend 'onnx' needs ONNX Runtime: in the checkout, pip install \".[onnx]\", or "
            '".[onnx-gpu]" for a GPU'
        ) from error
    finally:
        if is_mine:
            del os.environ[_NO_TELEMETRY]
    return onnxruntime


def resolve_provider(device: str) -> tuple[str, dict[str, str]]:
    """Return the execution provider of a device, and its options; ``"auto"`` takes a GPU's if any.

    Raises:
        ValueError: no such kind of device.
        BackendUnavailableError: this ONNX Runtime has no such provider.
    """
    available = runtime().get_available_providers()
    if device == "auto":
        device = "cuda" if _PROVIDERS["cuda"] in available else "cpu"
    kind, _, number = device.partition(":")
    if kind not in _PROVIDERS or (number and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but got {device!r}")
    name = _PROVIDERS[kind]
    if name not in available:
        raise BackendUnavailableError(
            f"device {device!r} needs ONNX Runtime's {name}, but this one has "
            f'{", ".join(available)}; pip install ".[onnx-gpu]" in the checkout, or use '
            "device='cpu'"
        )
    return name, {"device_id": number} if number else {}


class Graph:
    """One graph of an exported folder; may be run by several threads at once.

    Args:
        path: of the graph.
        provider: from `resolve_provider`.
        threads: that one run uses; None takes ONNX Runtime's choice, one a core.
        wide_sums: add 8-bit products without overflow on a processor without VNNI, see
            `needs_wide_sums`.

    Attributes:
        provider: what runs.
        is_bound: keys and values come from and stay with the provider's device, as `OrtValue`; what
            else comes out is an array of the host. So it is on a GPU; on a CPU all are arrays.
        types: of the inputs that are floating-point numbers.
        sizes: of all inputs; a name where one may vary.

    Raises:
        CheckpointError: the graph cannot be read, or this ONNX Runtime is too old for it.
        BackendUnavailableError: the provider did not load, so another would have run.
    """

    def __init__(
        self,
        path: Path,
        provider: tuple[str, dict[str, str]],
        threads: int | None = None,
        *,
        wide_sums: bool = False,
    ) -> None:
        ort = runtime()
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors; what matters of them is raised
        # The host searches between two runs: threads that wait for work by spinning slow it down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", str(int(wide_sums)))
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # ONNX Runtime's own errors have no common class of theirs
            raise CheckpointError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {_plain(error)}; export "
                "the model again, or install the version of ONNX Runtime that its manifest names"
            ) from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider[0]:
            raise BackendUnavailableError(
                f"ONNX Runtime could not load {provider[0]}, and "
                f"{self.provider} would have run; check the installation of its libraries, or use "
                "device='cpu'"
            )
        self.is_bound = provider[0] != _PROVIDERS["cpu"]
        self._device = "cpu", 0
        if self.is_bound:
            self._device = "cuda", int(provider[1].get("device_id", 0))
        self.types = {
            i.name: _NUMPY_TYPES[i.type]
            for i in self._session.get_inputs()
            if i.type in _NUMPY_TYPES
        }
        self.sizes = {i.name: i.shape for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name.

        Args:
            inputs: arrays, or where the graph is bound also what an earlier run left on the device.

        Raises:
            MemoryError: there is not enough memory.
            RuntimeError: the graph failed, as it does on ids out of range.
        """
        try:
            if self.is_bound:
                return self._run_bound(inputs)
            outputs: Sequence[np.ndarray] = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # see above
            if "Failed to allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise RuntimeError(f"ONNX Runtime failed: {_plain(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _run_bound(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run without copying keys and values between device and host."""
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, *(self._device if _stays(name) else ()))
        self._session.run_with_iobinding(binding)
        outputs = zip(self._outputs, binding.get_outputs(), strict=True)
        return {name: one if _stays(name) else one.numpy() for name, one in outputs}


def needs_wide_sums(path: Path) -> bool:
    """Return whether sums of 8-bit products overflow on this processor unless told not to.

    Without VNNI, two products are added in 16 bits. What prevents that takes twice the time, with
    VNNI too, and ONNX Runtime does not say what the processor has; so it is tried.

    Args:
        path: of the graph that `integers.largest_sums` has made.
    """
    (is_exact,) = Graph(path, resolve_provider("cpu"), 1).run({}).values()
    return not is_exact


def _plain(error: Exception) -> str:
    """Return an error's text without the place in ONNX Runtime's own source."""
    return _PLACE_IN_SOURCE.sub("", str(error))[:300]


def _stays(output: str) -> bool:
    """Return whether an output is keys or values."""
    return output.startswith(("cross_", "new_", "grown_"))
