"""How long does a classifier of document and summary take, beside QUALS?

    python -m bench.cross_encoder --data ../shared/data/docsum_pairs.jsonl.gz

Cross-encoders read document and summary together and return a number. They are measured with the
shapes of RoBERTa-base and FLAN-T5-base and with random weights, since time does not depend on them;
so their numbers mean nothing here. They run in Hugging Face's modules, in float32 and, if the
processor has it, in bfloat16. `READERS` says how each reads a pair: as programs do that people use.

What is assumed: texts have as many tokens as the bundled model's tokenizer counts. Texts of similar
length share a batch, while the programs pad all texts to 512 tokens (AlignScore) or take pair after
pair (AlignScore and MiniCheck), which is slower. MiniCheck comes in larger sizes only.

QUALS scores the same pairs with the bundled model and with the one grown to the size of BART-base,
in the precision that it chooses. Each arm has its own process, for its peak memory, and all take
turns. Time is from texts to scores. Results are written after each workload. Under 8 minutes on two
cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor

from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm, Kept
from bench.shared.common import Pair, finish, machine, peak_mib, spread, texts_of
from bench.shared.options import EVERY_MODEL, command_line
from bench.shared.timing import ratios, rotated, rounds_within
from bench.shared.turns import Worker
from bench.shared.weights import RANDOM, Weights, weights_of
from bench.shared.workloads import WORKLOADS, describe, load_workload, sentences_of
from quals_fast.batching import pad, run_batches
from quals_fast.models.loading import model_folder

BATCH_TOKENS = 4096  # padding included; more did not stay in the cache of a processor
ALIGNSCORE_WORDS, MINICHECK_WORDS = 350, 500  # of a chunk of the document

Pieces: TypeAlias = list[list[tuple[str, str]]]  # by claim: parts of the document with it

ROBERTA: dict[str, Any] = {
    "vocab_size": 50_265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3_072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "num_labels": 3,
}
FLAN_T5: dict[str, Any] = {
    "vocab_size": 32_128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2_048,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
    "num_labels": 2,
}


def whole(document: str, summary: str) -> Pieces:
    """Read the document and the summary once."""
    return [[(document, summary)]]


def by_sentences(document: str, summary: str) -> Pieces:
    """Read each sentence of the summary with each chunk of the document, as AlignScore does.

    Source: `inference_per_example` of https://github.com/yuh-zha/AlignScore.
    """
    sentences = sentences_of(document)
    chunks = len(document.split()) // ALIGNSCORE_WORDS + 1
    size = max(len(sentences) // chunks, 1)
    parts = [" ".join(sentences[i : i + size]) for i in range(0, len(sentences), size)]
    return [[(part, claim) for part in parts] for claim in sentences_of(summary)]


def by_chunks(document: str, summary: str) -> Pieces:
    """Read the summary with each chunk of the document, as MiniCheck does with FLAN-T5.

    Source: `inference_per_example` of https://github.com/Liyan06/MiniCheck.
    """
    parts: list[list[str]] = [[]]
    words = 0
    for sentence in sentences_of(document):
        count = len(sentence.split())
        if parts[-1] and words + count > MINICHECK_WORDS:
            parts.append([])
            words = 0
        parts[-1].append(sentence)
        words += count
    return [[(" ".join(part), summary) for part in parts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A way to read pairs with a network of a published shape.

    Attributes:
        shape: of the network.
        network: name of its class in transformers.
        like: the program that reads so.
        pieces: what is read for a pair.
        limit: tokens of a piece, special ones included; the document's last ones are left out.
        prompt: what stands before the document.
        gives: for the page.
    """

    shape: str
    network: str
    like: str
    pieces: Callable[[str, str], Pieces]
    limit: int | None
    prompt: str = ""
    gives: str = "a number"


