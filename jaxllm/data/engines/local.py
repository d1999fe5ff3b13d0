"""Tasks one after another in this process: the slow twin of the other engines, and the one to debug with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxllm.data.engines import Task


@dataclass(frozen=True)
class Local:
    """This process."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        for task in tasks:
            yield task()

    def close(self) -> None:
        pass
