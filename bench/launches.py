"""How many kernels does the GPU path launch? Counted without a GPU, operation by operation.

    python -m bench.launches                                    BART-large, 1, 8 and 32 pairs
    python -m bench.launches --device cuda --model bart-large   the profiler's own count beside it

The pass of a GPU runs on tensors without data (PyTorch's ``meta`` device), and whatever reaches the
dispatcher is looked up: views and allocations launch nothing, composite operations are taken apart,
a Triton launcher counts each kernel that it launches, all others one kernel unless `KERNELS` knows
better. Copies and fills on the device count as kernels. What is not known beforehand: cuBLAS may
split a product along its inner dimension and add a kernel that sums the parts, or set a counter to
zero before a product. It adds at most one a product, so products are counted apart.

With ``--device cuda`` a pass of each size is profiled. What cuBLAS adds stands apart there. If the
profiler counts 5 % more or fewer of all others, the counter is wrong: the command says so and ends
with exit code 1.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple
from unittest import mock

import torch
from quals_fast_kernels import (
    _launch,
    add_layer_norm,
    beam_attention,
    group_select,
    linear_logprob,
    lm_head_topk,
    move_slots,
    source_attention,
    span_match,
    store_finished,
)
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.recipes.grow import folder_of
from bench.shared.common import finish, texts_of
from bench.shared.options import command_line
from bench.shared.workloads import load_workload
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.decoding import graph
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.rules import SearchState
from quals_fast.engine import fused, generation
from quals_fast.engine.graphs import Captured
from quals_fast.models.bart import Bart
from quals_fast.models.checkpoint import Settings
from quals_fast.models.lm_head import LMHead
from quals_fast.models.loading import QAGenerator
from quals_fast.models.memory import SourceMemory
from quals_fast.models.precision import PRECISIONS
from quals_fast.models.shape import BartShape
from quals_fast.models.tokenizer import QATokenizer, Source
from quals_fast.ops import TRITON

BATCHES = (1, 8, 32)
SUMMARY, DOCUMENT, PAIRS, LONGEST = 70, 800, 12, 20  # tokens and pairs of a usual `long` row
GAP = 0.05  # between the profiler's count and ours
# In the names of what cuBLAS adds: sums of split products, and counters that it sets to zero.
ADDED_BY_CUBLAS = ("splitkreduce", "memset")
OP_MODULES = (
    add_layer_norm,
    beam_attention,
    group_select,
    linear_logprob,
    lm_head_topk,
    move_slots,
    source_attention,
    span_match,
    store_finished,
)

BART_LARGE = BartShape(
    vocab_size=50_265,
    d_model=1024,
    encoder_layers=12,
    decoder_layers=12,
    encoder_attention_heads=16,
    decoder_attention_heads=16,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    max_position_embeddings=1024,
)
BART_LARGE_SETTINGS = Settings(
    vocab_size=50_265,
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=1,
    sep_token_id=50_259,
    decoder_start_token_id=2,
    forced_bos_token_id=None,
    masked_token_ids=(),
    max_source_tokens=1024,
    answer_match=None,
)


def _of_attention(arguments: Sequence[Any], named: dict[str, Any]) -> int:
    """Count one kernel, and three that turn a mask of bools into numbers: 2 fills and a choice."""
    mask = named.get("attn_mask", arguments[3] if len(arguments) > 3 else None)
    return 4 if mask is not None and mask.dtype == torch.bool else 1


# Kernels of operations that are not composite and launch another number than one.
KERNELS: dict[str, int | Callable[[Sequence[Any], dict[str, Any]], int]] = {
    **dict.fromkeys(("empty", "new_empty", "empty_like", "empty_strided", "lift_fresh"), 0),
    **dict.fromkeys(("_unsafe_view", "_reshape_alias", "new_empty_strided", "detach_"), 0),
    "linear": 1,  # the bias is added by the product's own kernel
    "scaled_dot_product_attention": _of_attention,
    "layer_norm": 1,
    "sort": 4,  # values copied, places numbered, copied to each row, all sorted
    "constant_pad_nd": 2,  # a fill and a copy
    "masked_fill": 2,  # a copy and a fill
}
PRODUCTS = ("linear", "mm", "addmm", "bmm", "baddbmm")


class Launches(TorchDispatchMode):
    """Counts kernels by the part of the pass that is running.

    Attributes:
        kernels: of each part, by operation.
        copies_in: copies from the host to the device.
        part: the one that is running.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: dict[str, Counter[str]] = {}
        self.copies_in = 0
        self.part = "other"

    def add(self, name: str, number: int = 1) -> None:
        """Count kernels of an operation."""
        if number:
            self.kernels.setdefault(self.part, Counter())[name] += number

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name == "_to_copy" and args[0].device.type == "cpu":
            self.copies_in += kwargs.get("device", args[0].device).type != "cpu"
        elif name in KERNELS:
            number = KERNELS[name]
            self.add(name, number if isinstance(number, int) else number(args, kwargs))
            if name == "scaled_dot_product_attention":  # a GPU's puts heads behind positions
                return torch.empty_like(args[0].transpose(1, 2)).transpose(1, 2)
        else:
            with self:  # takes a composite operation apart
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self.add(name, 0 if function.is_view else 1)
        return function(*args, **kwargs)

    @contextmanager
    def in_part(self, name: str) -> Iterator[None]:
        """Count under the name of a part meanwhile."""
        before, self.part = self.part, name
        try:
            yield
        finally:
            self.part = before

    def total(self, part: str) -> int:
        """Return the kernels of a part."""
        return sum(self.kernels.get(part, Counter()).values())


