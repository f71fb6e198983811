"""Counts what a pass launches: on tensors without data, with Triton's kernels counted, not run."""

from __future__ import annotations

import pkgutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import quals_fast_kernels
import torch
from quals_fast_kernels import _launch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from bench.launches.kernels import PRODUCTS, Launches
from quals_fast import DecodingConfig
from quals_fast.decoding import graph
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.rules import SearchState
from quals_fast.engine import fused, generation, transfer
from quals_fast.engine.protocol import TextPair
from quals_fast.models.checkpoint import Conventions
from quals_fast.models.lm_head import LMHead
from quals_fast.models.loading import TorchModel, network_of
from quals_fast.models.memory import SourceMemory
from quals_fast.models.precision import PRECISIONS
from quals_fast.models.shape import BartShape, Shape, T5Shape
from quals_fast.models.tokenizer import QATokenizer, Source
from quals_fast.ops import TRITON

SUMMARY, DOCUMENT, PAIRS, LONGEST = 70, 800, 12, 20  # tokens and pairs of a usual `long` row

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
BART_LARGE_CONVENTIONS = Conventions(
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

T5_LARGE = T5Shape(
    vocab_size=32_128,
    d_model=1024,
    d_kv=64,
    d_ff=4096,
    num_layers=24,
    num_decoder_layers=24,
    num_heads=16,
)
T5_LARGE_CONVENTIONS = replace(
    BART_LARGE_CONVENTIONS,
    vocab_size=32_128,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
    sep_token_id=32_100,
    decoder_start_token_id=0,
    max_source_tokens=512,
)


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


def byte_level_tokenizer(conventions: Conventions) -> QATokenizer:
    """Return a byte-level tokenizer without merges, which stands for BART's own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: 3 + place for place, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return QATokenizer(tokenizer, conventions)


def without_data(
    shape: Shape, conventions: Conventions, tokenizer: QATokenizer, precision: str = "float16"
) -> TorchModel:
    """Return a model of a shape whose weights take no memory."""
    of = PRECISIONS[precision]
    network = network_of(shape).to("meta", of.dtype)
    network.run_by(TRITON)
    bias = torch.zeros(shape.vocab_size, device="meta")
    head = LMHead(network.lm_head_weight.detach(), bias, TRITON)
    return TorchModel(
        name="shape",
        digest="",
        shape=shape,
        network=network,
        document_network=network,
        head=head,
        tokenizer=tokenizer,
        conventions=conventions,
        precision=of,
        kernels=TRITON,
    )


def count(model: TorchModel, config: DecodingConfig, batch_size: int) -> Count:
    """Count what a pass over so many pairs launches.

    Args:
        model: from `without_data`.
        config: settings of the search.
        batch_size: pairs, each with a document of its own.
    """
    summaries = [Source("a", [3] * SUMMARY, array("i", [3] * SUMMARY), 0, 0)] * batch_size
    documents = [
        Source("", [3 + i, *[3] * (DOCUMENT - 1)], array("i"), 0, 0) for i in range(batch_size)
    ]
    pass_ = fused.FusedPass(model, config, 10, 1, graph_bytes=0)
    launches = Launches()
    least = config.min_length  # from the step after on, all but the last are alike
    alike = range(least + 2, config.max_length)
    with torch.inference_mode(), _watched(launches, batch_size, skipped=alike) as seen:
        _ = pass_._selector  # made once a scorer
        with launches:
            pass_._launch(list(map(TextPair, documents, summaries)))
    assert seen.memory is not None  # every pass searches
    held = graph.held_bytes(seen.memory, config, model.shape.vocab_size)
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
                transfer.joined_bytes(tensors)

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

    def begin_search(model: TorchModel, memory: SourceMemory, *rest: Any) -> Search:
        seen.memory = memory
        return generation.begin_search(model, memory, *rest)

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
            mock.patch.object(transfer, "CopiesToHost", Copies),
            mock.patch.object(fused, "CopiesToHost", Copies),
            mock.patch.object(fused, "begin_search", begin_search),
            mock.patch.object(_launch, "HAS_TRITON", True),
            *(
                mock.patch.object(module, name, _Kernel(launches, name))
                for module, name in _triton_kernels()
            ),
        ):
            stack.enter_context(patch)
        yield seen


def _triton_kernels() -> Iterator[tuple[ModuleType, str]]:
    """Yield each Triton kernel: the operation's module, and its name there."""
    for one in pkgutil.iter_modules(quals_fast_kernels.__path__):
        if not one.name.startswith("_"):
            module = import_module(f"quals_fast_kernels.{one.name}")
            yield from ((module, name) for name in vars(module) if name.endswith("_kernel"))


class _Kernel:
    """Stands for a Triton kernel: counts a launch and does nothing."""

    def __init__(self, launches: Launches, name: str) -> None:
        self._launches, self._name = launches, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **arguments: self._launches.add(self._name)
