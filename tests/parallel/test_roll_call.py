"""The roll call and the watch over companions, between threads that play the processes."""

import json
import socket
import threading
import time
from copy import deepcopy
from dataclasses import replace

import pytest

from jaxllm.parallel.companions import Companions
from jaxllm.parallel.fingerprint import differences, flat_fields, make_card, source_digest
from jaxllm.parallel.place import Place
from jaxllm.parallel.roll_call import DifferentHosts, MissingHosts, answer_roll
from jaxllm.parallel.start_up import compare_configs, joined

CARD = {"host": "", "pid": 7, "fields": {"jaxllm source": "abc", "package jax": "0.10.2"}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def card_of(process: int, **fields) -> dict:
    card = deepcopy(CARD)
    card["host"] = f"host-{process}"
    card["fields"] |= fields
    return card


def together(count, present=None, *, seconds=5.0, cards=None, places=None, hosts=()):
    """What each process that is present gets of the roll call: lines, or the error it raised."""
    port = free_port()
    results = {}

    def report(name, process):
        place = (places or {}).get(name) or Place(f"127.0.0.1:{port}", process, count, hosts)
        place = replace(place, address=f"127.0.0.1:{port}")
        try:
            results[name] = answer_roll(place, (cards or {}).get(name) or card_of(process), seconds)
        except (ValueError, TimeoutError) as error:
            results[name] = error

    present = range(count) if present is None else present
    names = (
        [
            (process if process not in present[:i] else f"{process} again", process)
            for i, process in enumerate(list(present))
        ]
        if isinstance(present, list)
        else [(p, p) for p in present]
    )
    threads = [threading.Thread(target=report, args=pair) for pair in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def close(results):
    for lines in results.values():
        for line in lines if isinstance(lines, list) else []:
            line.socket.close()


def test_all_come_and_know_each_other():
    results = together(4)
    assert [line.process for line in results[0]] == [1, 2, 3]
    assert [str(line) for line in results[0]] == [f"process {p} (host-{p})" for p in (1, 2, 3)]
    assert all(str(results[p][0]) == "process 0 (host-0)" for p in (1, 2, 3))
    close(results)


def test_the_port_is_free_again_while_the_connections_stay():
    results = together(2)
    port = results[0][0].socket.getsockname()[1]
    with socket.create_server(("", port)):
        results[0][0].send({"beat": 1})
        assert results[1][0].take() == [{"beat": 1}]
    close(results)


def test_those_missing_are_named_to_all_who_came():
    started = time.monotonic()
    results = together(4, [0, 2], seconds=0.5)
    assert time.monotonic() - started < 3
    assert isinstance(results[0], MissingHosts) and isinstance(results[2], MissingHosts)
    assert str(results[0]) == str(results[2])
    assert str(results[0]).startswith(
        "process 1, process 3 of 4 did not come within 0.5 s; there are process 0 (host-0), process 2 (host-2)"
    )


def test_a_missing_host_is_named_where_the_pod_knows_its_name():
    results = together(2, [0], seconds=0.2, hosts=("a", "b"))
    assert str(results[0]).startswith("process 1 (b) of 2 did not come")


def test_a_missing_coordinator_is_named():
    results = together(2, [1], seconds=0.5)
    assert "process 0, the coordinator at 127.0.0.1:" in str(results[1])
    assert "did not answer within 0.5 s" in str(results[1])


def test_hosts_that_differ_are_named_with_what_differs():
    cards = {2: card_of(2, **{"package jax": "0.9", "package grain": "1"}), 1: card_of(1)}
    results = together(3, cards=cards)
    assert all(isinstance(result, DifferentHosts) for result in results.values())
    message = str(results[1])
    assert message == str(results[0]) == str(results[2])
    assert "process 2 (host-2) differs in package jax: '0.9' instead of '0.10.2'" in message
    assert "package grain: '1' instead of 'absent'" in message
    assert "process 1" not in message


def test_two_with_one_number_and_two_sizes_of_the_job_are_refused():
    results = together(3, [0, 1, 1])
    assert "two processes say that they are number 1: the one on host-1 and one on host-1" in str(results[0])
    results = together(2, places={1: Place("", 1, 3)})
    assert "was told that there are 3 processes, process 0 (host-0) that there are 2" in str(results[0])
    assert str(results[0]) == str(results[1])


def test_a_stranger_at_the_port_is_shown_out():
    port = free_port()
    results = {}
    places = [Place(f"127.0.0.1:{port}", process, 2) for process in (0, 1)]

    def report(process):
        results[process] = answer_roll(places[process], card_of(process), 5)

    first = threading.Thread(target=report, args=(0,))
    first.start()
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b'{"hello": 1}\n'):
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        stranger.sendall(greeting)
    report(1)
    first.join()
    assert len(results[0]) == len(results[1]) == 1
    close(results)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen at port {port} .* another job may use it"):
            answer_roll(Place(f"127.0.0.1:{port}", 0, 2), card_of(0), 1)


# Companions


class Watched:
    """The companions of `count` processes, and what each was told of a loss."""

    def __init__(self, count, seconds):
        self.losses = {}
        self.told = threading.Event()
        results = together(count)
        self.companions = {
            process: Companions(lines, seconds, lambda *loss, process=process: self._lost(process, loss))
            for process, lines in results.items()
        }

    def _lost(self, process, loss):
        self.losses[process] = loss
        self.told.set()

    def wait_for(self, count):
        deadline = time.monotonic() + 5
        while len(self.losses) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.losses

    def die(self, process):
        """As a killed process: its connections end without a word."""
        companions = self.companions.pop(process)
        companions._leaving.set()
        companions._thread.join()
        for connection in companions._lines:
            connection.close()

    def leave(self):
        for companions in self.companions.values():
            companions.leave()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_process_that_dies_is_named_to_all_others_at_once(victim):
    watched = Watched(3, seconds=60)
    started = time.monotonic()
    watched.die(victim)
    losses = watched.wait_for(2)
    assert time.monotonic() - started < 2
    assert sorted(losses) == [p for p in range(3) if p != victim]
    for message, status in losses.values():
        assert message.startswith(f"process {victim} (host-{victim}) is gone") and status == 1
    watched.leave()


def test_a_process_that_falls_silent_is_named_after_the_stated_time():
    watched = Watched(3, seconds=0.5)
    silent = watched.companions[1]
    silent._tell = lambda message: None  # as a frozen machine
    started = time.monotonic()
    losses = watched.wait_for(1)
    assert 0.3 < time.monotonic() - started < 2
    assert losses[0][0].startswith("process 1 (host-1) has been silent for 0.5 s")
    assert watched.wait_for(3)[2] == losses[0]
    watched.leave()


def test_who_leaves_for_good_is_not_missed():
    watched = Watched(3, seconds=0.4)
    watched.companions.pop(1).leave()
    watched.companions.pop(0).leave()
    time.sleep(0.6)
    assert watched.losses == {}
    watched.leave()


def test_an_error_ends_all_with_its_words_and_status():
    watched = Watched(3, seconds=60)
    watched.companions.pop(2).leave("no more text", 2)
    assert watched.wait_for(2) == dict.fromkeys((0, 1), ("process 2 (host-2) gave up: no more text", 2))
    watched.leave()


# Fingerprints


def test_the_source_digest_sees_an_edit(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = source_digest(tmp_path)
    source_digest.cache_clear()
    (tmp_path / "a.py").write_text("x = 2")
    assert source_digest(tmp_path) != before
    assert make_card()["fields"]["jaxllm source"] == make_card()["fields"]["jaxllm source"]


def test_differences_of_nested_configs():
    mine, theirs = flat_fields({"a": {"b": 1, "c": (1, 2)}}), flat_fields({"a": {"b": 2, "c": (1, 2)}, "d": None})
    assert differences(mine, theirs) == ["a.b: 1 instead of 2", "d: 'absent' instead of None"]


class Store:
    """A key-value store as jax's, between threads."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000)
            return self.values[key]


def compare(*configs):
    store, results = Store(), {}

    def one(process):
        try:
            compare_configs(store, process, len(configs), flat_fields(configs[process]))
        except DifferentHosts as error:
            results[process] = str(error)

    threads = [threading.Thread(target=one, args=(process,)) for process in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_different_configs_are_refused_everywhere():
    run = {"training": {"steps": 3, "betas": (0.9, 0.95)}}
    assert compare(run, run, json.loads(json.dumps(run))) == {}
    results = compare(run, run, {"training": {"steps": 4, "betas": (0.9, 0.95)}})
    assert len(results) == 3 and len(set(results.values())) == 1
    assert "process 2 (" in results[0] and "differs in training.steps: 4 instead of 3" in results[0]


def test_alone_nothing_is_awaited(monkeypatch):
    with joined({"JAX_PLATFORMS": "cpu"}) as process:
        assert process == 0
    refused = pytest.raises(ValueError, match="JAXLLM_START_SECONDS='soon': expected a whole number of seconds")
    with refused, joined({"JAXLLM_START_SECONDS": "soon"}):
        raise AssertionError
