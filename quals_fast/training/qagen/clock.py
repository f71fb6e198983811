"""A run with a time limit: its schedule is brought forward if steps take too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from quals_fast.training.qagen.settings import TrainingError


class Clock(TrainerCallback):  # type: ignore[misc]
    """Maps the time since training began to steps of the plan.

    Args:
        minutes: time from now until training must end.

    Attributes:
        is_up: whether the run ended by the clock, before its last step.
    """

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._began = time.monotonic()
        self._end = self._began + 60 * minutes
        self._first = self._steps = 0
        self.is_up = False

    def in_time(self, planned: Callable[[int], float]) -> Callable[[int], float]:
        """Return a schedule that warms up by steps and falls by steps or time, if that is ahead."""
        return lambda step: min(planned(step), planned(self._place(step)))

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Divide the remaining time among the remaining steps.

        Raises:
            TrainingError: no time is left.
        """
        self._began = time.monotonic()
        self._first, self._steps = state.global_step, state.max_steps
        if self._began >= self._end:
            raise TrainingError(
                f"`minutes` must leave time to train after the data is read, but got "
                f"{self._minutes:g}, which has passed; use more minutes or fewer `examples`"
            )

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End the run when the time is up."""
        if state.global_step < self._steps <= self._place(state.global_step):
            self.is_up = True
            control.should_training_stop = control.should_save = control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"

    def _place(self, step: int) -> int:
        """Return the step that the run should have reached by now, at least `step`."""
        share = (time.monotonic() - self._began) / max(1e-9, self._end - self._began)
        return max(step, int(self._first + share * (self._steps - self._first)))
