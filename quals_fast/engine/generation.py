"""Question-answer sequences of many summaries: batches through the beam search, read back.

Source: docs/semantics.md 1.1, docs/semantics.md 1.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from quals_fast.batching import pad, run_batches
from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.rules import Hypotheses, OnChoice, Vocabulary
from quals_fast.models.beams import BartBeams
from quals_fast.models.loading import QAGenerator
from quals_fast.models.memory import SourceMemory
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
    kernels = generator.kernels
    slots: Slots
    if generator.packed:
        kernels = replace(kernels, group_select=group_select_cpu)
        slots = PackedSlots(memory, *sizes)
    else:
        slots = DenseSlots(memory, *sizes, kernels, stores)
    return Search(
        BartBeams(generator.bart, generator.head, slots),
        vocabulary(generator),
        config,
        memory.batch_size,
        generator.bart.device,
        kernels,
        generator.packed,
        on_choice,
    )


class HypothesisReader:
    """Reads what a search found; only NaN leaves some hypotheses without a length.

    Args:
        found: of B sentences.

    Attributes:
        counts: hypotheses of each sentence that have a length.
    """

    def __init__(self, found: Hypotheses) -> None:
        self._found = [part.cpu().numpy() for part in found]
        self._lengths: list[list[int]] = found.lengths.tolist()
        self.counts = [sum(length > 0 for length in mine) for mine in self._lengths]

    def one(self, sentence: int, place: int) -> Hypothesis:
        """Return a sentence's hypothesis at a place, from 0."""
        ids, _, logprobs, search, sums, scores = (part[sentence, place] for part in self._found)
        length = self._lengths[sentence][place]
        return Hypothesis(
            token_ids=tuple(ids[:length].tolist()),
            logprobs=tuple(logprobs[:length].tolist()),
            search_logprobs=tuple(search[:length].tolist()),
            search_sum=float(sums),
            search_score=float(scores),
        )

    def all_of(self, sentence: int) -> list[Hypothesis]:
        """Return a sentence's hypotheses."""
        lengths = self._lengths[sentence]
        return [self.one(sentence, place) for place, length in enumerate(lengths) if length]


def read_back(found: Hypotheses) -> Iterator[list[Hypothesis]]:
    """Read a batch's hypotheses, one list a sentence."""
    reader = HypothesisReader(found)
    return map(reader.all_of, range(len(found.lengths)))
