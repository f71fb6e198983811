"""What is run on a GPU: a table of stages, each with its limit, its commands and its figure.

The limits of a run stay under 9 minutes, since a borrowed machine may end a command after 10.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bench.shared.common import ROOT, result_name
from bench.shared.options import TINY

ANSWERS = Path(__file__).with_name("answers.json")  # of the examples, found where spaCy is
OPS = (
    "group_select",
    "beam_attention",
    "source_attention",
    "add_layer_norm",
    "move_slots",
    "store_finished",
    "span_match",
    "linear_gelu",
    "linear_logprob",
    "lm_head_topk",
)

Result: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the commands depend on.

    Attributes:
        device: by torch's name of it.
        data: JSON lines of documents and summaries; None takes the examples.
        candidates: QAGS's answer candidates for the summaries; None lets spaCy find them.
        compiles: whether torch.compile is one of the operations' arms.
        is_dry: a tiny model and a few rows, on a CPU.
    """

    device: str
    data: Path | None = None
    candidates: Path | None = None
    compiles: bool = False
    is_dry: bool = False

    @property
    def large(self) -> str:
        """The model that most stages measure."""
        return TINY if self.is_dry else "bart-large"

    @property
    def small(self) -> str:
        """The model where size does not matter."""
        return TINY if self.is_dry else "qagen-mini"

    @property
    def fast(self) -> str:
        """The type that is compared with float32; a CPU does not take float16."""
        return "auto" if self.is_dry else "float16"

    def pick(self, full: str, dry: str) -> str:
        """Return options for a GPU or for the dry run."""
        return dry if self.is_dry else full

    @property
    def on_data(self) -> str:
        """Options that most commands share: where to run, and on which texts."""
        given = f" --data {shlex.quote(str(self.data))}" if self.data else ""
        return f"--device {self.device}{given}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the run.

    Attributes:
        limit_s: seconds after which it is stopped.
        purpose: one line for `--help`.
        commands: modules with their options, as after ``python3 -m``.
        result: name of what it writes; None where the log tells all.
        headline: the figure for the last table, of that result.
        needs_large: waits for the large model, which is grown first.
        is_alone: takes most of a run, so it is left out where no stage is named.
    """

    limit_s: float
    purpose: str
    commands: Callable[[Setup], Sequence[str]]
    result: str | None = None
    headline: Callable[[Result], str] = lambda result: ""
    needs_large: bool = True
    is_alone: bool = False

    def result_file(self, results: Path, device: str) -> Path | None:
        """Return where its result is written."""
        if self.result is None:
            return None
        stem, _, suffix = self.result.partition(".")
        return results / f"{result_name(stem, device)}.{suffix or 'json'}"

    def figure(self, results: Path, device: str) -> str:
        """Return the headline figure; nothing where the stage did not get that far."""
        path = self.result_file(results, device)
        if path is None or not path.is_file():
            return ""
        text = path.read_text("utf-8")
        try:
            return self.headline(json.loads(text) if path.suffix == ".json" else {"lines": text})
        except (LookupError, TypeError, ValueError) as error:  # the other stages go on
            return f"{path.name} has no figure: {error!r}"


def _tests(s: Setup) -> list[str]:
    # Only files with GPU tests: others import packages that such a machine may lack.
    files = [
        shlex.quote(str(path.relative_to(ROOT)))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text("utf-8")
    ]
    chosen = s.pick(" ".join(files), "tests/ops/test_span_match.py")
    return [
        f"pytest -v --tb=short -m gpu -p no:cacheprovider {s.pick('-n 4', '')} {chosen}",
        f"bench.gpu.attention {s.on_data} --model {s.small} --rows {s.pick('4', '1')}",
    ]


def _ops(s: Setup) -> list[str]:
    options = s.pick("", " --tiny") + ("" if s.compiles else " --no-compile")
    return [f"bench.ops.bench_{op}{options}" for op in OPS]


def _claim(s: Setup) -> list[str]:
    candidates = f" --candidates {shlex.quote(str(s.candidates))}" if s.candidates else ""
    # Rounds begin as long as they would end within the stage's limit, the start-up included.
    size = s.pick(
        "--rows 8 --rounds 5 --limit 370 --workloads long",
        "--rows 1 --rounds 1 --workloads short --without qags_as_shipped_onednn qags_batched_half "
        "quals_published_half quals_published_onednn quals_once quals_once_onednn",
    )
    return [f"bench.claim {s.on_data} --models {s.large} {size}{candidates}"]


def _share(floor: Result) -> str:
    return f"{floor['share']:.0%} of the floor"


def _of_latency(result: Result) -> str:
    ms, share = result["one_pair_ms"], result["share_of_floor"]["median"]
    return f"one pair p50 {ms['p50']:.1f} ms, p95 {ms['p95']:.1f} ms, {share:.0%} of the floor"


def _of_throughput(result: Result) -> str:
    return "; ".join(
        f"{rows} rows: {one['pairs_per_s']['median']:.1f} pairs/s, {_share(one['floor'])}"
        for rows, one in result["batches"].items()
    )


def _of_launches(result: Result) -> str:
    counts = ", ".join(f"B={size}: {n}" for size, n in result["kernels_per_step"].items())
    return f"kernels a step {counts}"


def _of_settings(result: Result) -> str:
    ratios = {
        f"{name} ({what})": case[what]["speedup_vs_default"]
        for name, case in result["settings"].items()
        for what in ("pair", "batch")
        if what in case
    }
    best = max(ratios, key=lambda name: ratios[name]["median"])
    of = ratios[best]
    return (
        f"best of {len(ratios)}: {best}, {of['median']:.2f} times the default's speed "
        f"({of['low']:.2f} to {of['high']:.2f}, n = {of['n']})"
    )


def _of_end_to_end(result: Result) -> str:
    return "; ".join(
        f"{model}, {workload}: {ratio['median']:.1f} times the reference's speed"
        for model, workloads in result["speedup_vs_reference"].items()
        for workload, ratio in workloads.items()
    )


def _of_parity(result: Result) -> str:
    same = f"{result['identical_sequences']:.0%} of {result['rows']} rows identical"
    half = result.get("float16_vs_float32")
    return same + (f", float16 Spearman {half['spearman']:.3f}" if half else "")


def _of_training(result: Result) -> str:
    (shares,) = result["share_of_step"].values()
    return "; ".join(
        f"{arm}: {share['median']:.0%} of a step" for arm, share in shares["short"].items()
    )


def _of_claim(result: Result) -> str:
    return "; ".join(
        f"{size}, {workload}: {ratio['median']:.1f} times QAGS as shipped"
        for size, workloads in result["speedup_vs_qags_as_shipped"].items()
        for workload, ratio in workloads.items()
    )


# Grown in the background while the first stages run; its limit is theirs together.
GROW = Stage(
    limit_s=120,
    purpose="grow the bundled model to BART-large",
    commands=lambda s: [f"bench.grow --shape {s.large} --rows 0"],
    needs_large=False,
)

STAGES = {
    "tests": Stage(
        limit_s=80,
        purpose="run the tests marked gpu; score pairs with and without cuDNN's attention",
        commands=_tests,
        result="attention",
        headline=lambda r: (
            f"first pair with cuDNN's attention {r['first_ratio']:.1f} times as long"
        ),
        needs_large=False,
    ),
    "ops": Stage(
        limit_s=75,
        purpose="time each kernel against eager code (and torch.compile, with --compile)",
        commands=_ops,
        result="ops.csv",
        headline=lambda r: f"{len(r['lines'].splitlines()) - 1} timings",
        needs_large=False,
    ),
    "pair": Stage(
        limit_s=35,
        purpose="time one pair: median and 95th percentile",
        commands=lambda s: [
            f"bench.gpu.pair {s.on_data} --model {s.large} {s.pick('', '--rows 2 --rounds 1')}"
        ],
        result="latency",
        headline=_of_latency,
    ),
    "throughput": Stage(
        limit_s=45,
        purpose="time 64 and 256 rows at once, with the share of the floor",
        commands=lambda s: [
            f"bench.throughput {s.on_data} --model {s.large} "
            f"--rounds {s.pick('3 --rows 64 256', '1 --rows 2 3')}"
        ],
        result="throughput",
        headline=_of_throughput,
    ),
    "profile": Stage(
        limit_s=30,
        purpose="count kernels, and compare with the profiler",
        commands=lambda s: [
            f"bench.launches {s.on_data} --model {s.large} {s.pick('', '--batches 1 2')}"
        ],
        result="launches",
        headline=_of_launches,
    ),
    "end_to_end": Stage(
        limit_s=75,
        purpose="time texts to scores against the published pipeline, float32 and float16",
        commands=lambda s: [
            f"bench.end_to_end {s.on_data} --models {s.large} --dtypes float32 {s.fast} "
            "--no-ctranslate2 --workloads "
            + s.pick(
                "long --rows 5 --rounds 3 --agreement-rows 40 --limit 50",
                "short --rows 2 --rounds 1 --agreement-rows 2 --limit 20",
            )
        ],
        result="end_to_end",
        headline=_of_end_to_end,
    ),
    "parity": Stage(
        limit_s=35,
        purpose="compare float32 with the reference, and float16 with float32 on 50 rows",
        commands=lambda s: [
            f"bench.parity {s.on_data} --rules fairseq09 --model {s.small} --dtype {s.fast} "
            + s.pick("--rows 8", "--rows 2 --dtype-rows 6")
        ],
        result="parity_fairseq09",
        headline=_of_parity,
        needs_large=False,
    ),
    "training": Stage(
        limit_s=55,
        purpose="measure scoring's share of a training step, both models on one card",
        commands=lambda s: [
            f"bench.training_cost {s.on_data} --policy {s.large} --scorer {s.small} --summaries 0 "
            + s.pick("--rounds 3", "--documents 1 --completions 2 --rounds 1")
        ],
        result="training_cost",
        headline=_of_training,
    ),
    # It has what the others leave of their time.
    "settings": Stage(
        limit_s=80,
        purpose="compare engine settings with their defaults, in turn",
        commands=lambda s: [
            f"bench.gpu.settings {s.on_data} --model {s.large} "
            + s.pick("--rounds 3", "--rows 2 --large-rows 3 --singles 1 --rounds 1")
        ],
        result="settings",
        headline=_of_settings,
    ),
    "claim": Stage(
        limit_s=400,
        purpose="compare QAGS, published QUALS and the engine; needs a run of its own",
        commands=_claim,
        result="claim",
        headline=_of_claim,
        is_alone=True,
    ),
}
