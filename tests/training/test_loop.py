"""The loop: what happens in which order, and that stopping anywhere and resuming changes nothing."""

import json
import math
import signal
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
import tiny

from jaxllm.models import AttentionConfig, forward
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training import loop
from jaxllm.training.checkpoints import Mismatch, flatten
from jaxllm.training.loop import Trainer
from jaxllm.training.optimizers import OptimizerConfig, evaluation_params, make_schedule
from jaxllm.training.shipped import restore_params
from jaxllm.training.state import initial_state
from jaxllm.training.step import make_step

CONFIG = tiny.experiment(eval_every=3)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    outcome, reporter = tiny.train(directory, CONFIG)
    return directory, outcome, reporter


# Order


def test_a_step_is_dispatched_before_the_metrics_of_the_one_before_are_read(tmp_path, monkeypatch):
    happened, metrics_of = [], []
    fetch = jax.device_get

    class Recording(Trainer):
        def _compile(self):
            super()._compile()
            compiled = self.train_step

            def train_step(state, batch):
                state, metrics = compiled(state, batch)
                metrics_of.append(metrics)
                happened.append(("dispatched", len(metrics_of)))
                return state, metrics

            self.train_step = train_step

    def device_get(tree):
        happened.extend(("read", n) for n, metrics in enumerate(metrics_of, 1) if tree is metrics)
        return fetch(tree)

    monkeypatch.setattr(jax, "device_get", device_get)
    Recording(tiny.job(tiny.experiment()), tmp_path, tiny.Recorder()).run()
    expected = []
    for n in range(1, 13):
        expected.append(("dispatched", n))
        if n % 4 != 1:  # for a checkpoint of step 4 or 8 must know how that went
            expected.append(("read", n - 1))
        if n % 4 == 0:
            expected.append(("read", n))
    assert happened == expected


# Evaluation


def test_evaluation_equals_a_direct_computation(tmp_path, uninterrupted):
    directory, outcome, _ = uninterrupted
    _, params, step = restore_here(directory, CONFIG)
    assert step == 12
    nll = weight = 0.0
    logits_of = jax.jit(
        lambda p, b: forward(p, tiny.MODEL, b["tokens"], positions=b["positions"], segment_ids=b["segment_ids"])
    )
    for seed in (1000, 1001):
        batch = tiny.batch(seed)
        logits = logits_of(params, batch)
        logs = np.asarray(jax.nn.log_softmax(logits), np.float64)
        nll -= np.take_along_axis(logs, batch["targets"][..., None], -1).sum()
        weight += batch["weights"].sum()
    evaluations = [row for row in tiny.rows(directory) if "val_loss" in row]
    assert [row["step"] for row in evaluations] == [3, 6, 9, 12]
    assert evaluations[-1]["val_loss"] == pytest.approx(nll / weight, rel=1e-5)
    assert evaluations[-1]["val_bpb"] == pytest.approx(nll / math.log(2) / weight, rel=1e-5)  # a byte a token
    assert (outcome.val_loss, outcome.val_bpb) == (evaluations[-1]["val_loss"], evaluations[-1]["val_bpb"])


def restore_here(directory, config):
    (directory / "config.json").write_text(loop.configs.to_json(config))
    return restore_params(directory)


def test_bits_per_byte_counts_the_bytes_of_the_targets(tmp_path):
    lengths = np.arange(64) % 4
    job = replace(tiny.job(CONFIG), token_bytes=lengths)
    outcome = Trainer(job, tmp_path, tiny.Recorder()).run()
    targets = np.concatenate([tiny.batch(seed)["targets"].ravel() for seed in (1000, 1001)])
    expected = outcome.val_loss * len(targets) / math.log(2) / lengths[targets].sum()
    assert outcome.val_bpb == pytest.approx(expected, rel=1e-6)


def test_an_evaluation_can_be_limited(tmp_path, uninterrupted):
    limited, _ = tiny.train(tmp_path, tiny.experiment(eval_every=3, eval_batches=1))
    _, params, _ = restore_here(tmp_path, CONFIG)
    loss, _ = jax.jit(tiny.job(CONFIG).objective)(params, tiny.batch(1000))
    assert limited.val_loss == pytest.approx(float(loss), rel=1e-5)
    assert limited.val_loss != uninterrupted[1].val_loss


def test_no_target_to_validate_on_is_an_error(tmp_path):
    job = replace(tiny.job(CONFIG), validation=[])
    with pytest.raises(ValueError, match="validation part holds no target"):
        Trainer(job, tmp_path, tiny.Recorder()).run()


