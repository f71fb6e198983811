"""How much disk space do the two ways to install take: slim, as in docs/onnx.md, and with PyTorch?

    python -m bench.install_size

Builds the wheel, runs the command after ``<!-- bench:slim -->`` in a new virtual environment, and
scores an example there with an int8 export, which proves that the command suffices. The full
environment has the same PyTorch as this one. Sizes include the environments themselves.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import EXAMPLES, ROOT, finish, machine
from bench.shared.options import command_line

LINE = re.compile(r"<!-- bench:slim -->\n```sh\n(pip install .*)\n```")
_PYTORCH = "https://download.pytorch.org/whl/cpu"


def environment(folder: Path, command: str, work: Path) -> dict[str, str]:
    """Make a virtual environment and run a command in it; return its variables."""
    venv.create(folder, with_pip=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PATH"] = f"{folder / 'bin'}:{variables['PATH']}"
    subprocess.run(["bash", "-euc", command], cwd=work, env=variables, check=True)
    return variables


def size_mb(folder: Path) -> float:
    """Return what the files take, millions of bytes."""
    sizes = (path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    return sum(sizes) / 1e6


def main() -> None:
    """Install twice."""
    command_line(__doc__).parse_args()
    line = LINE.search((ROOT / "docs" / "onnx.md").read_text("utf-8"))
    assert line is not None
    model = exported(folder_of("qagen-mini"), "int8")
    torch = str(machine()["versions"]["torch"])
    with tempfile.TemporaryDirectory(dir=Path.home()) as scratch:
        work = Path(scratch)
        wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(work / "dist")]
        subprocess.run([*wheel, str(ROOT)], check=True)
        slim = environment(work / "slim", line[1], work)
        score = f"head -2 {EXAMPLES} | quals-fast score - --model {model} --backend onnx -o -"
        subprocess.run(["bash", "-euc", score], cwd=work, env=slim, check=True)
        first = f"pip install --retries 0 torch=={torch} --extra-index-url {_PYTORCH}"
        environment(work / "full", f"{first} && pip install dist/*.whl", work)
        sizes = {name: size_mb(work / name) for name in ("slim", "full")}
    finish("install_size", {"megabytes": sizes}, weights={})


if __name__ == "__main__":
    main()
