"""A service in the test's own process, and a scorer that waits to be let through."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx

from quals_fast.serving.limits import Limits
from quals_fast.serving.server import address, listen, run
from quals_fast.serving.service import Service


class Gate:
    """A scorer that scores when it is opened, and keeps what it was asked for."""

    def __init__(self, scorer, *, is_open=False):
        self._scorer, self._open = scorer, threading.Event()
        self.batches = []  # the summaries of each
        self.fails_on = {}  # by summary, what is raised
        if is_open:
            self.open()

    def __getattr__(self, name):
        return getattr(self._scorer, name)

    def open(self):
        self._open.set()

    def score(self, documents, summaries, **arguments):
        assert self._open.wait(20)
        self.batches.append(list(summaries))
        for summary in summaries:
            if summary in self.fails_on:
                raise self.fails_on[summary]
        return self._scorer.score(documents, summaries, **arguments)


@asynccontextmanager
async def serving(scorer, *, token=None, **limits):
    """Run a service with a scorer; yield it with a client, as soon as it is ready."""
    ready = asyncio.Event()
    service = Service(lambda: scorer, Limits(**limits), token=token, on_ready=ready.set)
    async with service.app.router.lifespan_context(service.app):
        await asyncio.wait_for(ready.wait(), 20)
        async with client_of(service) as client:
            yield service, client


def client_of(service):
    return httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://test")


async def until(condition):
    """Wait until something is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def call(app, content, *, path="/v1/score", then=()):
    """Post JSON as a server would; return what was sent back.

    Args:
        app: the application.
        content: of the request.
        path: of the request.
        then: messages that arrive after the body; without more of them, the client waits.
    """
    incoming = asyncio.Queue()
    for message in ({"type": "http.request", "body": json.dumps(content).encode()}, *then):
        incoming.put_nowait(message)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
    }  # fmt: skip
    await app(scope, incoming.get, send)
    return sent


@contextmanager
def listening(scorer, *, token=None, **limits):
    """Run a service behind a real socket, in a thread; yield its URL as soon as it is ready."""
    ready = threading.Event()
    service = Service(lambda: scorer, Limits(**limits), token=token, on_ready=ready.set)
    with listen("127.0.0.1", 0) as sock:
        url = address(sock)
        thread = threading.Thread(target=run, args=(service, sock))
        thread.start()
        try:
            assert ready.wait(20)
            yield url
        finally:
            service.is_stopping = True
            thread.join(20)
            assert not thread.is_alive()
