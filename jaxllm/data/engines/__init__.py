"""Where tasks run: in this process, in worker processes, or on a Ray cluster.

An engine knows nothing of documents. It calls each task, and hands out what tasks return as they finish, in any order.
A task writes its own files, each of them whole or not at all, and always the same bytes: so it may be called again
when the process that had it is gone, and no engine can change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

Task = Callable[[], Any]
"""A frozen dataclass of plain values, other such classes and stages, that is called without arguments."""

EngineName = Literal["local", "processes", "ray"]


class Engine(Protocol):
    """A place where tasks run."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        """What each task returns, as they finish, each once. What a task raises ends the run and is raised here."""
        ...

    def close(self) -> None:
        """Ends what was started for the tasks."""
        ...


def make_engine(name: str, workers: int = 0, address: str = "") -> Engine:
    """The engine of that name.

    workers: tasks at a time; 0 means one for each core (of the cluster, with Ray). address: of the Ray cluster, as
    ray.init takes it; without one RAY_ADDRESS is asked, and without that a cluster is started on this machine.
    Raises ValueError for an unknown name, and for settings that this engine has no use for.
    """
    from jaxllm.config import did_you_mean

    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if address and name != "ray":
        raise ValueError(f"an address is for the engine ray, not for {name}")
    match name:
        case "local":
            if workers > 1:
                raise ValueError(f"the engine local is one process; for {workers} workers use the engine processes")
            from jaxllm.data.engines.local import Local

            return Local()
        case "processes":
            from jaxllm.data.engines.processes import Processes

            return Processes(workers)
        case "ray":
            from jaxllm.data.engines.ray import Ray

            return Ray(workers, address)
    known = get_args(EngineName)
    raise ValueError(f"unknown engine {name!r}{did_you_mean(name, known)}\nknown: {', '.join(known)}")
