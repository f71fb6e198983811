"""A server of `quals-fast serve` and the clients that send it requests over the loopback."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bench.shared.common import Pair
from bench.shared.timing import seconds_of

#: Settings of a search that takes little time.
FEW_BEAMS: dict[str, Any] = {"num_beams": 4, "num_beam_groups": 4, "max_length": 12}
WORDS = 60  # of a document that takes little time


class Server(NamedTuple):
    """A server that is ready.

    Attributes:
        url: where it listens.
        pid: of its process.
        seconds: from the launch until it was ready.
    """

    url: str
    pid: int
    seconds: float


def shortened(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with the first words of their documents."""
    return [pair._replace(document=" ".join(pair.document.split()[:WORDS])) for pair in pairs]


@contextmanager
def served(command: Sequence[str], **settings: Any) -> Iterator[Server]:
    """Start `quals-fast serve` on any free port.

    Args:
        command: the program and its arguments.
        settings: for `subprocess.Popen`.

    Raises:
        RuntimeError: it did not start.
    """
    begin = time.perf_counter()
    arguments = [*command, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, **settings) as process:
        try:
            assert process.stderr is not None
            printed = ""
            while not printed.endswith("ready\n"):  # asking /ready would slow the start down
                line = process.stderr.readline()
                printed += line
                if not line:
                    raise RuntimeError(f"the server did not start: {printed}")
            seconds = time.perf_counter() - begin
            url = printed.split("listening on ")[1].split()[0]
            yield Server(url, process.pid, seconds)
        finally:
            process.terminate()


class Load(NamedTuple):
    """What clients measured.

    Attributes:
        seconds: until all were answered.
        latencies: of each request, seconds.
        scores: of each request; None without one.
    """

    seconds: float
    latencies: list[float]
    scores: list[float | None]


def load(url: str, pairs: Sequence[Pair], clients: int) -> Load:
    """Send each pair in a request of its own, in order, from so many clients at once."""
    latencies = [0.0] * len(pairs)
    scores: list[float | None] = [None] * len(pairs)
    waiting = iter(enumerate(pairs))
    taking = threading.Lock()
    failures: list[str] = []

    def work() -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=600)
        headers = {"Content-Type": "application/json"}
        while True:
            with taking:
                index, pair = next(waiting, (-1, None))
            if pair is None:
                return
            body = json.dumps({"document": pair.document, "summary": pair.summary})
            begin = time.perf_counter()
            connection.request("POST", "/v1/score", body, headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            latencies[index] = time.perf_counter() - begin
            if answer.status != 200:
                failures.append(f"status {answer.status}: {content}")
                return
            scores[index] = content["score"]

    threads = [threading.Thread(target=work) for _ in range(clients)]

    def run() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    seconds = seconds_of(run)
    if failures or 0.0 in latencies:
        raise RuntimeError(f"requests failed: {failures[:1] or 'no answer'}")
    return Load(seconds, latencies, scores)


def command_of(model: Path, **options: str | int) -> list[str]:
    """Return the command that serves a model with options, whose names have underscores here."""
    program = [sys.executable, "-m", "quals_fast", "serve"]
    given = {"model": str(model), "device": "cpu", **options}
    named = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return [*program, *chain.from_iterable(named)]
