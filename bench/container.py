"""Does the slim service's container work, and how large is it? Runs the steps of Containerfile.

    python -m bench.container

Builds the wheel, exports the bundled model as int8, copies and runs in a new virtual environment
what the file says, then starts its command and asks for a score. No container engine is needed, so
the base image is not part of it, nor its size.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from bench.install_size import environment, size_mb
from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import EXAMPLES, ROOT, finish, load_pairs
from bench.shared.options import command_line
from bench.shared.service import served
from bench.shared.weights import MODEL, weights_of


def steps(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a container file with their arguments."""
    lines = (line.split(" ", 1) for line in file.read_text("utf-8").splitlines())
    return [(words[0], words[1]) for words in lines if words[0].isupper()]


def main() -> None:
    """Run the steps."""
    command_line(__doc__).parse_args()
    model = exported(folder_of(MODEL), "int8")
    with tempfile.TemporaryDirectory(dir=Path.home()) as scratch:
        context, image = Path(scratch) / "context", Path(scratch) / "image"
        wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(context / "dist")]
        subprocess.run([*wheel, str(ROOT)], check=True)
        shutil.copytree(model, context / "exported")
        image.mkdir()
        for instruction, arguments in steps(ROOT / "Containerfile"):
            if instruction == "FROM":
                base = arguments
            elif instruction == "COPY":
                source, target = arguments.split()
                shutil.copytree(context / source, image / target)
            elif instruction == "RUN":
                variables = environment(Path(scratch) / "python", arguments, image)
            elif instruction == "CMD":
                command = json.loads(arguments)
        pair = load_pairs([EXAMPLES], 1)[0]
        body = json.dumps({"document": pair.document, "summary": pair.summary}).encode()
        with served(command, cwd=image, env=variables) as server:
            headers = {"Content-Type": "application/json"}
            asked = urllib.request.Request(f"{server.url}/v1/score", body, headers)
            with urllib.request.urlopen(asked) as answer:
                row = json.load(answer)
        if row["status"] != "ok":
            raise RuntimeError(f"the service answers {row['status']}")
        sizes = {"environment": size_mb(Path(scratch) / "python"), "model": size_mb(model)}
    result = {"base_image": base, "megabytes": sizes, "row": row}
    finish("container", result, weights=weights_of(MODEL))


if __name__ == "__main__":
    main()
