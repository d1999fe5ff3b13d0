"""When a run goes back, what it goes back to, and that it goes on as if the batches in between had never been."""

import json
import shutil
import statistics
import time

import numpy as np
import pytest
import tiny

from jaxllm.training.experiment import RecoveryConfig
from jaxllm.training.recovery import Watch

NAN = float("nan")


def watch_after(config: RecoveryConfig, *losses: float) -> Watch:
    watch = Watch(config)
    for loss in losses:
        assert watch.observe(loss, np.isfinite(loss)) is None
    return watch


# The rule


def test_non_finite_steps_in_a_row():
    config = RecoveryConfig(max_bad_steps=3)
    assert watch_after(config, NAN, NAN).observe(NAN, False) == "3 steps in a row were not finite"
    assert watch_after(config, NAN, NAN, 1.0, NAN).observe(NAN, False) is None, (
        "a good step in between starts the count anew"
    )


def test_the_line_is_mean_plus_the_larger_of_spread_and_rise():
    losses = [2.0, 2.5, 1.5, 2.25]
    mean, spread = statistics.fmean(losses), statistics.pstdev(losses)
    for sigmas, rise in ((4.0, 1.0), (1.0, 2.0)):
        config = RecoveryConfig(window=4, spike_sigmas=sigmas, spike_rise=rise, spike_patience=1)
        line = mean + max(sigmas * spread, rise)
        assert watch_after(config, *losses).observe(line - 1e-6, True) is None
        assert "was above" in watch_after(config, *losses).observe(line + 1e-6, True)


def test_only_the_last_good_losses_count():
    config = RecoveryConfig(window=3, spike_sigmas=1.0, spike_rise=1.0, spike_patience=1)
    assert watch_after(config, 9.0, 9.0, 9.0, 2.0, 2.0, 2.0).observe(3.5, True)
    assert watch_after(config, 2.0, 2.0, 9.0).observe(7.0, True) is None


def test_the_spike_rule_is_silent_until_the_window_is_full_and_when_turned_off():
    config = RecoveryConfig(window=3, spike_patience=1)
    assert watch_after(config, 2.0, 2.0).observe(50.0, True) is None
    off = RecoveryConfig(window=2, spike_sigmas=0.0, spike_patience=1)
    assert watch_after(off, 2.0, 2.0, 2.0).observe(50.0, True) is None


def test_a_spike_must_last():
    config = RecoveryConfig(window=2, spike_rise=1.0, spike_patience=3)
    assert watch_after(config, 2.0, 2.0, 9.0, 9.0).observe(2.0, True) is None
    reason = watch_after(config, 2.0, 2.0, 9.0, 9.0, 2.0, 8.0, 8.5).observe(9.0, True)
    assert reason == "the loss 9 was above 3 for 3 steps in a row"


def test_high_losses_do_not_raise_the_line():
    watch = watch_after(RecoveryConfig(window=2, spike_rise=1.0, spike_patience=50), 2.0, 2.0, *[9.0] * 40)
    assert watch.get_state()["good"] == [2.0, 2.0]
    assert watch.suspicious


def test_suspicion():
    config = RecoveryConfig(window=2, spike_rise=1.0)
    assert not watch_after(config, 2.0, 2.0).suspicious
    assert watch_after(config, 2.0, 2.0, NAN).suspicious
    assert watch_after(config, 2.0, 2.0, 9.0).suspicious
    assert not watch_after(config, 2.0, 2.0, NAN, 9.0, 2.1).suspicious


def test_rollbacks_are_counted_and_start_a_new_window():
    watch = watch_after(RecoveryConfig(window=2, max_rollbacks=2, spike_patience=1), 2.0, 2.0)
    watch.rolled_back()
    assert watch.observe(9.0, True) is None, "the window is empty again"
    assert not watch.suspicious
    watch.rolled_back()
    with pytest.raises(FloatingPointError, match=r"again after 2 rollbacks \(recovery.max_rollbacks\): lower"):
        watch.rolled_back()


