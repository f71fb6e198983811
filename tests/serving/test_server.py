"""The command with real processes and sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import httpx
import pytest
from cli_helpers import assert_usage_error
from click.testing import CliRunner
from exported_folders import DOCUMENTS, SUMMARIES
from services import listening

from quals_fast.commands.app import app
from quals_fast.serving import server
from quals_fast.serving.limits import Limits
from quals_fast.serving.server import SAME_SIGNAL_SECONDS, listen
from quals_fast.serving.service import Service

SETTINGS = "--num-beams 6 --num-beam-groups 6 --min-length 2 --max-length 12".split()
# The slim install has no torch.
MAIN = "from quals_fast.commands.app import main; main()"
WITHOUT_TORCH = f"import sys; sys.modules['torch'] = None; {MAIN}"
get, post = partial(httpx.get, timeout=120), partial(httpx.post, timeout=120)  # on a busy machine
TEXTS = {"document": DOCUMENTS[0], "summary": SUMMARIES[0]}


@contextmanager
def served(model, *options, code=MAIN, **variables):
    """Start `quals-fast serve`; yield process and URL as soon as it is ready."""
    command = [
        sys.executable, "-c", code, "serve", "--model", str(model), "--port", "0", *SETTINGS,
        *options,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = re.fullmatch(r"listening on (\S+)\n", process.stderr.readline())[1]
            wait_until_ready(url)
            yield process, url
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_ready(url):
    end = time.monotonic() + 300
    while get(f"{url}/ready").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


def stopped(process):
    """Send SIGTERM; return exit code and what else was printed."""
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=120)
    return process.returncode, printed


def test_from_start_to_sigterm(one_layer_model, scorer):
    """A score is the library's, and a request in flight is answered after SIGTERM."""
    (row,) = scorer.score([TEXTS["document"]], [TEXTS["summary"]])
    options = ("--dtype", "float32", "--max-wait-ms", "3000")
    known = {"headers": {"Authorization": "Bearer secret"}}
    with served(one_layer_model, *options, QUALS_FAST_TOKEN="secret") as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert post(f"{url}/v1/score", json=TEXTS).status_code == 401
        answers = []
        in_flight = threading.Thread(
            target=lambda: answers.append(post(f"{url}/v1/score", json=TEXTS, **known))
        )
        in_flight.start()
        while "quals_fast_queue_pairs 1.0" not in get(f"{url}/metrics", **known).text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert get(f"{url}/health").status_code == 200
        refused = post(f"{url}/v1/score", json=TEXTS, **known)
        assert (refused.status_code, refused.json()["error"]) == (503, "the service is stopping")
        in_flight.join()
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 0
    assert printed == "ready\n"
    assert answers[0].json()["score"] == pytest.approx(row.score, abs=1e-5)
    with pytest.raises(httpx.ConnectError):
        get(f"{url}/health")


def test_without_torch(exported, scorer):
    folder, _ = exported["float32"]
    (row,) = scorer.score([TEXTS["document"]], [TEXTS["summary"]])
    with served(folder, code=WITHOUT_TORCH) as (process, url):
        answer = post(f"{url}/v1/score", json=TEXTS).json()
        assert "|backend:onnx-cpu|" in answer["signature"]
        assert answer["score"] == pytest.approx(row.score, abs=1e-4)
        assert stopped(process) == (0, "ready\n")


