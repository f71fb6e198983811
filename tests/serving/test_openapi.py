"""The OpenAPI document is true: Schemathesis sends what it allows and what it does not."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from services import listening

from quals_fast.serving.limits import Limits
from quals_fast.serving.openapi import openapi

LIMITS = {"max_request_pairs": 3, "max_characters": 50, "queue": 1000}
OPEN = openapi(Limits(**LIMITS), needs_token=False)
LOCKED = openapi(Limits(**LIMITS), needs_token=True)
BOUNDED = settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def url(scorer):
    with listening(scorer, **LIMITS) as url:
        yield url


@pytest.fixture(scope="module")
def locked_url(scorer):
    with listening(scorer, token="secret", **LIMITS) as url:
        yield url


def test_the_document_that_is_served(url, locked_url):
    assert httpx.get(f"{url}/openapi.json").json() == OPEN
    assert httpx.get(f"{locked_url}/openapi.json").json() == LOCKED


@schemathesis.openapi.from_dict(OPEN).parametrize()
@BOUNDED
def test_answers_are_as_described(case, url):
    case.call_and_validate(base_url=url)


@schemathesis.openapi.from_dict(LOCKED).parametrize()
@BOUNDED
def test_answers_are_as_described_with_a_token(case, locked_url):
    case.call_and_validate(base_url=locked_url, headers={"Authorization": "Bearer secret"})
