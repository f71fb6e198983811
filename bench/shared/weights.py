"""Which weights a result was measured with: their digest or, where they were made, the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeAlias

from bench.recipes.grow import GROWTHS, folder_of
from bench.shared.common import QAGS_MODELS
from bench.shared.options import EVERY_MODEL, FLANS, T5S, TINY
from quals_fast.models.loading import digest_of, model_folder
from quals_fast.qags.networks import ANSWERING, GENERATION, NetworkFiles

#: By name the `digest`, and of weights that were made the `recipe` and the model they came `from`.
Weights: TypeAlias = dict[str, dict[str, str]]

MODEL = "qagen-mini"
BUNDLED = (MODEL, GENERATION, ANSWERING)
GROWN = "grown by bench.grow"
RANDOM = "random weights of this shape"
ASKING = "random weights of this shape, a few set by hand so that it asks (bench/recipes/t5.py)"
ORIGINAL = "before bench.bundle stored it in int8"
DRY_RUN = "trained for dry runs"
UNKNOWN = "unknown"  # the digest in results of before digests were recorded

#: Bundled in former versions. Add the old model when you bundle another.
FORMER = {
    "qagen-mini@fa16d5a5573a",
    "qagen-mini@6033b28bc503",
    "question_generation@06cc070cb4bd",
}


def weights_of(*models: str | Path) -> Weights:
    """Describe QUALS models, given by the benchmarks' names or as folders."""
    return {Path(model).name: describe(model) for model in models}


def qags_weights() -> Weights:
    """Describe QAGS's bundled networks."""
    return {name: {"digest": _bundled_digest(name)} for name in (GENERATION, ANSWERING)}


def weights_in(signatures: Iterable[str]) -> Weights:
    """Describe the models that the signatures of QUALS and QAGS name; others are not ours."""
    ours = "\n".join(one for one in signatures if one.startswith(("quals|", "qags|")))
    named = re.findall(r"\|(?:model|qg|qa):([^|]+)@(\w+)", ours)
    return {name: {"digest": digest} for name, digest in named}


def listed(weights: Weights) -> str:
    """Write weights in a line, for a page that states all of its weights."""
    return ", ".join(
        f"`{name}` {described['recipe']}" + (f" from `{made_from}`" if made_from else "")
        if "recipe" in described
        else f"`{name}@{described['digest']}`"
        for name, described in weights.items()
        for made_from in [described.get("from")]
    )


def bundled(name: str) -> str:
    """Return NAME@DIGEST of a model that is bundled now, QUALS's or one of QAGS's."""
    return f"{name}@{_bundled_digest(name)}"


def origin(name: str, described: dict[str, str]) -> str | None:
    """Return NAME@DIGEST of the model that weights are or come from; None of random ones."""
    if described.get("recipe") in (RANDOM, ASKING):
        return None
    return described.get("from", f"{name}@{described.get('digest', UNKNOWN)}")


def describe(model: str | Path) -> dict[str, str]:
    """Return what `Weights` hold of one model."""
    named = str(model) in (*EVERY_MODEL, *T5S, *FLANS)
    folder = folder_of(str(model)) if named else model_folder(model)
    described = {"digest": _digest(folder)}
    if model in GROWTHS:
        described |= {"recipe": GROWN, "from": bundled(MODEL)}
    elif model in T5S:
        described |= {"recipe": ASKING}
    elif model in FLANS:
        described |= {"recipe": RANDOM}
    elif model == TINY:
        described |= {"recipe": DRY_RUN}
    return described


@cache
def _bundled_digest(name: str) -> str:
    if name == MODEL:
        return _digest(model_folder(name))
    return NetworkFiles.read(QAGS_MODELS / name).digest()


_digest = cache(digest_of)  # a result is written after each of its cases
