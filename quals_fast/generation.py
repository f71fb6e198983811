"""Question-answer sequences of many summaries: batches through the beam search, read back.

Source: docs/semantics.md 1.1, docs/semantics.md 1.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quals_fast.batching import pad, run_batches
from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.rules import Hypotheses, OnChoice, Vocabulary
from quals_fast.models.beams import BartBeams
from quals_fast.models.cache import SourceMemory
from quals_fast.models.loading import QAGenerator
from quals_fast.models.slots import DenseSlots, PackedSlots, Slots, Stores
from quals_fast.ops import group_select_cpu
from quals_fast.results import Hypothesis


def vocabulary(generator: QAGenerator) -> Vocabulary:
    """Return what the search has to know about the checkpoint's tokens."""
    s = generator.settings
    return Vocabulary(
        size=s.vocab_size,
        eos_token_id=s.eos_token_id,
        pad_token_id=s.pad_token_id,
        decoder_start_token_id=s.decoder_start_token_id,
        forced_bos_token_id=s.forced_bos_token_id,
    )


def generate(
    generator: QAGenerator,
    sources: Sequence[Sequence[int]],
    config: DecodingConfig,
    max_batch_tokens: int,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield the index of each source with its hypotheses, in the rule's order, batch by batch.

    Args:
        generator: the model.
        sources: input ids of each summary, special tokens included.
        config: settings of the search.
        max_batch_tokens: a summary counts as its source and all that its beams may decode.
    """
    bart, pad_token_id = generator.bart, generator.settings.pad_token_id

    def run(batch: list[int]) -> Iterator[list[Hypothesis]]:
        memory = bart.encode(*pad([sources[i] for i in batch], pad_token_id, bart.device))
        return read_back(begin_search(generator, memory, config).run())

    costs = [len(ids) + config.num_beams * (config.max_length + 1) for ids in sources]
    return run_batches(costs, max_batch_tokens, run)


def begin_search(
    generator: QAGenerator,
    memory: SourceMemory,
    config: DecodingConfig,
    on_choice: OnChoice | None = None,
    stores: Stores | None = None,
) -> Search:
    """Begin to search the hypotheses of encoded sources, in the way that suits the device.

    Args:
        generator: the model.
        memory: of the B summaries.
        config: settings of the search.
        on_choice: called with what the groups chose at every step.
        stores: of a search in fixed shapes, for what its slots decode; by default new ones.
    """
    sizes = config.num_beams, config.max_length + 1
    slots: Slots
    if generator.packed:
        slots = PackedSlots(memory, *sizes)
    else:
        slots = DenseSlots(memory, *sizes, generator.kernels, stores)
    return Search(
        BartBeams(generator.bart, generator.head, slots),
        vocabulary(generator),
        config,
        memory.batch_size,
        generator.bart.device,
        group_select_cpu if generator.packed else generator.kernels.group_select,
        generator.packed,
        on_choice,
    )


def read_back(found: Hypotheses) -> Iterator[list[Hypothesis]]:
    """Read a batch's hypotheses, one list a sentence; only NaN leaves some without a length."""
    for sentence in zip(*(part.tolist() for part in found), strict=True):
        yield [
            Hypothesis(
                token_ids=tuple(ids[:length]),
                logprobs=tuple(logprobs[:length]),
                search_logprobs=tuple(search[:length]),
                search_sum=total,
                search_score=score,
            )
            for ids, length, logprobs, search, total, score in zip(*sentence, strict=True)
            if length
        ]
