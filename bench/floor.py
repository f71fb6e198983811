r"""How fast could this machine do the work? Counts FLOPs and bytes, and measures rates.

    python -m bench.floor --model qagen-mini --workload short --rows 4

Counts the least work that gives the scores, whatever a program does: each text is encoded once, and
its cross-attention keys and values are projected once and shared by all beams and pairs. With width
d, width a of all heads (d in a BART), m feed-forward matrices (3 in a gated T5, else 2) of width f,
L layers, vocabulary V, source length S and 2 FLOPs a multiply-add:

    encoder              L * S * (8 d a + 2 m d f + 4 S a)      projections, feed-forward, attention
    cross keys, values   L * S * 4 d a                          for every decoder layer
    decoder, one token   L * (12 d a + 2 m d f + 4 t a + 4 S a)    at position t
    LM head, one token   2 d V

The search decodes `num_beams` tokens at each step (one at the first), and rescoring every token of
the kept pairs. Bytes are the weights, once per decoding step for all summaries together and once
for every other stage, and the keys and values that attention reads. A stage takes at least FLOPs /
matmul rate or bytes / copy rate, whichever is longer; the floor is the sum over stages. Softmax,
top-k, selection, tokenisation and everything else are not counted.

Each stage is held against the rate of the numbers that it computes in. `mixed` and int8 search in
float32, and take the LM head, the documents and rescoring in 8-bit integers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import Pair, is_gpu, synchronize, texts_of
from bench.shared.options import command_line
from bench.shared.timing import seconds_of
from bench.shared.workloads import WORKLOADS, load_workload
from quals_fast.models.integers import Int8Linear, has_fast_int8
from quals_fast.models.linear import OneDnnLinear, onednn_pays

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
PARTLY_INTEGERS = ("mixed", "int8")  # as an engine names them


class Work(NamedTuple):
    """What one summary asks for, in tokens; special tokens included."""

    summary: int
    document: int
    steps: int  # of the search
    pairs: tuple[int, ...]  # lengths of the kept pairs


class Stage(NamedTuple):
    """FLOPs and bytes of a part of the work."""

    flops: float
    bytes: float


class Sizes(NamedTuple):
    """Sizes of a network; letters as in the module's text."""

    d: int
    a: int
    v: int
    m: int
    encoder_layers: int
    decoder_layers: int
    encoder_f: int
    decoder_f: int


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Return the sizes that a BART's or T5's ``config.json`` says."""
    d, v = config["d_model"], config["vocab_size"]
    if config.get("model_type") == "t5":
        layers = config["num_layers"], config.get("num_decoder_layers") or config["num_layers"]
        matrices = 3 if config.get("feed_forward_proj", "relu").startswith("gated") else 2
        heads = config["num_heads"] * config["d_kv"]
        return Sizes(d, heads, v, matrices, *layers, config["d_ff"], config["d_ff"])
    layers = config["encoder_layers"], config["decoder_layers"]
    return Sizes(d, d, v, 2, *layers, config["encoder_ffn_dim"], config["decoder_ffn_dim"])


def count(config: dict[str, Any], works: Sequence[Work], beams: int, size: int) -> dict[str, Stage]:
    """Count each stage of the work.

    Args:
        config: the checkpoint's ``config.json``.
        works: one a summary.
        beams: slots of the search.
        size: bytes of a number.
    """
    d, a, v, m, enc, dec, f_enc, f_dec = sizes_of(config)
    encoder_weights = enc * (4 * d * a + m * d * f_enc) + dec * 2 * d * a
    decoder_weights = dec * (6 * d * a + m * d * f_dec)

    def encode(s: int) -> float:
        return enc * s * (8 * d * a + 2 * m * d * f_enc + 4 * s * a) + dec * s * 4 * d * a

    def decode(t: int, s: int) -> float:
        return dec * (12 * d * a + 2 * m * d * f_dec + 4 * t * a + 4 * s * a)

    slots = [(t, w, beams if t else 1) for w in works for t in range(w.steps)]
    tokens = sum(n for *_, n in slots)
    steps = max((w.steps for w in works), default=0)
    rescored = [(t, w.document) for w in works for length in w.pairs for t in range(length)]
    documents = sum(w.document for w in works if w.pairs)
    return {
        "encode": Stage(
            sum(encode(w.summary) + encode(w.document) for w in works), encoder_weights * size
        ),
        "decode": Stage(
            sum(n * decode(t + 1, w.summary) for t, w, n in slots),
            size
            * (
                steps * decoder_weights
                + sum(2 * a * dec * (n * (t + 1) + w.summary) for t, w, n in slots)
            ),
        ),
        "lm_head": Stage(tokens * 2.0 * d * v, steps * d * v * size),
        "rescore": Stage(
            sum(decode(t + 1, s) + 2 * d * v for t, s in rescored),
            size * (decoder_weights + d * v + 2 * a * dec * documents),
        ),
    }


def counts_by_numbers(
    config: dict[str, Any], works: Sequence[Work], beams: int, dtype: str
) -> dict[str, dict[str, Stage]]:
    """Count each stage of the work, under the numbers that it computes in.

    Args:
        config: the checkpoint's ``config.json``.
        works: one a summary.
        beams: slots of the search.
        dtype: as an engine names it.
    """
    if dtype not in PARTLY_INTEGERS:
        return {dtype: count(config, works, beams, BYTES[dtype])}
    of_search = [work._replace(document=0, pairs=()) for work in works]
    of_rescoring = [work._replace(summary=0, steps=0) for work in works]
    search = count(config, of_search, beams, BYTES["float32"])
    rescoring = count(config, of_rescoring, beams, BYTES["int8"])
    head = count(config, of_search, beams, BYTES["int8"])["lm_head"]
    return {
        "float32": {name: search[name] for name in ("encode", "decode")},
        "int8": {"lm_head": head, **{name: rescoring[name] for name in ("encode", "rescore")}},
    }


def rates(device: str, dtypes: Iterable[str]) -> dict[str, float]:
    """Measure the machine: FLOP/s of a large matmul by numbers, and bytes/s of a copy.

    Args:
        device: by torch's name of it.
        dtypes: as an engine names them. Where 8-bit integers are not fast, they get no rate.
    """
    dtypes = set(dtypes)
    per_second = {}
    if not dtypes.isdisjoint(PARTLY_INTEGERS):
        dtypes = dtypes.difference(PARTLY_INTEGERS) | {"float32"}
        if has_fast_int8():
            n = 2048
            layer, rows = Int8Linear(torch.randn(4 * n, n)), torch.randn(n, n)
            per_second["int8"] = 2 * 4 * n**3 / best_seconds(layer, rows)
    for name in sorted(dtypes):
        # Few CPUs have float16 instructions; without them 2,048 columns take a minute.
        n = 8192 if is_gpu(device) else 256 if name == "float16" else 2048
        a = torch.randn(n, n, device=device).to(getattr(torch, name))
        by_onednn = not is_gpu(device) and name == "float32" and onednn_pays()
        product = OneDnnLinear(a) if by_onednn else a.matmul  # the faster one
        per_second[name] = 2 * n**3 / best_seconds(product, a)
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    per_second["copy"] = 2 * source.nbytes / best_seconds(target.copy_, source)
    return per_second


def floor_seconds(
    counts: Mapping[str, Mapping[str, Stage]], measured: Mapping[str, float]
) -> float:
    """Return the least time for the stages, one after the other.

    Args:
        counts: of `counts_by_numbers`.
        measured: of `rates`; integers without a rate are held against float32's.
    """
    return sum(
        max(
            stage.flops / (measured.get(numbers) or measured["float32"]),
            stage.bytes / measured["copy"],
        )
        for numbers, stages in counts.items()
        for stage in stages.values()
    )


def achieved(
    folder: Path,
    works: Sequence[Work],
    seconds: float,
    dtype: str,
    measured: dict[str, float],
    beams: int = 60,
) -> dict[str, Any]:
    """Report what share of the floor a program reached that took so many seconds."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    counts = counts_by_numbers(config, works, beams, dtype)
    least = floor_seconds(counts, measured)
    return {
        "share": least / seconds,
        "floor_seconds": least,
        "seconds": seconds,
        "gflop": _billions(counts, "flops"),
        "gbyte": _billions(counts, "bytes"),
        "rates_per_s": measured,
    }