@pytest.mark.parametrize(
    "fields", [{"ema_decay": 0.9}, {"optimizer": OptimizerConfig(kind="schedule_free", warmup_steps=2)}]
)
def test_what_is_evaluated_is_what_is_shipped(tmp_path, fields):
    """Neither is the point at which training stands, where the two differ."""
    config = tiny.experiment(**fields)
    outcome, _ = tiny.train(tmp_path, config)
    _, shipped, _ = restore_here(tmp_path, config)
    state = tiny.newest_state(tmp_path, config)
    trained = jax.tree.unflatten(jax.tree.structure(shipped), [state[f"params.{name}"] for name in flatten(shipped)])
    objective = jax.jit(tiny.job(config).objective)
    losses = [
        np.mean([float(objective(params, tiny.batch(n))[0]) for n in (1000, 1001)]) for params in (shipped, trained)
    ]
    assert outcome.val_loss == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-3


# Stopping and resuming


@pytest.mark.parametrize(
    "at",
    [
        0,  # before the first step is done
        5,  # during step 6, when an evaluation is due
        7,  # during step 8, which is saved anyway
        9,
        11,  # during the last step
    ],
)
def test_stopped_anywhere_and_resumed_is_the_same_run(tmp_path, uninterrupted, at):
    outcome, reporter = tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=at))
    assert (outcome.step, outcome.stopped_by) == (at + 1, "SIGTERM")
    assert reporter.heard(f"SIGTERM received: step {at + 1} of 12 is saved") == (at < 11)
    resumed, reporter = tiny.train(tmp_path, CONFIG)
    assert resumed.finished
    assert reporter.heard(f"resuming at step {at + 1} of 12" if at < 11 else "is finished: step 12 of 12")
    tiny.assert_same_run(tmp_path, uninterrupted[0], CONFIG)
    assert (resumed.val_loss, resumed.val_bpb) == (uninterrupted[1].val_loss, uninterrupted[1].val_bpb)


def test_an_evaluation_due_when_the_signal_came_is_made_up_for_at_once(tmp_path, uninterrupted):
    tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=5))
    assert tiny.rows(tmp_path) == tiny.rows(uninterrupted[0])[:7], "steps 1 to 6 and the evaluation at 3"
    tiny.train(tmp_path, CONFIG, replace_next(tiny.Batches(stopped_at=6), 6))
    rows = tiny.rows(tmp_path)
    assert rows == tiny.rows(uninterrupted[0])[:9]
    assert rows[7] == {"step": 6, "val_loss": rows[7]["val_loss"], "val_bpb": rows[7]["val_bpb"]}


def replace_next(batches, number):
    batches.next = number
    return batches


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_once_saves_and_twice_interrupts(tmp_path, interruptible):
    outcome, reporter = tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=4, by=signal.SIGINT))
    assert (outcome.step, outcome.stopped_by) == (5, "SIGINT")
    assert reporter.heard("SIGINT received: step 5 of 12 is saved")

    class Impatient(tiny.Batches):
        def __next__(self):
            if self.next == 6:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return super().__next__()

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, CONFIG, Impatient())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handlers are put back"
    assert tiny.train(tmp_path, CONFIG)[0].finished


def test_the_checkpoint_of_the_best_evaluation_is_kept(tmp_path):
    config = tiny.experiment(every=3, eval_every=3, checkpoints={"keep_last": 1, "keep_best": 1})
    noise = range(6, 12)  # from here on the model learns what validation does not ask for
    tiny.train(tmp_path, config, tiny.Batches(spoiled=noise, stopped_at=9))
    tiny.train(tmp_path, config, tiny.Batches(spoiled=noise))
    losses = {row["step"]: row["val_loss"] for row in tiny.rows(tmp_path) if "val_loss" in row}
    assert min(losses, key=losses.get) == 9
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "9"]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first, _ = tiny.train(tmp_path, CONFIG)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    again, reporter = tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=12))
    assert (again.step, again.val_loss, again.stopped_by) == (12, first.val_loss, None)
    assert reporter.heard(f"{tmp_path} is finished: step 12 of 12")
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept


def test_a_finished_run_can_be_given_more_steps(tmp_path):
    tiny.train(tmp_path, CONFIG)
    longer = tiny.experiment(steps=14, eval_every=3)
    outcome, reporter = tiny.train(tmp_path, longer)
    assert reporter.heard("resuming at step 12 of 14")
    assert (outcome.step, outcome.finished) == (14, True)
    assert [row["step"] for row in tiny.rows(tmp_path) if "loss" in row] == list(range(1, 15))


def test_resumed_onto_another_mesh_the_losses_are_close(tmp_path):
    model = replace(tiny.MODEL, attention=AttentionConfig(num_heads=2))
    config = tiny.experiment(model=model)
    other = tiny.experiment(model=model, mesh=MeshConfig(data=1, fsdp=4, tensor=2))
    tiny.train(tmp_path / "one", config)
    tiny.train(tmp_path / "two", config, tiny.Batches(stopped_at=5))
    _, reporter = tiny.train(tmp_path / "two", other)
    assert reporter.heard("(fsdp=4 x tensor=2)")
    assert reporter.heard("resuming at step 6 of 12")
    one, two = ([row["loss"] for row in tiny.rows(tmp_path / name) if "loss" in row] for name in ("one", "two"))
    assert len(one) == len(two) == 12
    np.testing.assert_array_equal(one[:6], two[:6])
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert one != two, "the sums were formed in the same order: it is no other mesh"