READERS = {
    "one pass of 512 tokens": Reader(
        shape="roberta-base",
        network="RobertaForSequenceClassification",
        like="FactCC",
        pieces=whole,
        limit=512,
    ),
    "sentences with chunks": Reader(
        shape="roberta-base",
        network="RobertaForSequenceClassification",
        like="AlignScore-base",
        pieces=by_sentences,
        limit=512,
        gives="a number, and one for each sentence",
    ),
    "one pass of the whole text": Reader(  # the encoder alone, as in the model's own code
        shape="flan-t5-base",
        network="T5ForTokenClassification",
        like="HHEM-2.1-Open",
        pieces=whole,
        limit=None,
        prompt="Determine if the hypothesis is true given the premise? Premise:",
    ),
    "chunks, one decoder token": Reader(
        shape="flan-t5-base",
        network="T5ForConditionalGeneration",
        like="MiniCheck",
        pieces=by_chunks,
        limit=2_048,
        prompt="predict:",
    ),
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("RobertaConfig", ROBERTA),
    "flan-t5-base": ("T5Config", FLAN_T5),
}
#: Arms by name: the reader and the type of its weights.
ENCODERS = {
    f"{name}, {dtype}": (name, dtype) for name in READERS for dtype in ("float32", "bfloat16")
}
SUPPORTED = 1  # the class of a pair that is consistent
NO, YES = 3, 209  # the tokens that MiniCheck compares


