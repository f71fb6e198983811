"""`quals-fast serve`: scores over HTTP."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quals_fast.commands.options import (
    CALIBRATION,
    QUIET,
    SCORER_OPTIONS,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import fetch_model, quals_scorer, require, usage_errors
from quals_fast.commands.streams import UsageFailure
from quals_fast.errors import BackendUnavailableError, InputError
from quals_fast.exported.manifest import is_exported
from quals_fast.processes import cpu_limit
from quals_fast.serving.limits import Limits, check_token, read_token

if TYPE_CHECKING:
    import socket

    from quals_fast.scorer import QualsScorer

LIMITS = Limits()
TOKEN_VARIABLE = "QUALS_FAST_TOKEN"
CACHE_MIB = 256

SERVER_OPTIONS = (
    click.option("--host", default="127.0.0.1", metavar="ADDRESS",
                 help="Address to listen on. By default, only this machine can connect; 0.0.0.0 "
                      "lets others connect."),
    click.option("--port", type=click.IntRange(0, 65535), default=8000,
                 help="Port to listen on; 0 takes any free one."),
    click.option("--token-file", metavar="FILE",
                 help="File with a token that requests must send as Authorization: Bearer TOKEN. "
                      "Only its owner may have access to it. The token can also be in the "
                      f"environment variable {TOKEN_VARIABLE}."),
    click.option("--workers", type=click.IntRange(1), default=1,
                 help="Processes, each with a model and a queue of its own. They share the cores."),
    CALIBRATION,
    QUIET,
)  # fmt: skip
BATCH_OPTIONS = (
    click.option("--max-wait-ms", type=float, default=LIMITS.max_wait_ms,
                 help="Milliseconds for which a pair waits for others while nothing is scored."),
    click.option("--max-batch", type=int, metavar="PAIRS", default=None,
                 help="Pairs to score together. By default, as many as the engine's token budget "
                      "(--max-batch-tokens) holds."),
    click.option("--cache-mib", type=click.IntRange(0), default=None, metavar="MIB",
                 help="Memory for encoded documents that later requests need again. By default, "
                      f"{CACHE_MIB}; exported models keep none."),
)  # fmt: skip
LIMIT_OPTIONS = (
    click.option("--queue", type=int, default=LIMITS.queue, metavar="PAIRS",
                 help="Pairs that may wait. Requests beyond that are refused with status 429."),
    click.option("--max-body", type=int, default=LIMITS.max_body, metavar="BYTES",
                 help="Size of a request's body."),
    click.option("--max-request-pairs", type=int, default=LIMITS.max_request_pairs, metavar="PAIRS",
                 help="Pairs of document and summary in a request."),
    click.option("--max-characters", type=int, default=LIMITS.max_characters,
                 help="Characters of a text."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups(
    {"Server": SERVER_OPTIONS, "Batches": BATCH_OPTIONS, "Limits": LIMIT_OPTIONS, **SCORER_OPTIONS}
)
def serve(
    host: str,
    port: int,
    token_file: str | None,
    workers: int,
    max_wait_ms: float,
    max_batch: int | None,
    queue: int,
    max_body: int,
    max_request_pairs: int,
    max_characters: int,
    **options: Any,
) -> None:
    """Score over HTTP.

    POST /v1/score takes JSON with a document and a summary, a document and a list of summaries, or
    a list of pairs. Pairs that arrive at about the same time are scored together. The page at /
    scores one summary and shows its worst questions. /openapi.json describes the rest.

    \b
    Start, and score from another terminal:
      quals-fast serve
      curl http://127.0.0.1:8000/v1/score -H 'Content-Type: application/json' \\
        -d '{"document": "Anne opened it in 1962.", "summary": "It opened in 1962."}'

    SIGTERM and Ctrl-C stop the service once all accepted requests are answered; a second one stops
    it at once. Exit codes: 0 after either, 2 if the service cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    require(
        "starlette", "uvicorn", "prometheus_client",
        message='serve needs Starlette, Uvicorn and prometheus-client: pip install ".[serve]" '
        "in the checkout",
    )  # fmt: skip
    from quals_fast.serving.metrics import SHARED_FOLDER
    from quals_fast.serving.server import address, listen, run_workers

    with usage_errors(InputError, ValueError, TypeError):
        limits = Limits(
            max_body=max_body,
            max_request_pairs=max_request_pairs,
            max_characters=max_characters,
            queue=queue,
            max_wait_ms=max_wait_ms,
            max_batch=max_batch,
        )
        token = _token(token_file)
        sock = listen(host, port)
    options = fetch_model(options)
    _say(options, f"listening on {address(sock)}")
    if workers == 1:
        _run(options, limits, token, sock)
        return
    if options["threads"] is None:
        options["threads"] = max(1, (cpu_limit() or os.cpu_count() or 1) // workers)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[SHARED_FOLDER] = folder
        sys.exit(run_workers(workers, _work, options, limits, token, sock))


def _run(options: dict[str, Any], limits: Limits, token: str | None, sock: socket.socket) -> None:
    """Serve in this process."""
    from quals_fast.serving.server import run
    from quals_fast.serving.service import Service

    service = Service(
        partial(_load, options), limits, token=token, on_ready=lambda: _say(options, "ready")
    )
    with usage_errors(ValueError, BackendUnavailableError, ModuleNotFoundError):
        run(service, sock)


def _work(*arguments: Any) -> None:
    """Serve in one of several processes."""
    try:
        _run(*arguments)
    except UsageFailure as error:
        error.show()
        sys.exit(error.exit_code)


def _load(options: dict[str, Any]) -> QualsScorer:
    is_onnx = options["backend"] == "onnx" or is_exported(Path(options["model"]))
    if not is_onnx and find_spec("torch") is not None:
        _import_torch()
    mib = options["cache_mib"]
    if mib is None:
        mib = 0 if is_onnx else CACHE_MIB
    return quals_scorer(options, cache_bytes=mib * 2**20)


def _import_torch() -> None:
    """Import what runs models with PyTorch: 200,000 objects.

    The garbage collector would look through them again and again, an eighth of the time.
    """
    gc.disable()
    try:
        import quals_fast.models.loading  # noqa: F401
    finally:
        gc.enable()


def _say(options: dict[str, Any], line: str) -> None:
    if not options["quiet"]:
        click.echo(line, err=True)


def _token(path: str | None) -> str | None:
    """Return the token from the file or the environment, or None if there is none.

    Raises:
        InputError: it is in both, or cannot be used.
    """
    from_environment = os.environ.get(TOKEN_VARIABLE)
    if path is None:
        if from_environment is None:
            return None
        return check_token(from_environment, TOKEN_VARIABLE)
    if from_environment is not None:
        raise InputError(
            f"the token must be in one place, but there is --token-file and {TOKEN_VARIABLE}; "
            "leave one of them out"
        )
    return read_token(path)
