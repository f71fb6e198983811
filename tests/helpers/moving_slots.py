"""Steps of two searches whose histories part, move, are alike and end."""

from typing import NamedTuple

import numpy as np

NUM_BEAMS = 3


class Step(NamedTuple):
    """What a search asks for, ``(B, K)`` each, and what each slot has decoded then."""

    token_ids: np.ndarray
    beam_idx: np.ndarray
    live: np.ndarray
    histories: list[list[tuple[int, ...]]]


def _steps() -> list[Step]:
    moves = [[[0, 1, 2]] * 2, [[0, 0, 0]] * 2, [[2, 0, 2], [1, 1, 0]], [[1, 2, 0], [0, 0, 1]]]
    tokens = [[[7] * 3, [8] * 3], [[1, 2, 3], [4, 4, 5]], [[1, 2, 3], [4, 5, 6]], [[1, 1, 1]] * 2]
    histories: list[list[tuple[int, ...]]] = [[()] * NUM_BEAMS for _ in range(2)]
    steps = []
    for t, (move, new) in enumerate(zip(moves, tokens, strict=True)):
        histories = [
            [(*mine[k], token) for k, token in zip(came_from, to, strict=True)]
            for mine, came_from, to in zip(histories, move, new, strict=True)
        ]
        live = np.array([[True] * NUM_BEAMS, [t < 3] * NUM_BEAMS])
        steps.append(Step(np.array(new), np.array(move), live, histories))
    return steps


STEPS = _steps()