def test_resuming_another_model_or_optimizer_is_refused(tmp_path):
    tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=1))
    with pytest.raises(Mismatch, match=r"missing: opt_state.*\.count"):
        tiny.train(tmp_path, tiny.experiment(optimizer=OptimizerConfig(kind="muon", warmup_steps=2)))
    assert tiny.train(tmp_path, CONFIG)[0].finished


def test_a_checkpoint_holds_what_a_run_is(tmp_path):
    tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=4))
    progress = json.loads((tmp_path / "checkpoints/5/progress/metadata").read_text())
    assert loop.configs.from_json(json.dumps(progress["config"]), type(CONFIG)) == CONFIG
    assert progress["batches"] == {"next": 5}
    assert progress["watch"]["good"] == [row["loss"] for row in tiny.rows(tmp_path) if "loss" in row]
    state = tiny.newest_state(tmp_path, CONFIG)
    key = jax.random.key_data(jax.random.split(jax.random.key(CONFIG.training.seed))[1])
    assert (state["key_data"] == key).all()


def test_what_was_logged_before_the_first_checkpoint_was_whole_is_dropped(tmp_path, uninterrupted):
    (tmp_path / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}\n{"step": 2, "lo')
    tiny.train(tmp_path, CONFIG)
    tiny.assert_same_run(tmp_path, uninterrupted[0], CONFIG)


def test_the_loop_computes_what_its_parts_do(tmp_path, uninterrupted):
    """Twelve steps by hand, on one device."""
    job = tiny.job(CONFIG)
    optimizer = optax.adamw(make_schedule(CONFIG.optimizer, 12), 0.9, 0.95, 1e-8, weight_decay=0.1, mask=mask(job.spec))
    step = jax.jit(make_step(job.objective, optimizer, lambda n: 0.0, CONFIG.training))
    state = initial_state(job.spec, optimizer, CONFIG.training.seed, False)
    losses = []
    for seed in range(12):
        state, metrics = step(state, tiny.batch(seed))
        losses.append(float(metrics["loss"]))
    logged = [row["loss"] for row in tiny.rows(uninterrupted[0]) if "loss" in row]
    np.testing.assert_allclose(logged, losses, rtol=1e-5)
    assert evaluation_params(CONFIG.optimizer, state.params, state.opt_state) is state.params


def mask(spec):
    return jax.tree.map(lambda param: "embed" in param.axes, spec)


# Told and refused


def test_the_plan_is_told_before_the_first_step(uninterrupted):
    plan = uninterrupted[2].said[0]
    for line in (
        "model      5,712 parameters, 2 layers",
        "mesh       8 cpu (data=8",
        "batch      8 rows of 16 tokens",
        "compiled",
    ):
        assert line in plan


def test_a_batch_that_the_mesh_does_not_divide(tmp_path):
    with pytest.raises(
        ValueError, match="a microbatch of 6 rows .* cannot be split over the 8 devices .* a multiple of 8"
    ):
        tiny.train(tmp_path, tiny.experiment(batch_size=6))
    with pytest.raises(ValueError, match="a microbatch of 4 rows"):
        tiny.train(tmp_path, tiny.experiment(batch_size=8, accumulation=2))


def test_a_mesh_that_does_not_fit_the_devices(tmp_path):
    with pytest.raises(ValueError, match="needs 3 devices, but there are 8"):
        tiny.train(tmp_path, tiny.experiment(mesh=MeshConfig(data=-1, fsdp=3)))
    with pytest.raises(ValueError, match="needs 4 devices, but there are 8"):
        tiny.train(tmp_path, tiny.experiment(mesh=MeshConfig(data=4)))


def test_a_mesh_that_does_not_divide_the_model(tmp_path):
    with pytest.raises(ValueError, match="mesh.tensor=2 does not divide attention.num_kv_heads=1: it must be one of"):
        tiny.train(tmp_path, tiny.experiment(mesh=MeshConfig(data=4, tensor=2)))


def test_a_profile_leaves_a_trace(tmp_path):
    tiny.train(tmp_path, CONFIG, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "profile").rglob("*.trace.json.gz"))


def test_a_profile_of_a_short_session_ends_with_it(tmp_path):
    tiny.train(tmp_path, CONFIG, tiny.Batches(stopped_at=7), profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    tiny.train(tmp_path / "next", CONFIG)


def test_no_profile_unless_asked_for(uninterrupted):
    assert not (uninterrupted[0] / "profile").exists()
