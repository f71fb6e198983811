"""What is built and installed holds what it must and shadows nothing."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
        "quals_fast/templates/explain.html.j2",
        "quals_fast/models/assets/qagen-mini/README.md",
        "quals_fast/models/assets/qagen-mini/SHA256SUMS",
        "quals_fast/models/assets/qagen-mini/config.json",
        "quals_fast/models/assets/qagen-mini/model.safetensors",
        "quals_fast/models/assets/qagen-mini/tokenizer.json",
    ):
        assert name in names, name


def test_the_bundled_model_is_at_most_30_mib():
    folder = ROOT / "quals_fast" / "models" / "assets" / "qagen-mini"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 30 * 2**20


def test_transformers_imports_from_the_root_of_the_checkout():
    code = "import transformers; transformers.BartForConditionalGeneration; print('fine')"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "fine", found.stderr
