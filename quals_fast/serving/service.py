"""The service: its state, its routes, and what a request goes through."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from quals_fast import __version__
from quals_fast.jobs.scoring import score_together
from quals_fast.results import RowScore, signed_row
from quals_fast.scorer import QualsScorer
from quals_fast.serving.batcher import (
    Batcher,
    BatchFailedError,
    QueueFullError,
    Waiting,
    log_failure,
    pairs_at_once,
)
from quals_fast.serving.limits import Limits, Refused
from quals_fast.serving.metrics import Metrics
from quals_fast.serving.openapi import METRICS_TYPE, openapi
from quals_fast.serving.requests import Asked, Pair, parse, read_body

WARM_UP = Pair("Queen Anne opened the bridge in 1962.", "Anne opened the bridge.")
WARM_UP_TOKENS = 3  # of a search, where a step is like any other


class Service:
    """Scores for one process; `app` is what a server runs.

    Args:
        load: loads the scorer; runs in the thread that scores.
        limits: of requests, queue and batches.
        token: that requests must have, or None.
        on_ready: called when scores can be asked for.

    Attributes:
        is_stopping: set it to refuse new requests.
        failure: why the scorer could not be loaded, or why nothing is scored any more; or None.
    """

    def __init__(
        self,
        load: Callable[[], QualsScorer],
        limits: Limits,
        *,
        token: str | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._load, self._limits, self._on_ready = load, limits, on_ready
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._metrics = Metrics()
        self._thread = ThreadPoolExecutor(1, "quals_fast scoring")
        self._batcher: Batcher | None = None  # None until the scorer is warm
        self._facts: dict[str, Any] = {}
        self.is_stopping = False
        self.failure: BaseException | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was accepted is still to be scored."""
        return self._batcher is None or self._batcher.is_idle

    @cached_property
    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._page),
            Route("/v1/score", self._score, methods=["POST"]),
            Route("/v1/explain", self._explain, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/info", self._info),
            Route("/metrics", self._show_metrics),
            Route("/openapi.json", self._openapi),
        ]
        handlers: Any = {HTTPException: _http_error, Refused: _refused}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False  # it would redirect to whatever host a request names
        return app

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self._run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        """Load and warm the scorer, then score; note why that ends."""
        try:
            await self._load_and_score()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a panic of the tokenizer is not an Exception
            self.failure = error
            if self._batcher is not None:
                log_failure("scoring has ended", error)

    async def _load_and_score(self) -> None:
        loop = asyncio.get_running_loop()
        scorer = await loop.run_in_executor(self._thread, self._warm)
        limits = self._limits
        max_batch = limits.max_batch or pairs_at_once(scorer)
        self._facts = {
            "version": __version__,
            "model": scorer.engine.model.name,
            "signature": scorer.signature,
            "limits": limits.to_dict() | {"max_batch": max_batch},
        }
        self._batcher = Batcher(
            lambda pairs: score_together(scorer, pairs),
            self._thread,
            max_batch=max_batch,
            max_wait=limits.max_wait_ms / 1000,
            max_queue=limits.queue,
            metrics=self._metrics,
        )
        self._on_ready()
        await self._batcher.run()

    def _warm(self) -> QualsScorer:
        """Load the scorer and use each of its parts once: first calls are slow."""
        scorer = self._load()
        if scorer.engine.model.runs_as()["kernels"] != "none":  # they are compiled for a length
            scorer.score([WARM_UP.document], [WARM_UP.summary])
            return scorer
        few = replace(scorer.decoding, min_length=0, max_length=WARM_UP_TOKENS)
        searching = QualsScorer(scorer.engine, decoding=few)
        (found,) = searching.generate([WARM_UP.summary])
        scorer.rescore([WARM_UP.document], [[one.token_ids for one in found[:1]]])
        return scorer

    async def _score(self, request: Request) -> Response:
        """POST /v1/score."""

        def rows(asked: Asked, results: list[RowScore]) -> Response:
            signature = self._facts["signature"]
            content = [
                signed_row(result, signature, include_pairs=asked.include_pairs, include_spans=True)
                for result in results
            ]
            return _json(content[0] if asked.is_single else {"results": content})

        return await self._answer(request, rows)

    async def _explain(self, request: Request) -> Response:
        """POST /v1/explain."""

        def page(asked: Asked, results: list[RowScore]) -> Response:
            from quals_fast.serving.page import explain_page

            return HTMLResponse(explain_page(asked.pairs, results, self._facts["signature"]))

        return await self._answer(request, page)

    async def _answer(
        self, request: Request, write: Callable[[Asked, list[RowScore]], Response]
    ) -> Response:
        """Score what a request asks for, or say why not; count both."""
        began = asyncio.get_running_loop().time()
        try:
            asked, results = await self._scored(request)
            response = await asyncio.to_thread(write, asked, results)  # pages may be long
        except Refused as refused:
            response = _refused(request, refused)
        except ClientDisconnect:
            response = Response(status_code=499)  # which nobody reads
        except Exception as error:
            if not isinstance(error, BatchFailedError):  # which has been logged
                log_failure("a request failed", error)
            response = _json({"error": "the request could not be scored; see the log"}, 500)
        self._metrics.requests.labels(response.status_code).inc()
        if response.status_code == 200:  # refusals, which take no time, would hide slow scores
            self._metrics.seconds.observe(asyncio.get_running_loop().time() - began)
        return response

    async def _scored(self, request: Request) -> tuple[Asked, list[RowScore]]:
        """Check a request, in the order of what costs least, and wait for its results."""
        self._check_token(request)
        self._open_batcher()
        body = await read_body(request, self._limits.max_body)
        asked = parse(body, self._limits)
        try:
            futures = self._open_batcher().submit(asked.pairs)  # it may have stopped meanwhile
        except QueueFullError as error:
            raise Refused(
                429,
                "too many pairs wait; try again later",
                headers={"Retry-After": str(error.retry_after)},
            ) from None
        return asked, await _results(request, futures)

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        scheme, _, token = given.partition(b" ")
        given = scheme.title() + b" " + token.strip()
        if self._authorization is None or hmac.compare_digest(given, self._authorization):
            return
        raise Refused(
            401,
            "a token is needed; send Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _open_batcher(self) -> Batcher:
        if self.failure is not None:
            raise Refused(503, "the service has failed; see the log")
        if self._batcher is None or self.is_stopping:
            state = "stopping" if self.is_stopping else "starting"
            raise Refused(503, f"the service is {state}", headers={"Retry-After": "1"})
        return self._batcher

    async def _health(self, request: Request) -> Response:
        if self.failure is not None:
            return _json({"status": "failed"}, 503)
        return _json({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        self._open_batcher()
        return _json({"status": "ready"})

    async def _info(self, request: Request) -> Response:
        self._check_token(request)
        self._open_batcher()
        return _json(self._facts)

    async def _show_metrics(self, request: Request) -> Response:
        self._check_token(request)
        return Response(self._metrics.text(), headers={"Content-Type": METRICS_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return _json(openapi(self._limits, needs_token=self._authorization is not None))

    async def _page(self, request: Request) -> Response:
        from quals_fast.serving.page import CONTENT_POLICY, front_page

        return HTMLResponse(front_page(), headers={"Content-Security-Policy": CONTENT_POLICY})


async def _results(request: Request, futures: list[Waiting]) -> list[RowScore]:
    """Wait for results as long as the client does; then those that still wait are dropped."""
    all_done: asyncio.Future[Any] = asyncio.ensure_future(asyncio.wait(futures))
    gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())  # only a disconnect comes
    try:
        await asyncio.wait({all_done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not all(future.done() for future in futures):
            raise ClientDisconnect
        for error in [future.exception() for future in futures]:
            if error is not None:
                raise error
        return [future.result() for future in futures]
    finally:
        for future in (all_done, gone, *futures):
            future.cancel()


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response of ASCII: JSON escapes lone surrogates too."""
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


def _refused(request: Request, refused: Any) -> Response:
    return _json(refused.to_dict(), refused.status, refused.headers)


def _http_error(request: Request, error: Any) -> Response:
    """Answer in JSON where the router finds no route or method."""
    return _json({"error": error.detail}, error.status_code, error.headers)
