"""One flipped bit in one device's copy is found, named, and undone; a step computed again gives the same bits."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.training.experiment import FaultConfig
from jaxllm.training.loop import Trainer
from jaxllm.training.replicas import SilentCorruption, find_differences

MESH = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def flip(array: jax.Array, *devices: int, gravely: bool = False) -> jax.Array:
    """As if these devices had lost a bit of the first element of what they hold; or the exponent's last bit of all."""
    parts = []
    for shard in array.addressable_shards:
        data = np.asarray(shard.data).copy()
        if shard.device.id in devices:
            bits = data.reshape(-1).view(np.uint32)
            bits[:] ^= np.uint32(1 << 23) if gravely else (np.arange(bits.size) == 0).astype(np.uint32)
        parts.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def placed(*axes, shape=(8, 8)):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jax.device_put(values, NamedSharding(MESH, PartitionSpec(*axes)))


def test_equal_replicas_do_not_differ():
    arrays = {"whole": placed(), "split": placed("fsdp", "tensor"), "all": placed(("data", "fsdp"), "tensor")}
    arrays["count"] = jax.device_put(np.int32(3), NamedSharding(MESH, PartitionSpec()))
    assert find_differences(arrays) == []


@pytest.mark.parametrize("device", range(8))
def test_the_device_that_holds_another_bit_is_named(device):
    (found,) = find_differences({"right": placed(), "wrong": flip(placed(), device)})
    assert (found.array, [d.id for d in found.devices], found.majority) == ("wrong", [device], True)
    assert str(found) == f"wrong: device {device} of process 0 differs from the other 7 replicas"


def test_of_two_replicas_none_is_right_by_itself():
    array = placed("fsdp", "tensor")
    pairs = {shard.device.id: str(shard.index) for shard in array.addressable_shards}
    (found,) = find_differences({"w": flip(array, 5)})
    devices = [d.id for d in found.devices]
    assert 5 in devices and len(devices) == 2 and pairs[devices[0]] == pairs[devices[1]]
    assert not found.majority and "can't be told" in str(found)


def test_without_replicas_there_is_nothing_to_compare():
    array = placed(("data", "fsdp"), "tensor")
    assert find_differences({"w": flip(array, 3)}) == []


# In a run


def config(**faults):
    return replace(tiny.experiment(steps=8, every=4), faults=FaultConfig(**faults))


class Failing(Trainer):
    """Device 5 forgets a bit of a parameter after a step, the first time it comes there."""

    at, fails, gravely = 6, 1, False

    def _dispatch(self):
        super()._dispatch()
        if self.step == self.at and self.fails:
            self.fails -= 1
            params = self.state.params
            leaves, tree = jax.tree.flatten(params)
            leaves[0] = flip(leaves[0], 5, gravely=self.gravely)
            self.state = self.state.replace(params=jax.tree.unflatten(tree, leaves))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("healthy")
    tiny.train(directory, config())
    return directory


def run(directory, config, fails=1, gravely=False):
    reporter = tiny.Recorder()
    trainer = Failing(tiny.job(config), directory, reporter)
    trainer.fails, trainer.gravely = fails, gravely
    return trainer.run(), reporter


@pytest.mark.long
def test_corruption_is_rolled_back_and_the_run_ends_as_if_nothing_had_been(tmp_path, healthy):
    outcome, reporter = run(tmp_path, config(digest_every=2))
    assert outcome.finished
    assert reporter.heard("step 6: silent corruption: params.", "device 5 of process 0", "rolled back to step 4")
    assert reporter.heard("repeating the steps since")
    (event,) = [row for row in tiny.rows(tmp_path) if row.get("event") == "rollback"]
    assert (event["step"], event["from_step"]) == (4, 6)
    last = tiny.newest_state(tmp_path, config())
    for name, expected in tiny.newest_state(healthy, config()).items():
        assert last[name].tobytes() == expected.tobytes(), name


def test_a_corrupt_state_is_not_saved(tmp_path):
    """The comparison comes before a checkpoint also where it is not yet due again."""
    outcome, reporter = run(tmp_path, config(digest_every=1000), fails=1)
    assert outcome.finished and reporter.heard("step 8: silent corruption", "rolled back to step 4")


def test_without_the_check_nobody_knows(tmp_path, healthy):
    _, reporter = run(tmp_path, config())
    assert not reporter.heard("corruption")


def test_corruption_that_comes_back_or_is_to_stop_the_run_ends_it(tmp_path):
    with pytest.raises(SilentCorruption, match="step 6: silent corruption: .*take the machine out of service"):
        run(tmp_path / "one", config(digest_every=2, on_corruption="stop"))
    with pytest.raises(SilentCorruption, match="run the same command to resume"):
        run(tmp_path / "two", config(digest_every=2), fails=100)


# Replay


def test_a_replayed_interval_is_the_one_of_the_run(healthy):
    before = {path.name: path.read_bytes() for path in healthy.iterdir() if path.is_file()}
    replayed = list(Trainer(tiny.job(config()), healthy, tiny.Recorder()).replay(4, 4))
    assert [each.step for each in replayed] == [5, 6, 7, 8, 8]
    assert all(each.same for each in replayed[:-1]) and replayed[0].logged is not None
    assert replayed[-1].differing == ()
    assert {path.name: path.read_bytes() for path in healthy.iterdir() if path.is_file()} == before


def test_a_replay_finds_what_was_computed_wrongly(tmp_path):
    run(tmp_path, config(), gravely=True)  # nobody noticed
    replayed = list(Trainer(tiny.job(config()), tmp_path, tiny.Recorder()).replay(4, 4))
    assert [each.same for each in replayed[:2]] == [True, True]
    assert not replayed[2].same, "the loss after the flipped bit"
    assert replayed[-1].differing


class Unsteady(Trainer):
    """The second computation of a step differs, as a chip's that errs now and then."""

    def _compile(self):
        super()._compile()
        compiled, calls = self.train_step, []

        def train_step(state, batch):
            state, metrics = compiled(state, batch)
            calls.append(0)
            if len(calls) == 4:  # steps 1, 2, 3 and 3 again
                leaves, tree = jax.tree.flatten(state.params)
                leaves[1] = flip(leaves[1], 2)
                state = state.replace(params=jax.tree.unflatten(tree, leaves))
            return state, metrics

        self.train_step = train_step


def test_a_step_computed_twice_shows_an_unsteady_device(tmp_path, healthy):
    reporter = tiny.Recorder()
    outcome = Unsteady(tiny.job(config(replay_every=3)), tmp_path, reporter).run()
    assert outcome.finished
    assert reporter.heard("step 3: silent corruption: params.", "on device 2 of process 0", "rolled back to step 0")
    losses = [json.dumps(row) for row in tiny.rows(healthy) if "loss" in row]
    assert [json.dumps(row) for row in tiny.rows(tmp_path) if "loss" in row][-8:] == losses
