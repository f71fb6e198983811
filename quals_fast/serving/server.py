"""Run the service: a socket, Uvicorn, signals, several processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import connection, get_context
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from quals_fast.errors import InputError
from quals_fast.serving.service import Service

CLOSE_SECONDS = 30  # for which a client may take to read its answer when the service stops
SAME_SIGNAL_SECONDS = 0.5  # systemd signals every process, and the first passes its signal on
IDLE_SECONDS = 30  # for which a connection may take to send the headers of its next request


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: the address cannot be had, for example because the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another --host or "
            "--port"
        ) from error
    # Connections inherit it. Otherwise a body waits 40 ms for the acknowledgement of its headers;
    # asyncio sets it only where a socket's `proto` is given, which `create_server` leaves at 0.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def address(sock: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Protocol(H11Protocol):
    """HTTP that closes a connection whose next request does not begin in time.

    Uvicorn does so after an answer, as long as nothing arrives. Here, the first request has the
    same time, and what is less than a request's headers does not stop the clock.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Stop the clock only if a request begins."""
        clock, last = self.timeout_keep_alive_task, self.cycle
        super().data_received(data)
        if clock is not None and self.cycle is last and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_at(
                clock.when(), self.timeout_keep_alive_handler
            )


class _Server(uvicorn.Server):
    """A server that, asked to stop, first refuses new requests and finishes the others."""

    def __init__(self, service: Service) -> None:
        config = uvicorn.Config(
            service.app, http=_Protocol, ws="none", loop="asyncio", lifespan="on", log_config=None,
            log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=CLOSE_SECONDS, timeout_keep_alive=IDLE_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self._service = service
        self._asked_to_stop = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the second time, stop at once."""
        now = time.monotonic()
        if not self._service.is_stopping:
            self._service.is_stopping, self._asked_to_stop = True, now
        elif now > self._asked_to_stop + SAME_SIGNAL_SECONDS:
            os._exit(0)  # anything else would wait for the batch that is being scored

    async def on_tick(self, counter: int) -> bool:
        """Return whether to close all connections: when all is done, or nothing can be."""
        service = self._service
        if service.failure is not None or (service.is_stopping and service.is_idle):
            self.should_exit = True
        return await super().on_tick(counter)


def run(service: Service, sock: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        Exception: whatever loading the scorer raised.
    """
    _Server(service).run(sockets=[sock])
    if service.failure is not None:
        raise service.failure


def run_workers(n: int, work: Callable[..., None], *arguments: Any) -> int:
    """Run a function in several new processes until SIGTERM or Ctrl-C, or until one of them ends.

    Returns:
        0 after a signal, otherwise the exit code of the process that ended, at least 1.
    """
    context = get_context("spawn")
    processes = [context.Process(target=work, args=arguments) for _ in range(n)]
    received: list[int] = []

    def pass_on(sig: int, frame: FrameType | None = None) -> None:
        received.append(sig)
        for process in processes:
            if sig == signal.SIGTERM and process.is_alive():
                process.terminate()  # a terminal's Ctrl-C reaches them by itself

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    for process in processes:
        process.start()
    if received:  # perhaps before the last of them had started
        pass_on(signal.SIGTERM)
    ended = connection.wait([process.sentinel for process in processes])
    failed = None if received else next(one for one in processes if one.sentinel in ended)
    if failed is not None:  # to those that are stopping, it would be a second signal
        pass_on(signal.SIGTERM)
    for process in processes:
        process.join()
    return 0 if failed is None else max(failed.exitcode or 0, 1)
