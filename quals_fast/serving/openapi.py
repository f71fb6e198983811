"""The OpenAPI document. Tests generate requests from it and compare the answers with it."""

from __future__ import annotations

from typing import Any, get_args

from quals_fast import __version__
from quals_fast.results import Status
from quals_fast.serving.limits import Limits

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ERRORS = {
    400: "The body is not JSON in UTF-8.",
    401: "The token is missing or wrong.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The body is compressed, or not JSON by its Content-Type.",
    422: "A field is missing, wrong, too long or unknown; `field` names it.",
    429: "Too many pairs wait. Retry-After says when to try again.",
    500: "Scoring failed. The log says where.",
    503: "The service is starting or stopping, or has failed.",
}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_COUNT = {"type": "integer", "minimum": 0}


def openapi(limits: Limits, *, needs_token: bool) -> dict[str, Any]:
    """Return the document of a service with these limits."""
    security: dict[str, Any] = {"security": [{"token": []}]} if needs_token else {}
    schemes = {"token": {"type": "http", "scheme": "bearer"}} if needs_token else {}
    denied = (401,) if needs_token else ()
    refusals = tuple(code for code in _ERRORS if code != 401 or needs_token)
    result = {"$ref": "#/components/schemas/Result"}
    results = _object({"results": {"type": "array", "minItems": 1, "items": result}})
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}},
    }
    texts = {"type": "string", "contentMediaType": "text/html"}
    state = _object({"status": {"type": "string"}})
    paths = {
        "/v1/score": {
            "post": {
                "operationId": "score",
                "summary": "Score summaries against their documents",
                "description": "One object for `summary`; a list for `summaries` and `pairs`.",
                "requestBody": body,
                "responses": _answers(_json({"oneOf": [result, results]}), refusals),
                **security,
            }
        },
        "/v1/explain": {
            "post": {
                "operationId": "explain",
                "summary": "Show the questions and tokens behind scores as a page",
                "requestBody": body,
                "responses": _answers({"text/html": {"schema": texts}}, refusals),
                **security,
            }
        },
        "/": _get("page", "A page to score one summary", {"text/html": {"schema": texts}}),
        "/health": _get("health", "Whether the process is alive", _json(state), 503),
        "/ready": _get("ready", "Whether scores can be asked for", _json(state), 503),
        "/info": _get("info", "Model, signature and limits", _json(_INFO), *denied, 503),
        "/metrics": _get(
            "metrics", "Figures for Prometheus", {"text/plain": {"schema": {"type": "string"}}},
            *denied,
        ),
        "/openapi.json": _get("openapi", "This document", _json({"type": "object"})),
    }  # fmt: skip
    for path in ("/info", "/metrics"):
        paths[path]["get"] |= security
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "quals-fast",
            "version": __version__,
            "description": "Scores the factual consistency of summaries with QUALS.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(limits), "securitySchemes": schemes},
    }


def _schemas(limits: Limits) -> dict[str, Any]:
    text = {"type": "string", "maxLength": limits.max_characters}
    flag = {"type": "boolean", "default": False}
    optional = {"include_pairs": flag | {"description": "Add the question-answer pairs."}}
    pair = _object({"document": text, "summary": text}, is_closed=True)
    most = limits.max_request_pairs

    def many(items: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "minItems": 1, "maxItems": most, "items": items}

    forms = (
        {"document": text, "summary": text},
        {"document": text, "summaries": many(text)},
        {"pairs": many(pair)},
    )
    return {
        "Request": {"oneOf": [_object(form, optional, is_closed=True) for form in forms]},
        "Result": _RESULT,
        "Error": _object({"error": {"type": "string"}}, {"field": {"type": "string"}}),
    }


def _object(
    required: dict[str, Any], optional: dict[str, Any] | None = None, *, is_closed: bool = False
) -> dict[str, Any]:
    """Return the schema of an object; a closed one has no other fields."""
    schema: dict[str, Any] = {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
    }
    return schema | {"additionalProperties": False} if is_closed else schema


_RESULT = _object(
    {
        "score": {
            "type": ["number", "null"],
            "description": "QUALS in nats per token; null without a score.",
        },
        "status": {"type": "string", "enum": list(get_args(Status))},
        "n_pairs": _COUNT,
        "truncated_tokens": _COUNT,
        "unknown_tokens": _COUNT,
        "spans": {
            "type": "array",
            "description": "Parts of the summary that questions ask about, worst first.",
            "items": _object({"start": _COUNT, "end": _COUNT, "score": {"type": "number"}}),
        },
        "signature": {"type": "string"},
    },
    {
        "message": {"type": "string", "description": "What is wrong with the texts."},
        "probability": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 1,
            "description": "Probability that people call the summary consistent; null without a "
            "score. Only where the service runs with --calibration.",
        },
        "pairs": {
            "type": "array",
            "items": _object(
                {
                    "question": {"type": "string"},
                    "answer": {"type": "string"},
                    "score": {"type": "number"},
                    "tokens": {"type": "array", "items": {"type": "string"}},
                    "token_ids": {"type": "array", "items": {"type": "integer"}},
                    "summary_logprobs": _NUMBERS,
                    "document_logprobs": _NUMBERS,
                    "first_counted": _COUNT,
                    "answer_spans": {
                        "type": "array",
                        "description": "Start and end of each occurrence in the summary.",
                        "items": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
                    },
                }
            ),
        },
    },
)
_INFO = _object(
    {
        "version": {"type": "string"},
        "model": {"type": "string"},
        "signature": {"type": "string"},
        "limits": {"type": "object"},
    }
)


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _get(operation: str, summary: str, content: dict[str, Any], *errors: int) -> dict[str, Any]:
    answers = _answers(content, errors)
    return {"get": {"operationId": operation, "summary": summary, "responses": answers}}


def _answers(content: dict[str, Any], errors: tuple[int, ...]) -> dict[str, Any]:
    """Return the responses of an operation, by status code."""
    of_error = _json({"$ref": "#/components/schemas/Error"})
    return {"200": {"description": "Done.", "content": content}} | {
        str(code): {"description": _ERRORS[code], "content": of_error} for code in errors
    }
