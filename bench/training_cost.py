"""What share of a training step, and of an evaluation, does scoring with QUALS take?

    python -m bench.training_cost --quick
    python -m bench.training_cost --data ../shared/data/docsum_pairs.jsonl.gz

A step is like one of GRPO with a sequence-to-sequence model: G completions of each document are
sampled, scored, and learnt from by policy gradient (8 documents x 8 completions; AdamW). An
evaluation summarises documents greedily and scores the summaries (500). The trained model, a BART
or T5, has the size of `--policy` and random weights. So every completion gets the length of the
workload's median summary, and real summaries are scored in its place: the document's own and those
of the next rows.

Arms, which take turns within a round:

    none            no scoring at all; rewards are given
    sync            scoring between sampling and learning
    thread          scoring by a BackgroundScorer while the next step's completions are sampled
    process         the same, in a separate process

Each arm runs with a cold cache of encoded documents (emptied before) and a warm one (with all
documents). The share is 1 - seconds of `none` / seconds of the arm, within a round; for `sync` it
is scoring alone, for the others it is the cost of scoring beyond the work that it overlaps with. In
an evaluation, `thread` and `process` overlap with the training steps that follow, for as long as
scoring takes; `none_with_steps` is the same without scoring. A process keeps its own cache, so only
its first steps are cold, and it has no cold arm.

The defaults take hours on two cores. The time of an evaluation grows with its summaries, so fewer
are enough to estimate its shares: --documents 8 --completions 8 --summaries 16 --rounds 1 takes 10
minutes. `--quick`: 2 documents x 4 completions, an evaluation of 8 summaries, 2 rounds. A T5 has a
result of its own, training_cost_t5.json.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from bench.recipes.grow import folder_of
from bench.shared.common import Pair, finish, spread, synchronize
from bench.shared.engines import torch_engine
from bench.shared.options import EVERY_MODEL, FLANS, T5S, TINY, command_line, fill_in
from bench.shared.weights import weights_of
from bench.shared.workloads import WORKLOADS, describe, load_workload, token_count
from quals_fast import QualsScorer
from quals_fast.training import BackgroundScorer

CACHE_BYTES = 2**30
SOURCE_TOKENS = 512
COLD, WARM = "cold", "warm"


class Batch(NamedTuple):
    """What a step is about.

    Attributes:
        documents: B texts.
        completions: G texts of each, to be scored.
    """

    documents: list[str]
    completions: list[list[str]]


class Policy:
    """A sequence-to-sequence model of given sizes with random weights, and its optimiser.

    Args:
        folder: whose config.json and tokenizer.json give sizes and words.
        device: where it is.
        new_tokens: of every completion.
    """

    def __init__(self, folder: Path, device: str, new_tokens: int) -> None:
        config = AutoConfig.from_pretrained(folder)
        config.forced_eos_token_id = config.forced_bos_token_id = None
        torch.manual_seed(0)
        self.model = AutoModelForSeq2SeqLM.from_config(config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        self.new_tokens = new_tokens
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self._tokenizer.pad_token = self._tokenizer.convert_ids_to_tokens(config.pad_token_id)

    def generate(self, documents: list[str], count: int) -> tuple[Any, torch.Tensor]:
        """Sample (one completion: greedily) for each document; return sources and ids."""
        positions = getattr(self.model.config, "max_position_embeddings", SOURCE_TOKENS)
        longest = min(SOURCE_TOKENS, positions)
        sources = self._tokenizer(
            documents, truncation=True, max_length=longest, padding=True, return_tensors="pt"
        ).to(self.model.device)
        with torch.no_grad():
            ids = self.model.eval().generate(
                input_ids=sources["input_ids"],
                attention_mask=sources["attention_mask"],
                do_sample=count > 1,
                num_return_sequences=count,
                min_new_tokens=self.new_tokens,
                max_new_tokens=self.new_tokens,
            )
        return sources, ids

    def learn(self, sources: Any, ids: torch.Tensor, rewards: list[float]) -> None:
        """Take one step of policy gradient; documents are encoded once for their completions."""
        model = self.model.train()
        count = len(ids) // len(sources["input_ids"])
        mask = sources["attention_mask"]
        encoder = model.get_encoder()
        states = encoder(sources["input_ids"], attention_mask=mask).last_hidden_state
        logits = model(
            encoder_outputs=(states.repeat_interleave(count, 0),),
            attention_mask=mask.repeat_interleave(count, 0),
            decoder_input_ids=ids[:, :-1],
        ).logits
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
        each = torch.tensor(rewards, device=loss.device).nan_to_num(0.0).view(-1, count)
        advantages = (each - each.mean(1, keepdim=True)) / (each.std(1, keepdim=True) + 1e-4)
        (advantages.flatten() * loss).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronize()


Arm = Callable[[Batch], float]


class Arms:
    """All arms of one model and workload.

    Args:
        policy: what is trained.
        scorer: for `sync` and `thread`, with a cache.
        background: by name, a thread around that scorer and a process with one of its own.
    """

    def __init__(
        self, policy: Policy, scorer: QualsScorer, background: dict[str, BackgroundScorer]
    ) -> None:
        self._policy, self._scorer, self._background = policy, scorer, background
        self._known_there: list[str] = []  # documents in the cache of the process
        self.scoring: list[float] = []  # seconds of each score in `sync`, warm

    def steps(self) -> Iterator[tuple[str, Arm]]:
        """Yield the arms of a training step."""
        yield "none", self._step_without
        for state in (COLD, WARM):
            yield f"sync_{state}", partial(self._step_sync, state=state)
        for how, state in (("thread", COLD), ("thread", WARM), ("process", WARM)):
            yield f"{how}_{state}", partial(self._step_async, name=how, state=state)

    def evaluations(self, step: Batch, n_steps: int) -> Iterator[tuple[str, Arm]]:
        """Yield the arms of an evaluation; those beside training take `n_steps` of `step`."""
        for name, beside in (("none", 0), ("none_with_steps", n_steps)):
            yield name, partial(self._evaluate, how=None, state=WARM, step=step, n_steps=beside)
        for how, state in (*product(("sync", "thread"), (COLD, WARM)), ("process", WARM)):
            beside = 0 if how == "sync" else n_steps
            yield (
                f"{how}_{state}",
                partial(self._evaluate, how=how, state=state, step=step, n_steps=beside),
            )

    def _prepare(self, batch: Batch, state: str, arm: str = "sync") -> None:
        """Bring the cache into its state, outside of what is timed."""
        if arm == "process":
            if batch.documents != self._known_there:  # its cache is never emptied
                self._background["process"].score_async(*batch).result()
                self._known_there = batch.documents
        elif state == WARM:  # to rescore a single token is to encode the document
            end = self._scorer.engine.model.conventions.eos_token_id
            self._scorer.rescore(batch.documents, [[[end]]] * len(batch.documents))
        else:
            cache = torch_engine(self._scorer).cache
            assert cache is not None  # it was asked for
            cache.clear()

    def _step_without(self, batch: Batch) -> float:
        begin = time.perf_counter()
        sources, ids = self._policy.generate(batch.documents, len(batch.completions[0]))
        self._policy.learn(sources, ids, [float(i) for i in range(len(ids))])
        return time.perf_counter() - begin

    def _step_sync(self, batch: Batch, state: str) -> float:
        self._prepare(batch, state)
        begin = time.perf_counter()
        sources, ids = self._policy.generate(batch.documents, len(batch.completions[0]))
        scoring = time.perf_counter()
        scores = self._scorer.score(*batch).scores
        if state == WARM:
            self.scoring.append(time.perf_counter() - scoring)
        self._policy.learn(sources, ids, flat(scores))
        return time.perf_counter() - begin

    def _step_async(self, batch: Batch, name: str, state: str) -> float:
        """Time a step of a pipeline: this batch is scored while the next one is sampled."""
        self._prepare(batch, state, name)
        sources, ids = self._policy.generate(batch.documents, len(batch.completions[0]))
        begin = time.perf_counter()
        future = self._background[name].score_async(*batch)
        self._policy.generate(batch.documents, len(batch.completions[0]))
        self._policy.learn(sources, ids, flat(future.result().scores))
        return time.perf_counter() - begin

    def _evaluate(
        self, batch: Batch, how: str | None, state: str, step: Batch, n_steps: int
    ) -> float:
        """Time an evaluation with the training steps after it."""
        if how is not None:
            self._prepare(batch, state, how)
        begin = time.perf_counter()
        for first in range(0, len(batch.documents), len(step.documents)):
            self._policy.generate(batch.documents[first : first + len(step.documents)], 1)
        if how == "sync":
            self._scorer.score(*batch)
        future = self._background[how].score_async(*batch) if how in self._background else None
        for _ in range(n_steps):
            self._step_without(step)
        if future is not None:
            future.result()
        return time.perf_counter() - begin


def flat(scores: list[Any]) -> list[float]:
    """Join the scores of all documents' completions."""
    return [score for of_document in scores for score in of_document]


