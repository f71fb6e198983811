"""Arms in processes of their own."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from bench.shared import turns


def work(pipe):
    threading.Thread(target=turns._end_with_parent, daemon=True).start()
    pipe.send("begun")
    time.sleep(60)


def start_arm(pipe):
    multiprocessing.get_context("fork").Process(target=work, args=(pipe,)).start()
    time.sleep(60)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_arm_ends_when_the_benchmark_is_killed():
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    benchmark = context.Process(target=start_arm, args=(there,))
    benchmark.start()
    there.close()
    assert here.recv() == "begun"
    assert not here.poll(0.5)  # an arm goes on while its benchmark does
    os.kill(benchmark.pid, signal.SIGKILL)
    assert here.poll(30)
    with pytest.raises(EOFError):  # nobody holds the other end any more
        here.recv()
