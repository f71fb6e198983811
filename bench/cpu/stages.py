"""What is measured on a CPU: a table of stages, each with its time, commands and results.

Times were measured on two idle cores; without the extra stages, 2½ hours. The first
stages matter most, since a run may end before the last ones. A command's --limit leaves room for
three rounds, since fewer are not quoted: it is the runner that stops what takes too long.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the run.

    Attributes:
        minutes: that it takes; after twice as many it is stopped.
        purpose: one line for the plan.
        commands: modules with their options, as after ``python3 -m``; `Inputs` fills them in.
        results: what they write into bench/results.
        goes_on: its command takes up what it has left, so that stays when it is stopped.
        is_at_once: its commands run at the same time, with one thread each; they time nothing.
        is_extra: only runs where it is named.
    """

    minutes: float
    purpose: str
    commands: tuple[str, ...]
    results: tuple[str, ...]
    goes_on: bool = False
    is_at_once: bool = False
    is_extra: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the commands read.

    Attributes:
        shared: folder with ``data``, ``models`` and ``golden``.
        data: JSON lines of documents and summaries; None takes those of `shared`.
        choices: models that training tried, as NAME=FOLDER.
    """

    shared: Path
    data: Path | None = None
    choices: tuple[str, ...] = ()

    @property
    def texts(self) -> Path:
        """The documents and summaries that are scored."""
        return self.data or self.shared / "data" / "docsum_pairs.jsonl.gz"

    def commands(self, stage: Stage) -> list[str]:
        """Return a stage's commands with these files."""
        names = {
            "texts": shlex.quote(str(self.texts)),
            "shared": shlex.quote(str(self.shared)),
            "choices": shlex.join(self.choices),
        }
        return [command.format(**names) for command in stage.commands]

    def missing(self, stage: Stage) -> list[str]:
        """Return what a stage needs and is not there."""
        words = [word for command in self.commands(stage) for word in shlex.split(command)]
        read = [word for word in words if word == str(self.texts) or _is_in(word, self.shared)]
        wanted = [] if self.choices or "choices" not in stage.results else ["--choices"]
        return [word for word in dict.fromkeys(read) if not Path(word).exists()] + wanted


def _is_in(word: str, folder: Path) -> bool:
    return Path(word).is_relative_to(folder)


