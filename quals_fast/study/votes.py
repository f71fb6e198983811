"""Read what the annotators of a study have saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quals_fast.errors import InputError
from quals_fast.study.design import ATTRIBUTES, KEY, Study, read_json

_ANSWERS = ("A", "equal", "B")  # as a page saves them; None where nothing was answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """The votes of an annotator, with the systems back in the place of A and B.

    Attributes:
        file: where they come from.
        annotator: number of the annotator, from 1.
        votes: for each attribute, by index of the pair: 1 if the first system's summary is better,
            0 if the summaries are equal, -1 if the second system's is better. Unanswered questions
            are not in it.
    """

    file: str
    annotator: int
    votes: dict[str, dict[int, int]] = field(repr=False)

    @property
    def n_answers(self) -> int:
        """Number of answered questions."""
        return sum(map(len, self.votes.values()))


def read_study(paths: Sequence[str], key: str | None) -> tuple[Study, list[Ballot]]:
    """Read the votes and the key of a study.

    Args:
        paths: files of votes. A key among them is taken as the key.
        key: name of the key. None for the one among `paths`, or else ``key.json`` beside them.

    Returns:
        The study, and its votes in the order of the annotators.

    Raises:
        InputError: a file is something else, is of another study, or comes twice.
    """
    contents = {path: read_json(path) for path in paths}
    keys = {path for path in paths if contents[path]["kind"] == KEY}
    if key is None:
        beside = dict.fromkeys(str(Path(path).parent / "key.json") for path in paths)
        keys = keys or {path for path in beside if Path(path).is_file()}
        if len(keys) != 1:
            found = ", ".join(sorted(keys)) or "none beside the votes"
            raise InputError(f"votes need the key of their study, but got {found}; add --key FILE")
        (key,) = keys
    content = contents.get(key) or read_json(key)
    if content["kind"] != KEY:
        raise InputError(f"--key must be the key.json of a study, but {key} holds votes")
    study = Study.of_dict(content, key)
    ballots: dict[int, Ballot] = {}
    for path, content in contents.items():
        if content["kind"] == KEY:
            continue
        if content.get("study") != study.id:
            raise InputError(
                f"votes must be of the study {study.id} of {key}, but {path} is of "
                f"{content.get('study')}; leave it out, or give its own --key"
            )
        ballot = _ballot(path, content, study)
        former = ballots.setdefault(ballot.annotator, ballot)
        if former is not ballot:
            raise InputError(
                f"each annotator must have one file of votes, but {former.file} "
                f"({former.n_answers} answers) and {path} ({ballot.n_answers} answers) are both of "
                f"annotator {ballot.annotator}; leave one of them out"
            )
    if not any(ballot.n_answers for ballot in ballots.values()):
        raise InputError(
            "a study needs votes, but no question was answered; give the files that annotators "
            "saved on their pages"
        )
    return study, [ballots[annotator] for annotator in sorted(ballots)]


def _ballot(path: str, content: dict[str, Any], study: Study) -> Ballot:
    """Return an annotator's votes, by pair and system instead of by place."""
    annotator, answers = content.get("annotator"), content.get("votes", [])
    votes: dict[str, dict[int, int]] = {attribute: {} for attribute in ATTRIBUTES}
    try:
        if type(annotator) is not int or not 1 <= annotator <= len(study.orders):
            raise ValueError(f"annotator {annotator!r}")
        for shown, given in zip(study.orders[annotator - 1], answers, strict=True):
            for attribute, answer in given.items():
                if answer is not None:
                    for_a = 1 - _ANSWERS.index(answer)
                    votes[attribute][shown.pair] = -for_a if shown.a else for_a
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} must be as the page saved it, but was changed; ask the annotator to save the "
            "votes again"
        ) from None
    return Ballot(file=path, annotator=annotator, votes=votes)
