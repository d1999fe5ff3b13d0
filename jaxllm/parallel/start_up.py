"""How a process joins its job: place, roll call, `jax.distributed`, and a watch over the others until it leaves."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxllm.parallel.companions import Companions
from jaxllm.parallel.fingerprint import flat_fields, host_name, make_card
from jaxllm.parallel.place import Place, find_place
from jaxllm.parallel.roll_call import DifferentHosts, answer_roll, describe_differences

# jax ends a process, with a message of its own, that did not hear from the others for so long. Ours comes first.
JAX_HEARTBEAT_FACTOR = 4
# A collective that fails because another process died is heard of before the death itself, which is what to tell.
SETTLING_SECONDS = 2
LONGEST_LOADING = 600  # seconds that an experiment file may take to say what it is


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[int]:
    """Within it, jax sees the devices of all processes of the job; gives this process's number, 0 where it is alone.

    All processes have to come within JAXLLM_START_SECONDS (300); afterwards one that dies ends the others at once, one
    that falls silent after JAXLLM_SILENCE_SECONDS (30): they print which it was and exit with status 1. An error in
    one process ends the others with its status and message: 2 for a ValueError.

    Raises ValueError for wrong variables (also `place.find_place`) and for hosts whose code or packages differ,
    MissingHosts (a TimeoutError) naming those that did not come. Must come before anything that looks at devices.
    """
    start_seconds = _seconds(environment, "JAXLLM_START_SECONDS", 300)
    silence_seconds = _seconds(environment, "JAXLLM_SILENCE_SECONDS", 30)
    place = find_place(environment, seconds=start_seconds)
    if place is None:
        yield 0
        return
    lines = answer_roll(place, make_card(), start_seconds)
    companions = Companions(lines, silence_seconds)
    try:
        _initialize(place, start_seconds, silence_seconds)
        yield place.process
        _leave_together()
    except BaseException as error:
        if not isinstance(error, ValueError | FloatingPointError | KeyboardInterrupt):
            time.sleep(SETTLING_SECONDS)
        companions.leave(_summary(error), 2 if isinstance(error, ValueError) else 1)
        raise
    companions.leave()


def refuse_different_configs(config: Mapping[str, Any]) -> None:
    """Raises DifferentHosts, in every process, naming each host and field (nested, JSON) that is not as in process 0.

    This can't be part of the roll call: an experiment may look at the devices before it says what it is.
    """
    import jax

    if jax.process_count() > 1:
        compare_configs(jax_store(), jax.process_index(), jax.process_count(), flat_fields(config))


def compare_configs(store: Any, process: int, processes: int, fields: dict[str, Any]) -> None:
    """The same over any key-value store with `key_value_set` and `blocking_key_value_get`."""
    store.key_value_set(f"jaxllm/config/{process}", json.dumps({"host": host_name(), "fields": fields}))
    if process == 0:
        problems = []
        for other in range(1, processes):
            shown = json.loads(store.blocking_key_value_get(f"jaxllm/config/{other}", LONGEST_LOADING * 1000))
            # Through JSON, as theirs came: it makes lists of tuples.
            mine = json.loads(json.dumps(fields))
            problems += describe_differences(f"process {other} ({shown['host']})", shown["fields"], mine)
        verdict = ""
        if problems:
            here = f"compared with process 0 ({host_name()})"
            verdict = f"the hosts of this job were asked for different runs ({here}):\n" + "\n".join(problems)
        store.key_value_set("jaxllm/config/verdict", verdict)
    else:
        verdict = store.blocking_key_value_get("jaxllm/config/verdict", LONGEST_LOADING * 1000)
    if verdict:
        raise DifferentHosts(verdict)


def _seconds(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name) or str(default)
    if not given.isdigit() or not int(given):
        raise ValueError(f"{name}={given!r}: expected a whole number of seconds, at least 1 ({default} by default)")
    return int(given)


def _initialize(place: Place, start_seconds: int, silence_seconds: int) -> None:
    import jax

    # The CPU's own default knows no collectives between processes; for other platforms this says nothing.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        place.address,
        place.processes,
        place.process,
        cluster_detection_method="deactivate",
        initialization_timeout=start_seconds,
        heartbeat_timeout_seconds=JAX_HEARTBEAT_FACTOR * max(silence_seconds, 5),
    )


def _leave_together() -> None:
    """The first to close its connection to jax's service would look dead to the others."""
    import jax

    jax_store().wait_at_barrier("jaxllm the end", LONGEST_LOADING * 1000)
    jax.distributed.shutdown()


def jax_store() -> Any:
    """The key-value store and barriers of jax's coordination service."""
    from jax._src.distributed import global_state

    return global_state.client


def leave_at_once(status: int) -> None:
    """End a process that failed among others without waiting for them; does nothing in one that is alone."""
    import jax

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _summary(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
