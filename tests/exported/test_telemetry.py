"""Nothing phones home: neither a device's id in the home directory nor a connection."""

import os
import shutil
import subprocess
import sys

import pytest
from exported_folders import TEXT

from quals_fast.exported import session

SCORE = f"""
import sys
from quals_fast import DecodingConfig, QualsScorer
decoding = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)
scorer = QualsScorer.from_pretrained(sys.argv[1], decoding=decoding)
print(scorer.score([{TEXT!r}], ["anne opened the tower"])[0].status)
"""
EXPORT = """
import sys
from quals_fast.export.exporter import export
export(sys.argv[2], sys.argv[1] + "-again", texts=[("queen anne won", "anne won")])
print("ok")
"""
TRAIN = """
from quals_fast import training
[getattr(training, name) for name in training.__all__]
import quals_fast.training.qagen.pipeline
print("ok")
"""

# By these ONNX Runtime knows a build server, where it has no telemetry.
SERVERS = {
    "CI", "BUILD_ID", "CODEBUILD_BUILD_ID", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL",
    "TEAMCITY_VERSION", "TF_BUILD", "TRAVIS",
}  # fmt: skip


@pytest.fixture
def folder(exported):
    return exported["float32"][0]


def run(code, folder, model, home, *before, **environment):
    home.mkdir()
    dropped = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"} | SERVERS
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    done = subprocess.run(
        [*before, sys.executable, "-c", code, str(folder), str(model)],
        env=kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"} | environment,
        cwd=home, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stderr
    return {str(path.relative_to(home)) for path in home.rglob("*onnxruntime*")}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(SCORE, id="score"),
        pytest.param(EXPORT, id="export", marks=pytest.mark.slow),
        pytest.param(TRAIN, id="train", marks=pytest.mark.slow),
    ],
)
def test_a_fresh_home_stays_empty(folder, one_layer_model, tmp_path, code):
    assert run(code, folder, one_layer_model, tmp_path / "home") == set()


def test_what_the_user_asked_for_stays(folder, one_layer_model, tmp_path):
    found = run(SCORE, folder, one_layer_model, tmp_path / "home", ORT_DISABLE_TELEMETRY="0")
    assert found  # so the tests above would see it


def test_the_variable_is_set_for_the_import_only(monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    session.runtime.cache_clear()
    session.runtime()
    assert "ORT_DISABLE_TELEMETRY" not in os.environ


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_connection_is_tried(folder, one_layer_model, tmp_path):
    log = tmp_path / "calls"
    strace = ["strace", "-f", "-o", str(log), "-e", "trace=connect,sendto,sendmsg"]
    wait = SCORE.replace("print(", "import time; time.sleep(15); print(", 1)  # events come late
    assert run(wait, folder, one_layer_model, tmp_path / "home", *strace) == set()
    assert not [line for line in log.read_text().splitlines() if "AF_INET" in line]
