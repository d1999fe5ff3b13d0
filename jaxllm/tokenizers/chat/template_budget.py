"""How much a chat template may do before it is stopped.

A template is a program from somebody else's file. Every loop, call and operation takes a step, every string it makes is
counted before it is made, and no list may hold more than a bounded amount: so no single operation takes long, and
between two of them the clock is looked at.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

# A template that builds its text piece by piece copies it again and again; in all it may make so many times the text
# that it may return.
_COPIES = 32
# A list may hold several times the text as well: lists of messages, of which not everything is written.
_HELD = 4
# Digits are as good as any limit for numbers: no template computes with larger ones, and hostile ones square them.
_BITS = 4096


class ChatTemplateError(ValueError):
    """A chat template can't be read, refuses the conversation, fails, or was stopped."""


class Stopped(Exception):
    """Ends a rendering from inside; no ValueError, since filters such as `int` take those for an answer."""


@dataclass(frozen=True)
class RenderLimits:
    """What one rendering may use."""

    characters: int = 4_000_000
    """of the rendered text; all the strings made on the way may have 32 times as many"""

    steps: int = 1_000_000
    """iterations, calls, filters and operations"""

    seconds: float = 10.0
    """of time, looked at with every step"""

    def __post_init__(self):
        for field in ("characters", "steps", "seconds"):
            if not getattr(self, field) > 0:
                raise ValueError(f"the limit of {field} must be more than 0, got {getattr(self, field)!r}")


class Budget:
    """What is left of the limits during one rendering."""

    def __init__(self, limits: RenderLimits):
        self._limits = limits
        self._steps, self._characters = limits.steps, limits.characters * _COPIES
        self._deadline = time.monotonic() + limits.seconds

    def step(self, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise Stopped(f"it took more than {self._limits.steps:,} steps; it may loop without end")
        if time.monotonic() > self._deadline:
            raise Stopped(f"it took longer than {self._limits.seconds:g} seconds; it may loop without end")

    def string(self, length: int) -> None:
        """Is called before a string of this length is made."""
        if length > self._limits.characters:
            raise Stopped(f"it makes a text of {length:,} characters, and {self._limits.characters:,} is the limit")
        self._characters -= length
        if self._characters < 0:
            raise Stopped(
                f"it makes strings of more than {self._limits.characters * _COPIES:,} characters in all, of which it "
                f"may return {self._limits.characters:,}"
            )

    def number(self, bits: int) -> None:
        """Is called before a whole number of so many binary digits is made."""
        if bits > _BITS:
            raise Stopped(f"it computes a whole number of more than {_BITS:,} binary digits")

    def container(self, value: Any) -> Any:
        """Is called with each new list, tuple and dict, and gives it back; shared parts count as often as they occur.

        A list of ten times the same list, and so on, is small in memory, but its text grows without bounds.
        """
        waiting, characters, steps = [value], 0, 0
        while waiting:
            value_ = waiting.pop()
            steps += 1
            if isinstance(value_, str):
                characters += len(value_)
            elif isinstance(value_, list | tuple):
                waiting += value_
            elif isinstance(value_, dict):
                waiting += value_
                waiting += value_.values()
            if characters > self._limits.characters * _HELD or steps + len(waiting) > self._steps:
                raise Stopped("it makes a list or dict that holds too much; it may nest lists in themselves")
        self.step(steps)
        return value


_CURRENT: ContextVar[Budget] = ContextVar("budget")


def current() -> Budget:
    """The budget of the rendering that goes on in this thread."""
    return _CURRENT.get()


def use(budget: Budget):
    """Makes it the current one; `release` takes what this gives."""
    return _CURRENT.set(budget)


def release(token) -> None:
    _CURRENT.reset(token)
