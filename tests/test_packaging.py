"""What is built and installed holds what it must and shadows nothing."""

import email
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
CLAIM = (ROOT / "docs" / "claim.md").read_text("utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    files = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "quals_fast", "kernels"]
    subprocess.run(["cp", "-r", *files, str(source)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_no_package_is_called_kernels():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_wheel_has_two_packages_and_the_model(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "quals_fast",
        "quals_fast_kernels",
    }
    for name in (
        "quals_fast/py.typed",
        "quals_fast/pages/templates/explain.html.j2",
        "quals_fast/pages/templates/report.html.j2",
        "quals_fast/models/assets/qagen-mini/README.md",
        "quals_fast/models/assets/qagen-mini/SHA256SUMS",
        "quals_fast/models/assets/qagen-mini/config.json",
        "quals_fast/models/assets/qagen-mini/model.safetensors",
        "quals_fast/models/assets/qagen-mini/tokenizer.json",
    ):
        assert name in names, name


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel beside the environment's own packages; return what finds it first."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:  # as pip does with a pure wheel
        archive.extractall(target)
    return os.environ | {"PYTHONPATH": str(target), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}


def qags_command():
    """Return the arguments of the page's command behind its pip install."""
    (line,) = re.findall(r"<!-- docs:qags -->\n```sh\n(.*)\n```", CLAIM)
    install, command = line.split(" && ")
    assert install == 'pip install ".[qags]"'
    program, *arguments = shlex.split(command)
    assert program == "quals-fast" and arguments[-2:] == ["--metric", "qags"]
    return arguments


@pytest.mark.parametrize("n_rows", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_the_line_for_qags_runs_where_the_package_is_installed(installed, tmp_path, n_rows):
    pytest.importorskip("spacy", reason="QAGS needs spaCy")
    arguments = qags_command()
    lines = (ROOT / arguments[1]).read_text("utf-8").splitlines(keepends=True)
    if n_rows < len(lines):
        (tmp_path / "few.jsonl").write_text("".join(lines[:n_rows]))
        arguments[1] = str(tmp_path / "few.jsonl")
    code = (
        "import sys, quals_fast; print(quals_fast.__file__, file=sys.stderr)\n"
        "from quals_fast.commands.app import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=installed, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    where, closing = found.stderr.splitlines()[0], found.stderr.splitlines()[-1]
    assert where.startswith(installed["PYTHONPATH"])
    assert closing.startswith(f"{n_rows} rows: ")
    assert found.stdout.splitlines()[-1].startswith("qags|answers:10|questions:20|")


def test_both_ends_of_every_range_and_each_python_were_run(wheel):
    matrix = runpy.run_path(str(ROOT / "tests" / "matrix.py"))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    ranges = matrix["widest_ranges"](metadata)
    cells = json.loads(matrix["OUTCOMES"].read_text("utf-8"))["cells"]
    lowest = {name: Version(one) for name, one in cells["lowest-3.11"]["versions"].items()}
    assert lowest == {name: matrix["lowest"](versions) for name, versions in ranges.items()}
    ran = [cell for cell in cells.values() if "versions" in cell]
    for cell in ran:
        outside = {name: one for name, one in cell["versions"].items() if one not in ranges[name]}
        assert not outside, cell["python"]
    assert {f"Python :: {cell['python'].rpartition('.')[0]}" for cell in ran} == {
        classifier.removeprefix("Programming Language :: ")
        for classifier in metadata.get_all("Classifier")
        if classifier.startswith("Programming Language")
    }


def test_the_bundled_model_is_at_most_30_mib():
    folder = ROOT / "quals_fast" / "models" / "assets" / "qagen-mini"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 30 * 2**20


def test_transformers_imports_from_the_root_of_the_checkout():
    code = "import transformers; transformers.BartForConditionalGeneration; print('fine')"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "fine", found.stderr