STAGES: Mapping[str, Stage] = {
    "parity": Stage(
        minutes=20,
        purpose="engine against reference, 300 summaries a rule",
        commands=(
            "bench.parity --data {texts} --rows 300 --rules fairseq09",
            "bench.parity --data {texts} --rows 300 --rules hamming",
        ),
        results=("parity_fairseq09", "parity_hamming"),
        is_at_once=True,
    ),
    "precision": Stage(
        minutes=1.5,
        purpose="number types: agreement and speed",
        commands=("bench.precision --data {texts} --rows 60 --rounds 3",),
        results=("precision",),
    ),
    "end_to_end": Stage(
        minutes=8.5,
        purpose="bundled model against the published pipeline and CTranslate2",
        commands=("bench.end_to_end --quick --models qagen-mini --limit 1200 --data {texts}",),
        results=("end_to_end",),
    ),
    "bart_base": Stage(
        minutes=12,
        purpose="the same at the size of BART-base",
        commands=("bench.end_to_end --quick --models bart-base --limit 1800 --data {texts}",),
        results=("end_to_end",),
    ),
    "claim": Stage(
        minutes=33,
        purpose="QAGS and published QUALS against the engine",
        commands=("bench.claim --rounds 3 --limit 3600 --data {texts}",),
        results=("claim",),
        goes_on=True,
    ),
    "training_cost": Stage(
        minutes=9.5,
        purpose="scoring's share of a training step and an evaluation",
        commands=(
            "bench.training_cost --data {texts} --documents 4 --completions 4 --summaries 4 "
            "--rounds 3",
        ),
        results=("training_cost",),
    ),
    "onnx": Stage(
        minutes=4.5,
        purpose="exported graphs against torch",
        commands=("bench.onnx --quick --agreement-rows 20 --data {texts}",),
        results=("onnx",),
    ),
    "latency": Stage(
        minutes=4.5,
        purpose="one pair alone with each engine",
        commands=("bench.latency --data {texts} --rows 100 --limit 200",),
        results=("latency",),
    ),
    "profile": Stage(
        minutes=1.5,
        purpose="where the time goes, part by part",
        commands=("bench.profile --data {texts}",),
        results=("profile",),
    ),
    "ablation": Stage(
        minutes=4,
        purpose="what each optimisation brings",
        commands=("bench.ablation --data {texts} --rows 8 --rounds 3",),
        results=("ablation",),
    ),
    "scaling": Stage(
        minutes=8,
        purpose="time by length, beams and rows",
        commands=("bench.scaling --data {texts} --row-beams 10 --row-rounds 3 --batch 10",),
        results=("scaling",),
    ),
    "serve": Stage(
        minutes=10.5,
        purpose="the service: throughput, latency, start-up",
        commands=("bench.serve --data {texts} --requests 8 --limit 900",),
        results=("serve",),
    ),
    "cross_encoder": Stage(
        minutes=5,
        purpose="what a user would pick instead: a cross-encoder's time and memory",
        commands=("bench.cross_encoder --data {texts} --rows 4 --rounds 3 --limit 600",),
        results=("cross_encoder",),
    ),
    "two_jobs": Stage(
        minutes=9.5,
        purpose="two jobs on one machine",
        commands=("bench.two_jobs --data {texts} --seconds 3 --limit 900",),
        results=("two_jobs",),
    ),
    "golden": Stage(
        minutes=3.5,
        purpose="engine and reference against recordings of the original programs",
        commands=(
            "bench.golden --model {shared}/models/qagen-mini-v0 "
            "{shared}/golden/model_v0_fairseq09.json.gz {shared}/golden/model_v0_hamming.json.gz",
        ),
        results=("golden",),
    ),
    "memory": Stage(
        minutes=3.5,
        purpose="peak memory by rows",
        commands=("bench.memory --rows 50 150 --file-rows 10000 300000",),
        results=("memory",),
    ),
    "serve_memory": Stage(
        minutes=5,
        purpose="the service's memory over 5,000 requests",
        commands=("bench.serve_memory --data {texts} --requests 5000",),
        results=("serve_memory",),
    ),
    "examples": Stage(
        minutes=1,
        purpose="faithful against altered examples; spans",
        commands=("bench.examples", "bench.spans"),
        results=("examples", "spans"),
    ),
    "qags_models": Stage(
        minutes=3,
        purpose="the networks of the reference QAGS, on SQuAD dev",
        commands=(
            "bench.qags_training evaluate --data {shared}/data --questions 2500 --round-trips 100",
        ),
        results=("qags_models",),
    ),
    "t5_base": Stage(
        minutes=18,
        purpose="end to end at the size of T5-base",
        commands=("bench.end_to_end --quick --models t5-base --limit 2400 --data {texts}",),
        results=("end_to_end",),
        is_extra=True,
    ),
    "t5_parity": Stage(
        minutes=20,
        purpose="T5-small against the reference, 100 summaries a rule",
        commands=(
            "bench.parity --data {texts} --rows 100 --model t5-small --rules fairseq09",
            "bench.parity --data {texts} --rows 100 --model t5-small --rules hamming",
        ),
        results=("parity_t5_fairseq09", "parity_t5_hamming"),
        is_at_once=True,
        is_extra=True,
    ),
    "claim_agreement": Stage(
        minutes=30,
        purpose="QUALS and QAGS against human judgements",
        commands=(
            "bench.claim.agreement --labels {shared}/data/factcons_qags_cnndm.jsonl.gz "
            "{shared}/data/factcons_qags_xsum.jsonl.gz",
            "bench.claim --page",
        ),
        results=("claim_agreement",),
        is_extra=True,
    ),
    "onnx_exports": Stage(
        minutes=15,
        purpose="exports at the sizes of BART-base and BART-large",
        commands=("bench.onnx_exports",),
        results=("onnx_exports",),
        is_extra=True,
    ),
    "install": Stage(
        minutes=6,
        purpose="size of installations and of the container; needs a package index",
        commands=("bench.install_size", "bench.container"),
        results=("install_size", "container"),
        is_extra=True,
    ),
    "ray": Stage(
        minutes=10,
        purpose="what Ray costs on one machine",
        commands=("bench.scale --data {texts}",),
        results=("scale",),
        is_extra=True,
    ),
    "choices": Stage(
        minutes=55,
        purpose="models that training tried (--choices NAME=FOLDER ...)",
        commands=(
            "bench.choices --questions 600 --dev {shared}/data/qa_dev.jsonl.gz "
            "--labels {shared}/data/factcons_qags_cnndm.jsonl.gz "
            "{shared}/data/factcons_qags_xsum.jsonl.gz --pairs {texts} --models {choices}",
        ),
        results=("choices",),
        is_extra=True,
    ),
}