def _billions(counts: Mapping[str, Mapping[str, Stage]], what: str) -> dict[str, float]:
    """Return the billions of FLOPs or bytes of each stage, whatever the numbers."""
    sums: dict[str, float] = {}
    for stages in counts.values():
        for name, stage in stages.items():
            sums[name] = sums.get(name, 0.0) + getattr(stage, what) / 1e9
    return sums


def works_of(arm: EngineArm, pairs: Sequence[Pair]) -> list[Work]:
    """Count the tokens of the rows just scored; the search runs once more to tell its steps."""
    encode = arm.scorer.engine.model.tokenizer.encode
    summaries = [len(source.input_ids) for source in encode([p.summary for p in pairs])]
    documents = [len(source.input_ids) for source in encode([p.document for p in pairs])]
    searched = arm.scorer.generate([p.summary for p in pairs])
    steps = [max(len(h.token_ids) for h in hypotheses) for hypotheses in searched]
    lengths = [tuple(map(len, one)) for one in arm.kept]
    return list(map(Work, summaries, documents, steps, lengths))


def best_seconds(run: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """Return the seconds of the fastest of some calls, on a GPU until they have ended."""

    def run_to_its_end() -> None:
        run(*arguments)
        synchronize()

    return min([seconds_of(run_to_its_end) for _ in range(repeats + 1)][1:])  # the first warms up


def main() -> None:
    """Time the engine on a workload and hold it against the floor."""
    parser = command_line(
        __doc__, data=None, device="cpu", dtype="float32", model="qagen-mini", rows=16
    )
    parser.add_argument(
        "--workload",
        choices=sorted(WORKLOADS),
        default="long",
        help="see python -m bench.workloads",
    )
    arguments = parser.parse_args()
    pairs = load_workload(arguments.workload, arguments.data, arguments.rows)
    texts = texts_of(pairs)
    folder = folder_of(arguments.model)
    arm = EngineArm(folder, arguments.dtype, device=arguments.device)
    for _ in range(2 if is_gpu(arguments.device) else 1):  # graphs are captured the second time
        arm.score(*texts)  # warms up, and says which pairs are kept
    works = works_of(arm, pairs)
    seconds = seconds_of(arm.score, *texts)
    dtype = arm.runs_as("dtype") or "float32"
    measured = rates(arguments.device, [dtype])
    print(json.dumps(achieved(folder, works, seconds, dtype, measured), indent=1))


if __name__ == "__main__":
    main()
