"""Tasks as bytes that another interpreter can call."""

from __future__ import annotations

import pickle
import sys
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
    """Calls a shipped task and gives back what it returns, as bytes too."""
    return pickle.dumps(pickle.loads(task)())


def received(result: bytes) -> Any:
    return pickle.loads(result)
