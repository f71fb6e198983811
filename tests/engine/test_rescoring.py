"""Rescoring in batches and slices against the slow reference, one document and target at a time."""

import random
from itertools import chain

import pytest
import tiny_models
import tiny_t5
import torch
from model_folders import CPU

from quals_fast.engine import rescoring
from quals_fast.engine.rescoring import rescore
from quals_fast.models.cache import EncodingCache
from quals_fast.models.loading import load_model
from quals_fast.reference.model import ReferenceModel
from quals_fast.reference.tolerances import TOKEN_LOGPROB

LENGTHS = {  # of each document and its targets; equal lengths are equal documents
    "many targets of one document": [(20, [1, 9, 4, 12, 1, 1, 7, 3])],
    "one target is longer than a slice": [(7, [2, 60, 1])],
    "documents of any length, some alike": [(3, [1]), (7, [5, 1]), (50, []), (1, [30]), (7, [4])],
    "nothing": [(3, []), (9, [])],
}


@pytest.fixture(scope="module", params=["bart", "t5"])
def models(request, tmp_path_factory):
    write = {"bart": tiny_models.write_checkpoint, "t5": tiny_t5.write_t5}[request.param]
    folder = write(tmp_path_factory.mktemp("rescoring") / "m")
    return load_model(folder, device=CPU), ReferenceModel(folder)


@pytest.mark.parametrize("rows", LENGTHS.values(), ids=LENGTHS)
def test_as_by_the_reference(models, rows, monkeypatch):
    model, reference = models

    def ids_of(seed, length):
        return random.Random(seed).choices(range(5, model.shape.vocab_size), k=length)

    documents = [ids_of(0, length) for length, _ in rows]
    targets = [[ids_of(length, length) for length in lengths] for _, lengths in rows]
    expected = [
        [reference.token_logprobs(reference.encode(document), ids) for ids in own]
        for document, own in zip(documents, targets, strict=True)
    ]
    cache = EncodingCache(1 << 20)
    for budget, most_slots, kept in [(1, 2048, None), (60, 2048, cache), (10**6, 8, cache)]:
        monkeypatch.setattr(rescoring, "_MAX_SLOTS", most_slots)
        with torch.inference_mode():
            found = rescore(model, documents, targets, budget, kept)
        assert [[len(ids) for ids in own] for own in found] == [lengths for _, lengths in rows]
        for one, other in zip(chain(*found), chain(*expected), strict=True):
            assert one == pytest.approx(other, abs=TOKEN_LOGPROB)


def test_targets_of_a_document_share_no_more_slots_than_allowed(models, monkeypatch):
    model, _ = models
    sizes = []

    def pack(*arguments):
        sizes.append(arguments[-1])
        return original(*arguments)

    original = rescoring.pack
    monkeypatch.setattr(rescoring, "pack", pack)
    monkeypatch.setattr(rescoring, "_MAX_SLOTS", 10)
    with torch.inference_mode():
        rescore(model, [[5, 6], [7]], [[[5] * 4] * 5, [[6] * 3]], 10**6)
    assert sizes == [8, 8, 4]  # whatever the budget