def test_a_second_sigterm_ends_it_at_once(exported):
    folder, _ = exported["float32"]
    waits = ("--max-batch", "2", "--max-wait-ms", "60000")  # for a second pair
    with served(folder, *waits, code=WITHOUT_TORCH) as (process, url):

        def cut_off():
            with pytest.raises(httpx.RemoteProtocolError):
                post(f"{url}/v1/score", json=TEXTS)

        in_flight = threading.Thread(target=cut_off)
        in_flight.start()
        while "quals_fast_queue_pairs 1.0" not in get(f"{url}/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while get(f"{url}/ready").json() != {"error": "the service is stopping"}:
            time.sleep(0.01)
        time.sleep(1.5 * SAME_SIGNAL_SECONDS)
        assert process.poll() is None
        began = time.monotonic()
        assert stopped(process) == (0, "ready\n")
        assert time.monotonic() - began < 30
        in_flight.join()


def test_a_signal_that_comes_from_two_processes_counts_once(scorer, monkeypatch):
    now, codes = [100.0], []
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(server.os, "_exit", codes.append)
    service = Service(lambda: scorer, Limits())
    process = server._Server(service)
    process.handle_exit(signal.SIGTERM, None)
    assert service.is_stopping
    now[0] += SAME_SIGNAL_SECONDS
    process.handle_exit(signal.SIGTERM, None)
    assert codes == []
    now[0] += 0.01
    process.handle_exit(signal.SIGTERM, None)
    assert codes == [0]


def test_a_signal_while_workers_start_reaches_all_of_them(monkeypatch):
    running, signals = [], [signal.SIGTERM]

    class Worker:
        exitcode = 0

        def __init__(self, **_):
            self.sentinel, self._end = os.pipe()

        def start(self):
            running.append(self)
            if signals:  # after the first has started
                signal.raise_signal(signals.pop())

        def is_alive(self):
            return self in running

        def terminate(self):
            running.remove(self)
            os.close(self._end)

        def join(self):
            assert not self.is_alive()
            os.close(self.sentinel)

    monkeypatch.setattr(server, "get_context", lambda _: SimpleNamespace(Process=Worker))
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert server.run_workers(3, print) == 0
    finally:
        for sig, handler in handlers.items():
            signal.signal(sig, handler)


@pytest.mark.slow
def test_two_workers(one_layer_model, scorer):
    (row,) = scorer.score([TEXTS["document"]], [TEXTS["summary"]])
    options = ("--workers", "2", "--dtype", "float32")
    with served(one_layer_model, *options) as (process, url):
        for _ in range(2):
            assert process.stderr.readline() == "ready\n"
        for _ in range(20):
            answer = post(f"{url}/v1/score", json=TEXTS).json()
            assert answer["score"] == pytest.approx(row.score, abs=1e-5)
        figures = get(f"{url}/metrics").text  # of both, whichever is asked
        assert '\nquals_fast_requests_total{code="200"} 20.0\n' in figures
        assert stopped(process) == (0, "")


def refusal(*arguments, **variables):
    return CliRunner(env=variables).invoke(app, ["serve", *arguments])


def test_answers_do_not_wait_for_acknowledgements():
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        connection, _ = sock.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        assert_usage_error(
            refusal("--port", port),
            f"cannot listen on 127.0.0.1, port {port}: Address already in use … --port",
        )


def test_an_address_that_is_not_of_this_machine():
    assert_usage_error(refusal("--host", "192.0.2.1"), "cannot listen on 192.0.2.1, port 8000: ")
    assert_usage_error(refusal("--host", "no such host"), "cannot listen on no such host, port")


def test_token_files(tmp_path):
    path = tmp_path / "token"
    given = ["--token-file", str(path)]
    assert_usage_error(refusal(*given), f"cannot read the token file {path}: No such file")
    path.write_text("secret\n")
    path.chmod(0o644)
    assert_usage_error(refusal(*given), "others may use … (mode 644); run: chmod 600")
    path.chmod(0o640)
    assert_usage_error(refusal(*given), "others may use … (mode 640); run: chmod 600")
    path.chmod(0o600)
    twice = refusal(*given, QUALS_FAST_TOKEN="other")
    assert_usage_error(twice, "must be in one place, but … --token-file and QUALS_FAST_TOKEN")
    path.write_text("two words")
    assert_usage_error(refusal(*given), "must hold one token of visible ASCII characters")
    path.write_bytes(b"\xff")
    assert_usage_error(refusal(*given), "must hold one token of visible ASCII characters")
    empty = refusal(QUALS_FAST_TOKEN=" ")
    assert_usage_error(empty, "QUALS_FAST_TOKEN must hold one token … but is empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queue", "3"], "`queue` must be at least `max_request_pairs`, but got 3 and 64"),
        (["--max-batch", "0"], "`max_batch` must be at least 1, but got 0"),
        (["--max-wait-ms", "nan"], "`max_wait_ms` must be a finite number"),
    ],
)
def test_limits_that_make_no_sense(arguments, message):
    assert_usage_error(refusal(*arguments), message)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_model_that_cannot_be_loaded(tmp_path, workers):
    command = [sys.executable, "-m", "quals_fast", "serve", "--port", "0", "--workers", workers]
    done = subprocess.run(
        [*command, "--model", "none", "--backend", "onnx"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Error: 'none' is not a folder" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_extras_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    expected = 'serve needs Starlette … pip install ".[serve]" in the checkout'
    assert_usage_error(refusal(), expected)


def exchange(url, *parts, pause=0.05):
    """Send bytes with pauses; return what comes back."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        try:
            for part in parts:
                sock.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return b"".join(iter(lambda: sock.recv(2**16), b""))


def test_connections_on_which_no_request_arrives_are_closed(scorer, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.5)
    head = b"GET /health HTTP/1.1\r\nHost: t\r\n"
    with listening(scorer) as url:
        assert exchange(url) == b""
        assert exchange(url, *[head[i : i + 1] for i in range(len(head))]) == b""  # for 1.8 s
        answered = exchange(url, head + b"\r\n", head)  # and half of a second request
        assert answered.count(b"HTTP/1.1 200 OK") == 1
        slow = exchange(url, head, b"\r\n" + head, b"Connection: close\r\n\r\n", pause=0.3)
        assert slow.count(b"HTTP/1.1 200 OK") == 2  # each within its time


def test_a_client_that_does_not_read_its_answer_does_not_keep_the_service_alive(
    scorer, monkeypatch
):
    monkeypatch.setattr(server, "CLOSE_SECONDS", 0.5)
    document = f"{DOCUMENTS[0]} {'word ' * 19_000}"  # 64 times more than sockets buffer
    content = json.dumps({"document": document, "summaries": [SUMMARIES[0]] * 64}).encode()
    head = b"POST /v1/explain HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        with listening(scorer) as url:
            sock.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
        with pytest.raises(httpx.ConnectError):
            get(f"{url}/health")


@pytest.mark.slow
def test_a_slow_body_over_the_limit_and_a_flood(one_layer_model):
    """Others are answered meanwhile; 2,000 at once get a score or 429, and nothing breaks."""
    head = b"POST /v1/score HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\n"
    limits = ("--max-body", "1000", "--queue", "64")
    with served(one_layer_model, *limits) as (process, url):
        slow = []
        body = [b"64\r\n" + b" " * 100 + b"\r\n"] * 12
        sending = threading.Thread(
            target=lambda: slow.append(
                exchange(url, head + b"Transfer-Encoding: chunked\r\n\r\n", *body)
            )
        )
        sending.start()
        assert post(f"{url}/v1/score", json=TEXTS).status_code == 200
        sending.join()
        assert slow[0].startswith(b"HTTP/1.1 413 ")
        declared = exchange(url, head + b"Content-Length: 1001\r\n\r\n", b" " * 500, b" " * 501)
        assert declared.startswith(b"HTTP/1.1 413 ")
        assert exchange(url, b"\0\0\r\n\r\n").startswith(b"HTTP/1.1 400 ")

        content = json.dumps(TEXTS).encode()
        request = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
        host, _, port = url.removeprefix("http://").partition(":")
        sockets = [socket.create_connection((host, int(port)), timeout=120) for _ in range(2000)]
        for sock in sockets:
            sock.sendall(request)
        answers = [b"".join(iter(lambda s=sock: s.recv(2**16), b"")) for sock in sockets]
        codes = [int(answer.split()[1]) for answer in answers]
        assert set(codes) == {200, 429}
        assert codes.count(200) >= 64
        for answer, code in zip(answers, codes, strict=True):
            assert (b"retry-after: " in answer.lower()) == (code == 429)
        for sock in sockets:
            sock.close()
        assert post(f"{url}/v1/score", json=TEXTS).status_code == 200
        code, printed = stopped(process)
        assert code == 0
        assert "Traceback" not in printed
