"""Scoring in a thread and in a process: results, exceptions, ends."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest
from tiny_trainers import DOCUMENTS, SUMMARIES
from training_helpers import SETTINGS

from quals_fast.models.checkpoint import CheckpointError
from quals_fast.processes import this_thread
from quals_fast.training import BackgroundScorer


def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("quals_fast")]


def test_a_thread_scores_and_ends(scorer):
    with BackgroundScorer(scorer) as background:
        futures = [background.score_async(DOCUMENTS[i:], SUMMARIES[i:]) for i in range(2)]
        bad = background.score_async(["a"], ["b", "c"])
        assert futures[0].result().scores == scorer.score(DOCUMENTS, SUMMARIES).scores
        with pytest.raises(ValueError, match="must have the same length, but got 1 and 2"):
            bad.result()
        assert threads()
    assert futures[1].done() and not threads()
    with pytest.raises(RuntimeError, match="after shutdown"):
        background.score_async(["a"], ["b"])


def test_the_thread_captures_no_graphs(monkeypatch, scorer):
    monkeypatch.setattr(scorer, "score", lambda *texts: this_thread.captures_graphs)
    with BackgroundScorer(scorer) as background:
        assert background.score_async(DOCUMENTS, SUMMARIES).result() is False
    assert this_thread.captures_graphs


def test_what_has_not_begun_is_dropped_after_an_exception(scorer, monkeypatch):
    begun, free = threading.Event(), threading.Event()

    def score(documents, summaries):
        begun.set()
        free.wait(10)

    monkeypatch.setattr(scorer, "score", score)
    with pytest.raises(KeyError), BackgroundScorer(scorer) as background:
        running = background.score_async([], [])
        begun.wait(10)
        waiting = background.score_async([], [])
        threading.Timer(0.1, free.set).start()
        raise KeyError
    assert running.done() and waiting.cancelled() and not threads()


def test_a_process_scores_and_its_exceptions_arrive(scorer, qagen_folder):
    with BackgroundScorer.in_process(str(qagen_folder), threads=1, **SETTINGS) as background:
        found = background.score_async(DOCUMENTS, SUMMARIES)
        bad = background.score_async(["a"], ["b", "c"])
        assert found.result().scores == scorer.score(DOCUMENTS, SUMMARIES).scores
        with pytest.raises(ValueError, match="must have the same length"):
            bad.result()
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            background.score_async(DOCUMENTS, SUMMARIES).result()
    assert not multiprocessing.active_children()


def test_a_model_that_cannot_be_loaded_is_said_with_the_first_result():
    with BackgroundScorer.in_process("no-such-model") as background:
        future = background.score_async(["a"], ["b"])
        with pytest.raises(CheckpointError, match="'no-such-model' is neither bundled"):
            future.result()