class Count(NamedTuple):
    """What a pass over B pairs launches.

    Attributes:
        step: kernels of each decoding step, by its number.
        early: kernels of a step before any hypothesis may end.
        usual: kernels of a step after that.
        products: matrix products among those of such a step.
        stop: kernels that tell whether all have finished, and with graphs those that sort what was
            found: once a graph, without graphs once a step.
        outside: kernels outside of the steps, by part; what was found is sorted once.
        launched: what the host launches outside of the search: all kernels, or with graphs their
            replays and the copies to them; and copies from the host.
        copies_in: copies from the host.
        blocking_reads: times that the host waits for all that was launched.
        graph_bytes: that graphs of this shape hold; 0 where it gets none.
    """

    step: dict[int, int]
    early: int
    usual: int
    products: int
    stop: int
    outside: dict[str, int]
    launched: int
    copies_in: int
    blocking_reads: int
    graph_bytes: int

    def total(self, steps: int) -> int:
        """Return the kernels of a pass that takes so many steps."""
        each = graph.STEPS if self.graph_bytes else 1
        stops = -(-steps // each)
        return sum(self.step[t] for t in range(steps)) + stops * self.stop + self.of_outside

    @property
    def of_outside(self) -> int:
        """Kernels outside of the steps."""
        return sum(self.outside.values())


def byte_level_tokenizer(settings: Settings) -> QATokenizer:
    """Return a byte-level tokenizer without merges, which stands for BART's own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: 3 + place for place, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return QATokenizer(tokenizer, settings)


def without_data(
    shape: BartShape, settings: Settings, tokenizer: QATokenizer, precision: str = "float16"
) -> QAGenerator:
    """Return a model of a shape whose weights take no memory."""
    of = PRECISIONS[precision]
    with torch.device("meta"):
        bart = Bart(shape).to(of.search)
    bart.run_by(TRITON)
    bias = torch.zeros(shape.vocab_size, device="meta")
    head = LMHead(bart.model.shared.weight.detach(), bias, TRITON)
    return QAGenerator(
        name="shape",
        digest="",
        bart=bart,
        document_bart=bart,
        head=head,
        tokenizer=tokenizer,
        settings=settings,
        precision=of,
        kernels=TRITON,
        packed=False,
    )


def count(generator: QAGenerator, config: DecodingConfig, batch_size: int) -> Count:
    """Count what a pass over so many pairs launches.

    Args:
        generator: from `without_data`.
        config: settings of the search.
        batch_size: pairs, each with a document of its own.
    """
    summaries = [Source([3] * SUMMARY, array("i", [3] * SUMMARY), 0, 0)] * batch_size
    documents = [
        Source([3 + i, *[3] * (DOCUMENT - 1)], array("i"), 0, 0) for i in range(batch_size)
    ]
    pass_ = fused.FusedPass(generator, config, 10, 1, graph_bytes=0)
    launches = Launches()
    least = config.min_length  # from the step after on, all but the last are alike
    alike = range(least + 2, config.max_length)
    with torch.inference_mode(), _watched(launches, batch_size, skipped=alike) as seen:
        _ = pass_._selector  # made once a scorer
        with launches:
            pass_._launch(documents, ["a"] * batch_size, summaries)
    assert seen.memory is not None  # every pass searches
    held = graph.held_bytes(seen.memory, config, generator.shape.vocab_size)
    held = held // batch_size * fused.filled_up(batch_size)
    held += pass_._store_bytes * fused.filled_up(batch_size)
    steps = range(config.max_length + 1)
    usual = launches.kernels[f"step {least + 1}"]
    is_graphed = fused.filled_up(batch_size) <= fused.MAX_GRAPH_BATCH
    outside = {
        part: launches.total(part)
        for part in ("encoding", "selection", "rescoring", "sorting", "reading", "other")
    }
    stop = launches.total("stop test") // len(steps)
    launched = sum(outside.values())
    if is_graphed:
        stop += outside.pop("sorting")
        # Of the search, keys with values, and the mask.
        outside["copies to graphs"] = seen.copied + 2
        launched = seen.parts + outside["copies to graphs"] + outside["reading"]
        launched += sum(launches.total(part) for part in seen.eager)
    return Count(
        step={t: launches.total(f"step {least + 1 if t in alike else t}") for t in steps},
        early=launches.total("step 2"),
        usual=sum(usual.values()),
        products=sum(usual[name] for name in PRODUCTS),
        stop=stop,
        outside=outside,
        launched=launched + launches.copies_in,
        copies_in=launches.copies_in,
        blocking_reads=seen.reads,
        graph_bytes=held if is_graphed else 0,
    )


PART_OF = {
    "_encode_documents": "encoding",
    "_encode_summaries": "encoding",
    "_select": "selection",
    "_logprobs": "rescoring",
}


@dataclass
class _Seen:
    reads: int = 0
    parts: int = 0  # that graphs replay
    copied: int = 0  # inputs of theirs that are on the device
    eager: set[str] = field(default_factory=set)  # parts that are launched kernel by kernel
    memory: SourceMemory | None = None  # of the summaries


@contextmanager
def _watched(launches: Launches, batch_size: int, skipped: range) -> Iterator[_Seen]:
    """Name the parts of a pass, count reads and let Triton's kernels count instead of running.

    Steps that are `skipped` do nothing: there is no data that would miss them.
    """
    seen = _Seen()

    def part(owner: type, method: str, name: Callable[..., str]) -> Any:
        run = getattr(owner, method)

        @wraps(run)
        def named(self: Any, *arguments: Any) -> Any:
            if owner is Search and arguments[0] in skipped:
                return None
            with launches.in_part(name(*arguments)):
                return run(self, *arguments)

        return mock.patch.object(owner, method, named)

    class Copies:
        """Stands for `CopiesToHost`: there is no data, but the sizes are known."""

        def __init__(self, tensors: Sequence[Tensor]) -> None:
            seen.reads += 1
            with launches.in_part("reading"):
                fused.joined_bytes(tensors)

        def wait(self) -> list[Tensor]:
            most = PAIRS * LONGEST
            return [torch.tensor([batch_size * most, most])]

    run_part = fused.FusedPass._part

    def counted_part(
        self: Any, function: Any, inputs: Sequence[Tensor], *sizes: int, **rest: Any
    ) -> Any:
        if fused.filled_up(batch_size) <= rest.get("most", fused.MAX_PART_BATCH):
            seen.parts += 1
            seen.copied += sum(x.device.type != "cpu" for x in inputs)
        else:
            seen.eager.add(PART_OF[function.__name__])
        return run_part(self, function, inputs, *sizes, **rest)

    def begin_search(generator: QAGenerator, memory: SourceMemory, *rest: Any) -> Search:
        seen.memory = memory
        return generation.begin_search(generator, memory, *rest)

    with ExitStack() as stack:
        for patch in (
            part(Search, "step", lambda t: f"step {t}"),
            part(SearchState, "all_done", lambda: "stop test"),
            part(SearchState, "sorted", lambda steps: "sorting"),
            *(
                part(fused.FusedPass, method, lambda *of, name=name: name)
                for method, name in PART_OF.items()
            ),
            mock.patch.object(fused.FusedPass, "_part", counted_part),
            mock.patch.object(fused, "CopiesToHost", Copies),
            mock.patch.object(fused, "begin_search", begin_search),
            mock.patch.object(_launch, "HAS_TRITON", True),
            *(
                mock.patch.object(module, name, _Kernel(launches, name))
                for module in OP_MODULES
                for name in vars(module)
                if name.endswith("_kernel")
            ),
        ):
            stack.enter_context(patch)
        yield seen


class _Kernel:
    """Stands for a Triton kernel: counts a launch and does nothing."""

    def __init__(self, launches: Launches, name: str) -> None:
        self._launches, self._name = launches, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **arguments: self._launches.add(self._name)


def profile(scorer: QualsScorer, documents: list[str], summaries: list[str]) -> dict[str, Any]:
    """Profile one batch, warm; return its kernels, its steps, and where the time goes.

    `kernels` are those that can be counted beforehand, without what cuBLAS adds. `seconds` are the
    profiled batch's, which launches more slowly, `plain_seconds` the same batch's before that.

    On a CPU, operations take the place of kernels, so that the command can be tried there.
    """
    is_gpu = torch.cuda.is_available()
    for _ in range(3):  # the second time graphs are captured
        begin = time.perf_counter()
        scorer.score(documents, summaries)
        plain_seconds = time.perf_counter() - begin
    calls: Counter[str] = Counter()

    def counted(owner: type, method: str) -> Any:
        run = getattr(owner, method)

        def named(self: Any, *arguments: Any) -> Any:
            calls[method] += 1
            return run(self, *arguments)

        return mock.patch.object(owner, method, named)

    activity = torch.profiler.ProfilerActivity
    with (
        counted(torch.cuda.CUDAGraph, "replay"),
        counted(Captured, "__call__"),
        counted(Search, "step"),
        counted(fused.FusedPass, "_on_host"),
        torch.profiler.profile(
            activities=[activity.CUDA] if is_gpu else [activity.CPU]
        ) as profiler,
    ):
        begin = time.perf_counter()
        scorer.score(documents, summaries)
        if is_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    place = "CUDA" if is_gpu else "CPU"
    of_device = [event for event in profiler.events() if event.device_type.name == place]
    kernels = [e for e in of_device if not e.name.startswith(("Memcpy HtoD", "Memcpy DtoH"))]
    spent: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for event in kernels:
        spent[event.name] += event.time_range.elapsed_us()
        number[event.name] += 1
    of_search = calls["replay"] - calls["__call__"]
    n_added = sum(
        n for name, n in number.items() if any(part in name.lower() for part in ADDED_BY_CUBLAS)
    )
    return {
        "kernels": len(kernels) - n_added,
        "added_by_cublas": n_added,
        "steps": min(of_search * graph.STEPS, scorer.decoding.max_length + 1) + calls["step"],
        "redone_on_host": calls["_on_host"],
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "busy_seconds": sum(spent.values()) / 1e6,
        "longest": [
            {"name": name, "n": number[name], "share": us / sum(spent.values())}
            for name, us in spent.most_common(20)
        ],
    }


def as_result(found: Count) -> dict[str, Any]:
    """Return a count with its figures by name."""
    return {
        "step_early": found.early,
        "step": found.usual,
        "step_products": found.products,
        "stop": found.stop,
        "outside": found.outside,
        "launched_outside": found.launched,
        "copies_in": found.copies_in,
        "blocking_reads": found.blocking_reads,
        "flags_a_step": 1 / graph.STEPS if found.graph_bytes else 1,
        "graph_mib": found.graph_bytes / 2**20,
    }


def show(counts: dict[int, Count]) -> None:
    """Print a table of the counts."""
    table = Table(title="kernels launched by the pass of a GPU")
    heads = ("pairs", "a step, early", "a step", "of these products", "stop test", "outside")
    for head in (*heads, "launched outside", "blocking reads", "copies in", "graphs hold"):
        table.add_column(head, justify="right")
    for batch_size, found in counts.items():
        parts = " + ".join(f"{number} {part}" for part, number in found.outside.items() if number)
        a_stop = f"{found.stop} a {'graph' if found.graph_bytes else 'step'}"
        held = f"{found.graph_bytes / 2**20:,.0f} MiB" if found.graph_bytes else "no graphs"
        row = (
            batch_size,
            found.early,
            found.usual,
            found.products,
            a_stop,
            parts,
            found.launched,
            found.blocking_reads,
            found.copies_in,
            held,
        )
        table.add_row(*map(str, row))
    Console(width=160).print(table)


def main() -> None:
    """Count, on a GPU profile, and print one line of JSON last."""
    parser = command_line(__doc__, data=None)
    parser.add_argument("--batches", type=int, nargs="+", default=[*BATCHES], help="pairs")
    parser.add_argument("--model", help="profile this one (bart-large, ...), and count its shape")
    parser.add_argument("--device", default="cpu", help="where to profile")
    arguments = parser.parse_args()
    if min(arguments.batches) < 1:
        parser.error(f"--batches must be 1 or more, but got {min(arguments.batches)}")
    if arguments.model is None:
        tokenizer = byte_level_tokenizer(BART_LARGE_SETTINGS)
        generator = without_data(BART_LARGE, BART_LARGE_SETTINGS, tokenizer)
        name, scorer = "shape of BART-large, byte-level", None
    else:
        name = arguments.model
        scorer = QualsScorer.from_pretrained(folder_of(name), device=arguments.device)
        real = scorer.generator
        generator = without_data(real.shape, real.settings, real.tokenizer)
    config = DecodingConfig()
    counts = {size: count(generator, config, size) for size in arguments.batches}
    show(counts)
    result: dict[str, Any] = {
        "model": name,
        "kernels_per_step": {size: found.usual for size, found in counts.items()},
        "kernels_outside": {size: found.of_outside for size, found in counts.items()},
        "counts": {size: as_result(found) for size, found in counts.items()},
    }
    wrong = []
    if scorer is not None:
        result["profiles"] = {}
        for size, found in counts.items():
            pairs = load_workload("long", arguments.data, size)
            seen = profile(scorer, *texts_of(pairs))
            if arguments.device.startswith("cuda"):
                seen["counted"] = found.total(seen["steps"])
                # What the host does again is not in the count.
                if not seen["redone_on_host"] and abs(seen["kernels"] / seen["counted"] - 1) > GAP:
                    wrong.append(f"{size} pairs: {seen['counted']} counted, {seen['kernels']} seen")
            result["profiles"][size] = seen
    finish("launches", result, arguments.device)
    if wrong:
        sys.exit(f"the counter is wrong by more than {GAP:.0%}: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
