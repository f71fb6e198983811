"""QualsMetric and QualsCallback in two processes, with uneven rows and with none."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from tiny_trainers import DOCUMENTS, SUMMARIES, seq2seq_trainer

from quals_fast.training import QualsCallback, QualsMetric

ROWS = [slice(0, 3), slice(3, 3)], [slice(0, 1), slice(1, 4)]  # of each process, in two cases
COUNTS = (1, 3)  # documents that the processes share
GENERATE = {"max_new_tokens": 8, "min_new_tokens": 3}


def mean_of(scorer, own):
    metric = QualsMetric(scorer)
    if SUMMARIES[own]:
        metric.update(SUMMARIES[own], DOCUMENTS[own])
    return metric.compute().item()


def evaluated(scorer, folder, count):
    host = seq2seq_trainer(folder)
    host.add_callback(QualsCallback(host, DOCUMENTS[:count], scorer, generate=GENERATE))
    return {name: value for name, value in host.evaluate().items() if "quals" in name}


def on_rank(rank, port, scorer, folder):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ["MASTER_ADDR"] = "localhost"
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    means = [mean_of(scorer, case[rank]) for case in ROWS]
    metrics = [evaluated(scorer, folder, count) for count in COUNTS]
    torch.save((means, metrics), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(scorer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(on_rank, (port, scorer, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_a_metric_is_the_mean_of_all(of_ranks, scorer):
    scores = scorer.score(DOCUMENTS, SUMMARIES).scores
    expected = [sum(scores[:3]) / 3, sum(scores) / 4]
    for means, _ in of_ranks:
        assert means == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", range(len(COUNTS)))
def test_a_callback_logs_what_one_process_would(of_ranks, scorer, tmp_path, case):
    expected = evaluated(scorer, tmp_path, COUNTS[case])
    assert expected["eval_quals_scored"] == COUNTS[case]
    for _, metrics in of_ranks:
        assert metrics[case] == pytest.approx(expected, abs=1e-6)