def take_turns(
    arms: list[tuple[str, Arm]], batch: Batch, rounds: int, bases: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Run the arms in turn; after each round yield the figures of all of them up to then.

    Args:
        arms: by name.
        batch: for all of them.
        rounds: that count.
        bases: the arm without scoring that each other one is compared with; shares are formed
            within a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name, _ in arms}
    for _ in range(rounds):
        for name, run in arms:
            seconds[name].append(run(batch))
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
        yield {
            "seconds": {name: spread(own) for name, own in seconds.items()},
            "share": {
                name: spread([1 - a / b for a, b in zip(seconds[base], seconds[name], strict=True)])
                for name, base in bases.items()
            },
        }


def step_batch(pairs: list[Pair], n_documents: int, n_completions: int) -> Batch:
    """Give each of the first documents its own summary and those of the next rows."""
    completions = [
        [pairs[(i + j) % len(pairs)].summary for j in range(n_completions)]
        for i in range(n_documents)
    ]
    return Batch([pair.document for pair in pairs[:n_documents]], completions)


def run_case(
    arguments: argparse.Namespace, workload: str, save: Callable[[dict[str, Any]], None]
) -> None:
    """Measure one workload; `save` gets what was measured up to then after each round."""
    rows = max(arguments.summaries, arguments.documents + arguments.completions)
    pairs = load_workload(workload, arguments.data, rows)
    step = step_batch(pairs, arguments.documents, arguments.completions)
    evaluated = step_batch(pairs, arguments.summaries, 1)
    new_tokens = round(statistics.median(token_count([pair.summary for pair in pairs])))
    place = {"device": arguments.scorer_device or arguments.device, "cache_bytes": CACHE_BYTES}
    model = str(folder_of(TINY)) if arguments.scorer == TINY else arguments.scorer
    scorer = QualsScorer.from_pretrained(model, **place)
    policy = Policy(folder_of(arguments.policy), arguments.device, new_tokens)
    with ExitStack() as stack:
        background = {
            "thread": stack.enter_context(BackgroundScorer(scorer)),
            "process": stack.enter_context(
                BackgroundScorer.in_process(model, threads=None, **place)
            ),
        }
        arms = Arms(policy, scorer, background)
        of_step = list(arms.steps())
        for _, run in of_step:  # a first document warms up
            run(Batch(step.documents[:1], step.completions[:1]))
        arms.scoring.clear()
        bases = {name: "none" for name, _ in of_step if name != "none"}
        case: dict[str, Any] = {
            "new_tokens": new_tokens,
            "sizes": describe(pairs),
            "signature": scorer.signature,
        }
        for case["step"] in take_turns(of_step, step, arguments.rounds, bases):
            save(case)
        if not arguments.summaries:
            return
        # As many steps as the scoring of the evaluation lasts, by what a step's scoring took.
        n_scored = arguments.documents * arguments.completions
        lasts = statistics.median(arms.scoring) / n_scored * arguments.summaries
        n_steps = max(1, math.ceil(lasts / case["step"]["seconds"]["none"]["median"]))
        of_evaluation = list(arms.evaluations(step, n_steps))
        bases = {
            name: "none" if name.startswith("sync") else "none_with_steps"
            for name, _ in of_evaluation
            if not name.startswith("none")
        }
        case["steps_beside_evaluation"] = n_steps
        turns = take_turns(of_evaluation, evaluated, arguments.rounds, bases)
        for case["evaluation"] in turns:
            stats = scorer.cache_stats
            case["cache"] = {name: getattr(stats, name) for name in ("hits", "misses", "n_bytes")}
            save(case)


