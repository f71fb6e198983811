"""Do exports work at the sizes of BART-base and BART-large? Measures time, size and agreement.

    python -m bench.onnx_exports
    python -m bench.onnx_exports --models bart-large --dtypes int8

Each export runs in its own process, to measure its peak memory. It ends with a check against the
model, which must pass, and is then deleted. Models and types that a run leaves out keep their
earlier results, unless the model's weights have changed since. Needs up to 5 GB of disk and 10 GB
of memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.recipes.grow import folder_of
from bench.shared.common import RESULTS, finish, peak_mib
from bench.shared.options import MODELS, command_line
from bench.shared.weights import weights_of
from quals_fast.export.exporter import export
from quals_fast.exported.manifest import DTYPES, WEIGHTS


def export_once(folder: Path, dtype: str) -> dict[str, Any]:
    """Export a model; return seconds, sizes and what the check found."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as scratch:
        target, begin = Path(scratch) / "exported", time.perf_counter()
        parity = export(folder, target, dtype=dtype)
        return {
            "seconds": time.perf_counter() - begin,
            "weights_bytes": (target / WEIGHTS).stat().st_size,
            "largest_graph_bytes": max(path.stat().st_size for path in target.glob("*.onnx")),
            "parity": parity,
            "peak_mib": peak_mib(),
        }


def main() -> None:
    """Export every model as every type."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=[*MODELS], help="all by default"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES], help="all by default"
    )
    parser.add_argument(
        "--in-this-process", action="store_true", help="export one model and type in this process"
    )
    arguments = parser.parse_args()
    if arguments.in_this_process:
        (model,), (dtype,) = arguments.models, arguments.dtypes
        print(json.dumps(export_once(folder_of(model), dtype)))
        return
    weights = weights_of(*arguments.models)
    exports: dict[str, dict[str, Any]] = {}
    earlier = RESULTS / "onnx_exports.json"
    if earlier.is_file():
        before = json.loads(earlier.read_text("utf-8"))
        exports = {
            model: of_model
            for model, of_model in before["exports"].items()
            if model not in weights or before["weights"][model] == weights[model]
        }
        weights = {model: before["weights"][model] for model in exports} | weights
    for model in arguments.models:
        folder_of(model)  # grown here, so that no export pays for it
        for dtype in arguments.dtypes:
            command = [sys.executable, "-m", "bench.onnx_exports", "--in-this-process"]
            command += ["--models", model, "--dtypes", dtype]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            exports.setdefault(model, {})[dtype] = json.loads(done.stdout.splitlines()[-1])
            finish("onnx_exports", {"exports": exports}, weights=weights)


if __name__ == "__main__":
    main()