class CrossEncoderArm:
    """A cross-encoder with random weights; implements `bench.shared.arms.Arm`.

    Args:
        name: one of `READERS`.
        dtype: of weights and states.

    Attributes:
        dtype: its name.
        kept: nothing: it has no pairs.
    """

    def __init__(self, name: str, *, dtype: torch.dtype = torch.float32) -> None:
        import transformers

        self.name, self._reader = name, READERS[name]
        self.dtype = str(dtype).removeprefix("torch.")
        self.kept: Kept = []
        config_class, sizes = CONFIGS[self._reader.shape]
        config = getattr(transformers, config_class)(**sizes)
        torch.manual_seed(0)
        network: Any = getattr(transformers, self._reader.network)
        self._network = network._from_config(config, dtype=dtype).eval()
        self._pad, self._end = config.pad_token_id, config.eos_token_id
        self._is_roberta = self._reader.shape == "roberta-base"
        self._begin = [config.bos_token_id] if self._is_roberta else []
        self._tokenizer = Tokenizer.from_file(str(model_folder("qagen-mini") / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._prompt = self._ids([self._reader.prompt])[0]

    @torch.inference_mode()
    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> list[float]:
        """Return for each summary the mean over its claims of the best chunk's probability."""
        pieces = [self._reader.pieces(*texts) for texts in zip(documents, summaries, strict=True)]
        sources = self._sources([one for of_pair in pieces for row in of_pair for one in row])
        by_index = dict(
            run_batches(
                [len(ids) for ids in sources],
                BATCH_TOKENS,
                lambda batch: self._supported([sources[i] for i in batch]),
            )
        )
        numbers = iter([by_index[i] for i in range(len(sources))])
        best = [[max(next(numbers) for _ in row) for row in of_pair] for of_pair in pieces]
        return [sum(of_pair) / len(of_pair) for of_pair in best]

    def work(self, documents: Sequence[str], summaries: Sequence[str]) -> dict[str, float]:
        """Count what a pair takes on average: passes, and tokens of all of them."""
        pieces = [self._reader.pieces(*texts) for texts in zip(documents, summaries, strict=True)]
        sources = self._sources([one for of_pair in pieces for row in of_pair for one in row])
        pairs = len(pieces)
        return {"passes": len(sources) / pairs, "tokens": sum(map(len, sources)) / pairs}

    def _sources(self, pieces: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return the tokens of each piece."""
        parts, claims = (self._ids(texts) for texts in zip(*pieces, strict=True))
        middle = [self._end] * (2 if self._is_roberta else 1)
        sources = []
        for part, claim in zip(parts, claims, strict=True):
            around = [*self._begin, *self._prompt], [*middle, *claim, self._end]
            if self._reader.limit is not None:
                part = part[: max(0, self._reader.limit - sum(map(len, around)))]
            sources.append([*around[0], *part, *around[1]][: self._reader.limit])
        return sources

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def _supported(self, sources: Sequence[Sequence[int]]) -> list[float]:
        """Return the probability of the class of consistent pairs for each source."""
        ids, mask = pad(sources, self._pad, torch.device("cpu"))
        given: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask.long()}
        if self._reader.network == "T5ForConditionalGeneration":
            start = torch.zeros(len(ids), 1, dtype=torch.int64)
            logits = self._network(**given, decoder_input_ids=start).logits[:, 0, [NO, YES]]
        else:
            logits = self._network(**given).logits
            logits = logits if self._is_roberta else logits[:, 0]
        probabilities: list[float] = logits.float().softmax(-1)[:, SUPPORTED].tolist()
        return probabilities


def start_workers(models: Sequence[str]) -> dict[str, Worker]:
    """Start a process for each arm: QUALS first, whose bundled model others are compared with."""
    workers = {f"QUALS, {model}": Worker(EngineArm, folder_of(model), "auto") for model in models}
    has_bfloat16 = {"avx512_bf16", "amx_bf16"} & {*machine()["instructions"]}
    for name, (reader, dtype) in ENCODERS.items():
        if dtype == "float32" or has_bfloat16:
            workers[name] = Worker(CrossEncoderArm, reader, dtype_name=dtype)
    return workers


def run_case(
    workers: dict[str, Worker], pairs: list[Pair], rounds: int, seconds: float
) -> dict[str, Any]:
    """Let the arms take turns on a workload; report seconds per pair and what was read.

    Args:
        workers: the arms; all are compared with the first.
        pairs: rows that all arms score.
        rounds: at most.
        seconds: after which no round begins that would not end in time.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    kept: dict[str, float] = {}
    for turn in rounds_within(seconds, rounds):
        for name in rotated([*workers], turn):
            one = workers[name].score(pairs, [])
            times[name].append(one.seconds / len(pairs))
            if name not in ENCODERS:
                kept[name] = sum(map(len, one.kept)) / len(pairs)
    quals = times[next(iter(workers))]
    return {
        "rows": len(pairs),
        "sizes": describe(pairs),
        "seconds_per_pair": {name: spread(own) for name, own in times.items()},
        "times_as_long_as_quals": {name: ratios(own, quals) for name, own in times.items()},
        "work": {
            name: worker.ask(CrossEncoderArm.work, *texts_of(pairs))
            for name, worker in workers.items()
            if name in ENCODERS
        },
        "kept_pairs": kept,
    }


def main() -> None:
    """Measure, and write bench/results/cross_encoder.json after each workload."""
    parser = command_line(__doc__, data=None, rows=6, rounds=3)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=EVERY_MODEL,
        default=["qagen-mini", "bart-base"],
        help="of QUALS (default: qagen-mini bart-base); others are compared with the first",
    )
    parser.add_argument("--limit", type=float, default=390, help="seconds for scoring")
    arguments = parser.parse_args()
    cases: dict[str, dict[str, Any]] = {}
    weights: Weights = weights_of(*arguments.models) | {
        shape: {"recipe": RANDOM} for shape in CONFIGS
    }
    workers = start_workers(arguments.models)
    try:
        warm = load_workload("short", arguments.data, 1)
        for worker in workers.values():
            worker.score(warm, [])
        for workload in WORKLOADS:
            pairs = load_workload(workload, arguments.data, arguments.rows)
            seconds = arguments.limit / len(WORKLOADS)
            cases[workload] = run_case(workers, pairs, arguments.rounds, seconds)
            result = {
                "data": arguments.data.name if arguments.data else "examples",
                "arms": {
                    name: worker.facts | {"peak_mib": worker.ask(peak_mib)}
                    for name, worker in workers.items()
                },
                "workloads": cases,
            }
            finish("cross_encoder", result, weights=weights)
    finally:
        for worker in workers.values():
            worker.kill()


if __name__ == "__main__":
    main()