def test_its_state_survives_json():
    config = RecoveryConfig(window=3, spike_patience=2, max_bad_steps=3)
    watch = watch_after(config, 2.0, 2.25, 2.5, 9.0)
    watch.rollbacks = 1
    other = Watch(config)
    other.set_state(json.loads(json.dumps(watch.get_state())))
    assert other.get_state() == watch.get_state()
    assert other.observe(9.0, True) == watch.observe(9.0, True) != None  # noqa: E711


@pytest.mark.parametrize("fields", [{"max_bad_steps": 0}, {"spike_patience": 0}, {"window": 1}])
def test_impossible_settings(fields):
    with pytest.raises(ValueError, match="recovery: "):
        RecoveryConfig(**fields)


# In the loop


class InOrder(tiny.Batches):
    """Batches by a list of their numbers."""

    def __init__(self, order):
        super().__init__()
        self.order = list(order)

    def __next__(self):
        self.next += 1
        return tiny.batch(self.order[self.next - 1])


THREE_BAD = RecoveryConfig(max_bad_steps=3)
POISON = dict.fromkeys((5, 6, 7), NAN)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Gives the directory of a run over clean batches in an order, or over POISON; each runs once."""
    directories = {}

    def run(order=None):
        key = None if order is None else tuple(order)
        if key not in directories:
            directories[key] = tmp_path_factory.mktemp("reference")
            batches = tiny.Batches(POISON) if order is None else InOrder(order)
            tiny.train(directories[key], tiny.experiment(recovery=THREE_BAD), batches)
        return directories[key]

    return run


def assert_same_state(one, other):
    left, right = (tiny.newest_state(directory, tiny.experiment()) for directory in (one, other))
    assert left.keys() == right.keys()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.parametrize(
    "bad, back_to, from_step, order",
    [
        # Seen after the step that follows; at a step that is due to be saved, before it is.
        ([4, 5, 6], 4, 8, [*range(4), *range(8, 16)]),
        ([5, 6, 7], 4, 8, [*range(4), *range(8, 16)]),
        ([0, 1, 2], 0, 4, range(4, 16)),
        # At the very end, too: the run goes on until its last step is a good one.
        ([9, 10, 11], 8, 12, [*range(8), *range(12, 16)]),
    ],
)
def test_a_poisoned_stretch_is_as_if_it_had_never_been(tmp_path, reference, bad, back_to, from_step, order):
    config = tiny.experiment(recovery=THREE_BAD)
    outcome, reporter = tiny.train(tmp_path, config, tiny.Batches(dict.fromkeys(bad, NAN)))
    assert outcome.step == 12
    assert_same_state(tmp_path, reference(order))

    rows = tiny.rows(tmp_path)
    (event,) = [row for row in rows if row.get("event") == "rollback"]
    reason = "3 steps in a row were not finite"
    assert event == {"event": "rollback", "step": back_to, "from_step": from_step, "reason": reason}
    said = (
        f"step {from_step}: {reason}; rolled back to step {back_to} and skipped the {from_step - back_to} batches since"
    )
    assert said in reporter.said
    after = [row["step"] for row in rows[rows.index(event) + 1 :] if "loss" in row]
    assert after == list(range(back_to + 1, 13))
    assert rows[rows.index(event) + 1 :] == [row for row in tiny.rows(reference(order)) if row["step"] > back_to]


def test_fewer_bad_steps_are_left_out_and_counted(tmp_path):
    config = tiny.experiment(recovery=THREE_BAD)
    _, reporter = tiny.train(tmp_path / "run", config, tiny.Batches({2: NAN, 5: NAN, 6: NAN}))
    rows = tiny.rows(tmp_path / "run")
    steps = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert [row["skipped"] for row in steps] == [0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3]
    assert [row["loss"] for row in steps if row["step"] in (3, 6, 7)] == ["nan"] * 3
    assert [row["step"] for row in rows if row.get("event") == "skipped_step"] == [3, 6, 7]
    assert reporter.heard("step 6: loss nan, gradient norm nan: update left out")
    assert not any(row.get("event") == "rollback" for row in rows)


def test_no_checkpoint_is_called_good_in_a_suspicious_stretch(tmp_path):
    config = tiny.experiment(every=2, checkpoints={"keep_last": 100}, recovery=RecoveryConfig(max_bad_steps=9))
    # Bad are the steps 4, 7 and 8; saving is due at 4, 6, 8, 10 and 12.
    tiny.train(tmp_path / "run", config, tiny.Batches({3: NAN, 6: NAN, 7: NAN}))
    kept = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == [0, 2, 6, 10, 12]


def test_a_spike_that_lasts_rolls_back(tmp_path, reference):
    recovery = RecoveryConfig(window=4, spike_sigmas=3.0, spike_rise=0.3, spike_patience=2)
    config = tiny.experiment(recovery=recovery)
    tiny.train(tmp_path, config, tiny.Batches(spoiled=[9, 10]))
    (event,) = [row for row in tiny.rows(tmp_path) if row.get("event") == "rollback"]
    # Steps 10 and 11 are high; that of 11 is read when 12 has been dispatched.
    assert (event["step"], event["from_step"]) == (8, 12)
    assert event["reason"].startswith("the loss ")
    assert event["reason"].endswith("for 2 steps in a row")
    assert_same_state(tmp_path, reference([*range(8), *range(12, 16)]))


def test_too_many_rollbacks_end_the_run_with_its_checkpoints_intact(tmp_path):
    config = tiny.experiment(recovery=RecoveryConfig(max_bad_steps=2, max_rollbacks=2))
    endless = tiny.Batches(dict.fromkeys(range(5, 100), NAN))
    with pytest.raises(FloatingPointError, match="diverged again after 2 rollbacks"):
        tiny.train(tmp_path / "run", config, endless)
    rows = tiny.rows(tmp_path / "run")
    assert sum(row.get("event") == "rollback" for row in rows) == 2
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["0", "4"]
    # Another attempt with batches that are fine goes on from there.
    outcome, reporter = tiny.train(tmp_path / "run", config)
    assert outcome.finished
    assert reporter.heard("resuming at step 4 of 12")


def test_a_checkpoint_that_turns_out_damaged_at_a_rollback_is_passed_over(tmp_path):
    config = tiny.experiment(recovery=THREE_BAD, checkpoints={"keep_last": 100})

    class Harming(tiny.Batches):
        def __next__(self):
            if self.next == 9:
                newest = tmp_path / "run/checkpoints/8"
                while not newest.is_dir():  # it is still being written
                    time.sleep(0.01)
                shutil.rmtree(newest / "params")
            return super().__next__()

    batches = Harming(dict.fromkeys((9, 10, 11), NAN))
    outcome, reporter = tiny.train(tmp_path / "run", config, batches)
    assert outcome.finished
    assert reporter.heard("checkpoint 8 is damaged", "moved to")
    assert reporter.heard("rolled back to step 4 and skipped the 8 batches since")


@pytest.mark.parametrize("batch, at_step", [(6, 7), (7, 4)])  # in the stretch; at the step that makes it a rollback
def test_a_run_stopped_in_a_bad_stretch_resumes_before_it(tmp_path, reference, batch, at_step):
    """What it saved there would be a place to go back to that no uninterrupted run has."""
    config = tiny.experiment(recovery=THREE_BAD)
    outcome, reporter = tiny.train(tmp_path, config, tiny.Batches(POISON, stopped_at=batch))
    assert (outcome.step, outcome.stopped_by) == (at_step, "SIGTERM")
    assert reporter.heard("SIGTERM received: step 4 of 12 is saved")
    tiny.train(tmp_path, config, tiny.Batches(POISON))
    tiny.assert_same_run(tmp_path, reference(), config)
