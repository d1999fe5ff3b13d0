"""Decisions that all processes of a job take together. Alone, each of them is the process's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.parallel.start_up import jax_store

# A barrier waits for work of unknown length, such as tokenizing a corpus; that a companion died is noticed elsewhere.
LONGEST_WORK_SECONDS = 7 * 86400

_turns = itertools.count()  # a name serves once in jax's store; all processes count alike


def barrier(name: str) -> None:
    """Wait until every process is here. Processes must come to the same barriers in the same order."""
    if jax.process_count() > 1:
        jax_store().wait_at_barrier(f"jaxllm {next(_turns)}: {name}", LONGEST_WORK_SECONDS * 1000)


def tell_all(subject: str, text: str) -> str:
    """The text of process 0, in every process, as barriers in the same order."""
    if jax.process_count() == 1:
        return text
    key = f"jaxllm/told/{next(_turns)}: {subject}"
    if jax.process_index() == 0:
        jax_store().key_value_set(key, text)
    return jax_store().blocking_key_value_get(key, LONGEST_WORK_SECONDS * 1000)


@contextmanager
def process_0_first(name: str) -> Iterator[None]:
    """The block is run by process 0, and then by the others together; nothing in it may wait for other processes."""
    if jax.process_index() != 0:
        barrier(f"{name}: process 0")
    yield
    if jax.process_index() == 0:
        barrier(f"{name}: process 0")


def everyone(yes: bool) -> bool:
    """Whether it is so in every process."""
    return bool(gather(float(yes)).all())


def gather(*numbers: float) -> np.ndarray:
    """[processes, numbers] float32: a few numbers of each process, the same everywhere. Waits for all."""
    exchange = Exchange()
    exchange.send(numbers)
    return exchange.receive()


class Exchange:
    """A few numbers of each process given to all of them, beside the training step: sent now, read later."""

    def __init__(self):
        self._sent: Any = None

    @property
    def pending(self) -> bool:
        return self._sent is not None

    def send(self, numbers: tuple[float, ...]) -> None:
        """Dispatch; every process must send as many numbers, between the same steps."""
        mine = np.asarray([numbers], np.float32)
        if jax.process_count() == 1:
            self._sent = mine
            return
        ours, whole = _shardings()
        # Every device carries its process's row, so that the program runs on all devices as any other does.
        rows = np.repeat(mine, jax.local_device_count(), axis=0)
        sent = jax.make_array_from_process_local_data(ours, rows)
        self._sent = _gather(whole)(sent)

    def receive(self) -> np.ndarray:
        """[processes, numbers] float32 of what was sent last; waits for it."""
        received, self._sent = np.asarray(jax.device_get(self._sent)), None
        if jax.process_count() == 1:
            return received
        return received[:: jax.local_device_count()]


@cache
def _shardings() -> tuple[NamedSharding, NamedSharding]:
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices), ("process",))
    return NamedSharding(mesh, PartitionSpec("process")), NamedSharding(mesh, PartitionSpec())


@cache
def _gather(whole: NamedSharding) -> Any:
    return jax.jit(lambda rows: rows, out_shardings=whole)