def main() -> None:
    """Measure and write bench/results/training_cost.json, or training_cost_t5.json."""
    parser = command_line(__doc__, data=None)
    parser.add_argument("--quick", action="store_true", help="a small run, see above")
    parser.add_argument(
        "--workloads", nargs="+", choices=[*WORKLOADS], default=["short"], help="default: short"
    )
    parser.add_argument(
        "--policy",
        choices=(*EVERY_MODEL, *T5S, *FLANS),
        help="trained model (quick: qagen-mini, else bart-base)",
    )
    parser.add_argument(
        "--scorer", default="qagen-mini", help="model that scores: the bundled one, or a folder"
    )
    parser.add_argument("--device", default="cpu", help="device of the training")
    parser.add_argument(
        "--scorer-device", help="device of the scorer; by default, that of the training"
    )
    parser.add_argument("--documents", type=int, help="documents per step (quick: 2, else 8)")
    parser.add_argument(
        "--completions", type=int, help="completions per document (quick: 4, else 8)"
    )
    parser.add_argument(
        "--summaries", type=int, help="summaries per evaluation; 0: none (quick: 8, else 500)"
    )
    parser.add_argument("--rounds", type=int, help="number of rounds (quick: 2, else 3)")
    arguments = parser.parse_args()
    defaults = {"policy": "bart-base", "documents": 8, "completions": 8, "summaries": 500,
                "rounds": 3}  # fmt: skip
    if arguments.quick:
        defaults = {"policy": "qagen-mini", "documents": 2, "completions": 4, "summaries": 8,
                    "rounds": 2}  # fmt: skip
    fill_in(arguments, defaults)
    cases: dict[str, dict[str, Any]] = {}

    def save(workload: str, case: dict[str, Any]) -> None:
        cases[workload] = case
        shares = {
            f"share_of_{what}": {
                arguments.policy: {name: one[what]["share"] for name, one in cases.items()}
            }
            for what in ("step", "evaluation")
            if all(what in one for one in cases.values())
        }
        finish(
            "training_cost_t5" if arguments.policy in (*T5S, *FLANS) else "training_cost",
            {
                **shares,
                "policy": arguments.policy,
                "scorer": arguments.scorer,
                "documents": arguments.documents,
                "completions": arguments.completions,
                "summaries": arguments.summaries,
                "data": arguments.data.name if arguments.data else "examples",
                "quick": arguments.quick,
                "cases": cases,
            },
            arguments.device,
            weights=weights_of(arguments.policy, arguments.scorer),
        )

    for workload in arguments.workloads:
        run_case(arguments, workload, partial(save, workload))


if __name__ == "__main__":
    main()
