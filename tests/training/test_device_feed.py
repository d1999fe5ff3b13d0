"""Batches sent ahead change nothing but when they come, and waiting for them is measured."""

import json
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
import tiny

from jaxllm.data.config import DataConfig
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import make_layout
from jaxllm.training.device_feed import DeviceFeed, devices_wait


class Numbers:
    """Batch n is the number n; `made` tells how many were made."""

    def __init__(self, fails_at=None):
        self.next, self.made, self.fails_at = 0, 0, fails_at

    def __next__(self):
        if self.next == self.fails_at:
            raise OSError("the disk broke")
        self.next += 1
        self.made += 1
        return self.next - 1

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]


def until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_come_in_order_and_the_state_is_of_those_given_out(ahead):
    numbers = Numbers()
    with DeviceFeed(numbers, lambda n: n * 10, ahead) as feed:
        assert feed.get_state() == {"next": 0}
        for n in range(5):
            assert next(feed) == n * 10
            assert feed.get_state() == {"next": n + 1}
        until(lambda: numbers.made == 5 + ahead)
        feed.set_state({"next": 2})
        assert feed.get_state() == {"next": 2}
        assert [next(feed) for _ in range(3)] == [20, 30, 40]


def test_without_batches_ahead_the_state_is_that_of_the_moment():
    numbers = Numbers()
    with DeviceFeed(numbers, lambda n: n, 0) as feed:
        next(feed)
        numbers.next = 7  # as by an event between steps
        assert feed.get_state() == {"next": 7}


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_comes_with_its_batch_and_the_thread_ends(ahead):
    feed = DeviceFeed(Numbers(fails_at=3), lambda n: n, ahead)
    with feed:
        assert [next(feed) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="the disk broke"):
            next(feed)
        feed.set_state({"next": 0})
        assert next(feed) == 0
    if ahead:
        with pytest.raises(RuntimeError, match="shutdown"):
            next(feed)


def test_whether_devices_wait():
    assert devices_wait(None)
    ready = jax.block_until_ready({"loss": jnp.zeros(())})
    assert devices_wait(ready)
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 3000, lambda _, y: jnp.sin(y @ x), x))(jnp.ones((128, 128)))
    assert not devices_wait({"loss": slow})


class Slow(tiny.Batches):
    """Each batch takes a while to be made."""

    def __next__(self):
        time.sleep(0.05)
        return super().__next__()


def test_runs_ahead_and_not_are_the_same_and_the_stall_is_logged(tmp_path, monkeypatch):
    alone = make_layout(MeshConfig(data=1, fsdp=1), jax.devices()[:1])
    monkeypatch.setattr("jaxllm.training.loop.make_layout", lambda mesh: alone)

    def run(name, ahead, batches):
        config = replace(tiny.experiment(steps=5, every=2), data=DataConfig(device_prefetch=ahead))
        return tiny.train(tmp_path / name, config, batches)[0]

    def stalls(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [row["input_stall"] for row in lines if "loss" in row]

    monkeypatch.setattr("jaxllm.training.loop.devices_wait", lambda metrics: True)
    assert run("plain", 0, Slow()).finished
    assert len(stalls("plain")) == 5 and min(stalls("plain")) >= 0.05
    monkeypatch.setattr("jaxllm.training.loop.devices_wait", lambda metrics: False)
    assert not run("ahead", 2, Slow(stopped_at=3)).finished
    assert run("ahead", 2, Slow()).finished
    assert stalls("ahead") == [0.0] * 5
    assert tiny.rows(tmp_path / "plain") == tiny.rows(tmp_path / "ahead"), "what is saved is the position of the steps"
