"""A study: which pairs people see, in which order, on which side; and its key."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from quals_fast.errors import InputError
from quals_fast.jobs.opening import read_errors
from quals_fast.study.pairs import Pair

# What people compare: the attributes of Nan et al. (2021), and how the page asks for them.
ATTRIBUTES = {
    "consistency": ("Factual consistency", "Which summary says only what the document says?"),
    "informativeness": (
        "Informativeness",
        "Which summary tells you more of what matters in the document?",
    ),
    "grammar": ("Grammar", "Which summary is written more correctly?"),
}
KEY = "quals-fast study key"
VOTES = "quals-fast study votes"


class Shown(NamedTuple):
    """A pair as an annotator sees it.

    Attributes:
        pair: index of the pair in the study.
        a: which system's summary is called A: 0 for the first system, 1 for the second.
    """

    pair: int
    a: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Pairs of summaries, and what each annotator sees of them.

    Attributes:
        systems: names of the two systems.
        seed: random seed that the pairs, orders and sides were drawn with.
        n_identical: number of pairs that were left out before the draw, because their summaries
            do not differ.
        pairs: what is compared.
        orders: for each annotator, all pairs in the order of their page.
    """

    systems: tuple[str, str]
    seed: int
    n_identical: int
    pairs: tuple[Pair, ...]
    orders: tuple[tuple[Shown, ...], ...]

    @property
    def id(self) -> str:
        """A hash of everything, by which pages, votes and key find each other."""
        content = json.dumps(self._content(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return the key as a dictionary for JSON."""
        return {"kind": KEY, "study": self.id, **self._content()}

    @classmethod
    def of_dict(cls, content: dict[str, Any], name: str) -> Study:
        """Return the study of a key.

        Args:
            content: of the file.
            name: of the file, for messages.

        Raises:
            InputError: the key was changed.
        """
        try:
            study = cls(
                systems=tuple(content["systems"]),
                seed=content["seed"],
                n_identical=content["n_identical"],
                pairs=tuple(map(Pair.of_dict, content["pairs"])),
                orders=tuple(tuple(Shown(*one) for one in order) for order in content["orders"]),
            )
            is_whole = study.id == content["study"]
        except (KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise InputError(
                f"{name} must be a key as quals-fast study wrote it, but got one that was changed; "
                "make the study again with the same files, options and seed"
            )
        return study

    def _content(self) -> dict[str, Any]:
        return {
            "systems": self.systems,
            "seed": self.seed,
            "n_identical": self.n_identical,
            "orders": self.orders,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


def draw(
    pairs: Sequence[Pair],
    *,
    systems: tuple[str, str],
    n_pairs: int,
    n_annotators: int,
    seed: int,
    n_identical: int = 0,
) -> Study:
    """Draw a study: the same arguments give the same study.

    Args:
        pairs: to draw from.
        systems: as in `Study`, like `seed` and `n_identical`.
        n_pairs: how many to draw, at most all.
        n_annotators: each gets all drawn pairs in an order of their own. Each system is A in half
            of them.
        seed: random seed.
        n_identical: number of pairs that are not in `pairs`.
    """
    generator = random.Random(seed)
    drawn = tuple(generator.sample(pairs, n_pairs))
    orders = []
    for _ in range(n_annotators):
        order = generator.sample(range(n_pairs), n_pairs)
        first = generator.randrange(2)
        sides = [(first + i) % 2 for i in range(n_pairs)]
        generator.shuffle(sides)
        orders.append(tuple(map(Shown, order, sides)))
    return Study(
        systems=systems,
        seed=seed,
        n_identical=n_identical,
        pairs=drawn,
        orders=tuple(orders),
    )


def read_json(path: str) -> dict[str, Any]:
    """Read a key or a file of votes.

    Raises:
        InputError: the file cannot be read, or is neither.
    """
    with read_errors(path), open(path, "rb") as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("kind") not in (KEY, VOTES):
        raise InputError(
            f"{path} must hold votes that were saved on a page of quals-fast study, or a study's "
            "key, but is something else; leave it out"
        )
    return content
