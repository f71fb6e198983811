"""Question-answer sequences: start a search on each kind of device, and read its results.

Source: docs/semantics.md 1.1, docs/semantics.md 1.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.host_search import OnChoice as OnHostChoice
from quals_fast.decoding.host_search import host_search
from quals_fast.decoding.rules import Hypotheses, OnChoice
from quals_fast.models.beams import HostBeams, TensorBeams
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import DenseSlots, DistinctSlots, Stores
from quals_fast.results import Hypothesis


def search_on_host(
    model: TorchModel,
    memory: SourceMemory,
    config: DecodingConfig,
    on_choice: OnHostChoice | None = None,
) -> list[list[Hypothesis]]:
    """Search and look at the values, to compute only what is needed; suits a CPU.

    Args:
        model: the model.
        memory: of the B summaries.
        config: settings of the search.
        on_choice: called with what the groups chose at every step.
    """
    slots = DistinctSlots(memory, config.num_beams, config.max_length + 1)
    beams = HostBeams(model.network, model.head, slots)
    return host_search(beams, model.conventions, config, memory.batch_size, on_choice)


def begin_search(
    model: TorchModel,
    memory: SourceMemory,
    config: DecodingConfig,
    on_choice: OnChoice | None = None,
    stores: Stores | None = None,
) -> Search:
    """Begin a search in fixed shapes that never waits for a value; suits a GPU.

    Args:
        model: the model.
        memory: of the B summaries.
        config: settings of the search.
        on_choice: called with what the groups chose at every step.
        stores: for what the slots decode; by default new ones.
    """
    slots = DenseSlots(memory, config.num_beams, config.max_length + 1, model.kernels, stores)
    return Search(
        TensorBeams(model.network, model.head, slots),
        model.conventions,
        config,
        memory.batch_size,
        model.device,
        model.kernels,
        on_choice,
    )


class HypothesisReader:
    """Reads what a search found; only NaN leaves some hypotheses without a length.

    Args:
        hypotheses: of B sentences.

    Attributes:
        counts: hypotheses of each sentence that have a length.
    """

    def __init__(self, hypotheses: Hypotheses) -> None:
        self._parts = [part.cpu().numpy() for part in hypotheses]
        self._lengths: list[list[int]] = hypotheses.lengths.tolist()
        self.counts = [sum(length > 0 for length in mine) for mine in self._lengths]

    def one(self, sentence: int, place: int) -> Hypothesis:
        """Return a sentence's hypothesis at a place, from 0."""
        ids, _, logprobs, search, sums, scores = (part[sentence, place] for part in self._parts)
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


def read_back(hypotheses: Hypotheses) -> Iterator[list[Hypothesis]]:
    """Read a batch's hypotheses, one list a sentence."""
    reader = HypothesisReader(hypotheses)
    return map(reader.all_of, range(len(hypotheses.lengths)))
