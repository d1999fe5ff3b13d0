"""Tasks as bytes that another interpreter can call."""

from __future__ import annotations

import pickle
import sys
import traceback
from typing import Any

from jaxllm.config import EXPERIMENT_MODULES
from jaxllm.data.engines import Task


def shipped(task: Task) -> bytes:
    """The task, together with those of its classes that a recipe file defines, which no other process could import."""
    import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith(EXPERIMENT_MODULES):
            cloudpickle.register_pickle_by_value(module)
    return cloudpickle.dumps(task)


def perform(task: bytes) -> bytes:
    """Calls a shipped task; gives back as bytes what it returns or raises."""
    try:
        answer = pickle.loads(task)(), None
    except Exception as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        answer = None, error
    return _pickled(answer)


def _pickled(answer: tuple[Any, Exception | None]) -> bytes:
    import cloudpickle

    try:
        packed = cloudpickle.dumps(answer)
        if answer[1] is not None:
            pickle.loads(packed)  # an exception that wants other arguments than its message can't be made again
        return packed
    except Exception as reason:
        error = RuntimeError(f"a worker's answer can't be sent ({reason}): {answer[1] or answer[0]!r}")
        return pickle.dumps((None, error))


def received(answer: bytes) -> Any:
    """What a task returned. Raises what it raised, with the place in the worker as a note."""
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    return result
