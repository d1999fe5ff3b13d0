"""When to go back: the stated rule for divergence, as a small machine that survives checkpoints."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

from jaxllm.training.experiment import RecoveryConfig


class Watch:
    """Sees the loss of every step in order and says when the run has gone astray. Its state is JSON."""

    def __init__(self, config: RecoveryConfig):
        self.config = config
        self.rollbacks = 0
        self._forget()

    def _forget(self) -> None:
        self._good: deque[float] = deque(maxlen=self.config.window)
        self._bad_in_a_row = 0
        self._high_in_a_row = 0

    def observe(self, loss: float, finite: bool) -> str | None:
        """The reason to roll back after this step, or None. High losses are kept out of the window they are compared
        with."""
        if not finite:
            self._bad_in_a_row += 1
            if self._bad_in_a_row >= self.config.max_bad_steps:
                return f"{self._bad_in_a_row} steps in a row were not finite"
            return None
        self._bad_in_a_row = 0
        line = self._spike_line()
        if line is None or loss <= line:
            self._high_in_a_row = 0
            self._good.append(loss)
            return None
        self._high_in_a_row += 1
        if self._high_in_a_row >= self.config.spike_patience:
            return f"the loss {loss:.4g} was above {line:.4g} for {self._high_in_a_row} steps in a row"
        return None

    @property
    def suspicious(self) -> bool:
        """Whether the latest steps were bad or high: no moment to call a checkpoint good."""
        return bool(self._bad_in_a_row or self._high_in_a_row)

    def rolled_back(self) -> None:
        """Count a rollback and start a new window. Raises FloatingPointError when there were too many."""
        self.rollbacks += 1
        if self.rollbacks > self.config.max_rollbacks:
            raise FloatingPointError(
                f"the run diverged again after {self.config.max_rollbacks} rollbacks (recovery.max_rollbacks): lower "
                "optimizer.learning_rate, lengthen optimizer.warmup_steps, or look at the data of the batches logged"
            )
        self._forget()

    def _spike_line(self) -> float | None:
        if not self.config.spike_sigmas or len(self._good) < self.config.window:
            return None
        spread = self.config.spike_sigmas * statistics.pstdev(self._good)
        return statistics.fmean(self._good) + max(spread, self.config.spike_rise)

    def get_state(self) -> dict[str, Any]:
        return {
            "good": list(self._good),
            "bad_in_a_row": self._bad_in_a_row,
            "high_in_a_row": self._high_in_a_row,
            "rollbacks": self.rollbacks,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._good = deque(state["good"], maxlen=self.config.window)
        self._bad_in_a_row = state["bad_in_a_row"]
        self._high_in_a_row = state["high_in_a_row"]
        self.rollbacks = state["rollbacks"]
