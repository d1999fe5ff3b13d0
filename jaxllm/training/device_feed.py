"""Batches on their devices before their step is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from jaxllm.objectives.next_token import Batch
from jaxllm.training.job import Batches


class DeviceFeed:
    """Takes batches from where they are made and sends them to their devices, `ahead` of them in a thread of its own.

    Its state is that of the batches given out, not of those that wait. An error in making or sending a batch is raised
    when that batch is asked for. Use as a context manager.
    """

    def __init__(self, batches: Batches, place: Callable[[Any], Batch], ahead: int):
        """ahead: 0 makes each batch when it is asked for, in the thread that asks."""
        self._batches, self._place, self._ahead = batches, place, ahead
        self._waiting: deque[Future[tuple[Batch, dict[str, Any]]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device-feed") if ahead else None
        self._state: dict[str, Any] | None = None

    def __next__(self) -> Batch:
        if self._thread is None:
            return self._place(next(self._batches))
        # One more than wait, which is the one that is asked for.
        while len(self._waiting) <= self._ahead:
            self._waiting.append(self._thread.submit(self._make))
        batch, self._state = self._waiting.popleft().result()
        return batch

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._place(next(self._batches))
        return batch, self._batches.get_state()

    def get_state(self) -> dict[str, Any]:
        """The position after the batches given out so far."""
        return self._batches.get_state() if self._state is None else self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position; batches that wait are dropped."""
        self._drop()
        self._batches.set_state(state)
        self._state = None

    def _drop(self) -> None:
        while self._waiting:
            future = self._waiting.pop()
            if not future.cancel():
                future.exception()  # waits for it: what it made is not used

    def __enter__(self) -> DeviceFeed:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._thread is not None:
            self._drop()
            self._thread.shutdown()


def devices_wait(metrics: dict[str, Any] | None) -> bool:
    """Whether the step that gives these metrics is done, so that nothing is left to compute before the next batch."""
    return metrics is None or all(
        array.is_ready() for array in jax.tree.leaves(metrics) if isinstance(array, jax.Array)
    )
