"""The simulator of pipeline schedules against published closed forms, and against a slow twin."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.parallel.schedules import Action, Kind, Schedule, ScheduleError, build_schedule, gpipe, zb_h1
from jaxllm.plan.schedule_formulas import PUBLISHED, idle_share, overhead
from jaxllm.plan.schedule_simulation import (
    Costs,
    activation_peaks,
    end_times_by_relaxation,
    simulate,
    step_time,
)
from tests.parallel.test_schedules import any_schedule

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "schedules.py"
COUNTS = [(1, 2), (2, 4), (2, 7), (3, 6), (4, 4), (4, 8), (4, 11), (5, 10), (6, 12), (8, 16)]
TIMES = [(1, 1, 1, 0), (2, 2, 1, 0), (2, 2, 1, 1), (5, 5, 4, 3), (3, 2, 1, 1), (3, 1, 2, 0), (5, 6, 4, 0), (1, 2, 4, 0)]
# When the published bubble is exact: Published.exact in code.
EXACT: dict[str, Callable[..., bool]] = {
    "gpipe": lambda P, M, F, I, W: True,  # noqa: E741
    "1f1b": lambda P, M, F, I, W: True,  # noqa: E741
    "interleaved": lambda P, M, F, I, W: True,  # noqa: E741
    "zb-h1": lambda P, M, F, I, W: W <= F and M >= P,  # noqa: E741
    "zb-h2": lambda P, M, F, I, W: W <= F and M >= 2 * P - 1,  # noqa: E741
    "zbv": lambda P, M, F, I, W: F == I == W and M >= 2 * P - 1,  # noqa: E741
    "dualpipe": lambda P, M, F, I, W: F == I >= W,  # noqa: E741
    "dualpipe-v": lambda P, M, F, I, W: F == I >= W,  # noqa: E741
}


def schedules_that_work(name: str) -> list[tuple[Schedule, int]]:
    """The schedule at all COUNTS that go with it, and its chunks a rank."""
    works = []
    for ranks, microbatches in COUNTS:
        for chunks in (1, 2, 3) if name == "interleaved" else (2,):
            try:
                works.append((build_schedule(name, ranks, microbatches, chunks), chunks))
            except ValueError:
                continue
    assert len(works) >= 4
    return works


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_bubble_is_the_published_one(name: str) -> None:
    compared = 0
    for schedule, chunks in schedules_that_work(name):
        for forward, inputs, weights, saved in TIMES:
            if not EXACT[name](schedule.ranks, schedule.microbatches, forward, inputs, weights):
                continue
            costs = Costs(forward, inputs, weights, overlapped=forward + inputs + weights - saved)
            run = simulate(schedule, costs.for_stage(schedule))
            published = PUBLISHED[name]
            assert getattr(run, published.measure) == published.bubble(schedule.ranks, costs, chunks)
            compared += 1
    assert compared >= 7


@pytest.mark.parametrize("name", PUBLISHED)
def test_activations_and_parameters_are_the_published_ones(name: str) -> None:
    for schedule, chunks in schedules_that_work(name):
        ranks, microbatches = schedule.ranks, schedule.microbatches
        peaks = tuple(PUBLISHED[name].peak(ranks, microbatches, chunks, rank) for rank in range(ranks))
        run = simulate(schedule)
        if name == "zbv" and microbatches < 2 * ranks - 1:
            assert run.peak_activations <= peaks[0]
        else:
            assert tuple(use.peak_activations for use in run.ranks) == peaks
        if ranks > 1 or name != "dualpipe":
            assert {use.parameters for use in run.ranks} == {PUBLISHED[name].parameters}


@pytest.mark.parametrize(("microbatches", "percent"), [(1, 75.0), (4, 42.9), (8, 27.3), (16, 15.8), (32, 8.6)])
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_idle_share_and_overhead_of_four_ranks(name: str, microbatches: int, percent: float) -> None:
    run = simulate(build_schedule(name, 4, microbatches), Costs(1, 1, 1))
    assert round(100 * run.idle_share, 1) == percent
    assert run.idle_share == float(idle_share(4, microbatches))
    assert run.overhead == float(overhead(4, microbatches))
    if microbatches == 16:
        assert run.overhead == 0.1875


def test_interleaving_divides_the_overhead_by_the_chunks() -> None:
    for chunks in (2, 3, 4):
        run = simulate(build_schedule("interleaved", 4, 8, chunks))
        assert run.overhead == float(overhead(4, 8, chunks)) == float(overhead(4, 8)) / chunks
        assert run.idle_share == float(idle_share(4, 8, chunks))


def test_bubbles_in_units_of_a_forward() -> None:
    """With F = 1, B = 2, W = 1 and F&B = 3: 1F1B, ZB-H1, DualPipe."""
    costs = Costs(1, 1, 1, overlapped=3)
    for ranks, bubbles in ((8, (21, 7, 6)), (16, (45, 15, 14))):
        schedules = (build_schedule(name, ranks, 2 * ranks) for name in ("1f1b", "zb-h1", "dualpipe"))
        assert tuple(simulate(schedule, costs).idle for schedule in schedules) == bubbles


def test_bubbles_do_not_grow_with_microbatches() -> None:
    for name in PUBLISHED:
        runs = [simulate(build_schedule(name, 4, count)) for count in (8, 16, 32)]
        assert len({run.idle for run in runs}) == len({run.bubble for run in runs}) == 1


@pytest.mark.parametrize("times", [(10, 12, 9, 0), (10, 12, 9, 6), (12, 10, 8, 6)])
def test_dualpipe_has_another_bubble_where_the_gradient_of_inputs_is_not_as_long_as_a_forward(times) -> None:
    forward, inputs, weights, saved = times
    costs = Costs(forward, inputs, weights, overlapped=forward + inputs + weights - saved)
    run = simulate(build_schedule("dualpipe", 8, 24), costs)
    assert run.idle == 3 * (costs.pair + forward - 2 * weights)
    assert run.idle - PUBLISHED["dualpipe"].bubble(8, costs, 2) == 3 * (forward - inputs)


def test_dualpipe_hides_communication_where_a_pair_is_shorter_than_its_parts() -> None:
    schedule = build_schedule("dualpipe", 8, 32)
    apart, together = simulate(schedule, Costs(3, 3, 3)), simulate(schedule, Costs(3, 3, 3, overlapped=7))
    assert together.makespan < Fraction(85, 100) * apart.makespan


@pytest.mark.parametrize("name", ["zb-h2", "zbv"])
def test_zero_bubble_schedules_still_wait_at_a_barrier(name: str) -> None:
    run = simulate(build_schedule(name, 4, 12))
    assert (run.bubble, run.idle) == (0, 3)
    assert [use.end - run.ranks[0].end for use in run.ranks] == [0, 1, 2, 3]  # they begin one after another, and end so


def test_activations_that_the_gradient_of_inputs_frees() -> None:
    # Where nothing is kept, ZB-H1 holds what 1F1B holds.
    assert activation_peaks(zb_h1(4, 8), 0) == (4, 3, 2, 1)
    assert activation_peaks(zb_h1(4, 8), Fraction(1, 2)) == (4, Fraction(7, 2), 3, Fraction(5, 2))
    assert activation_peaks(zb_h1(4, 8)) == (4, 4, 4, 4)


def test_messages_make_a_pipeline_longer_by_their_way_there_and_back() -> None:
    run = simulate(gpipe(4, 6), Costs(4, 3, 5, transfer=2))
    assert run.idle == 3 * (4 + 8 + 2 * 2)


def test_a_link_carries_one_message_at_a_time() -> None:
    # The last of 5 forwards arrives after 1 + 5 * 3; then 1 + 5 * 4 on rank 1, 3 on the way and 4 on rank 0.
    assert simulate(gpipe(2, 5), Costs(1, 2, 2, transfer=3)).makespan == 16 + 21 + 7


def small_costs() -> st.SearchStrategy[Costs]:
    def one(forward: int, inputs: int, weights: int, saved: int, transfer: int) -> Costs:
        saved = min(saved, forward, inputs + weights)
        return Costs(forward, inputs, weights, forward + inputs + weights - saved, transfer)

    return st.builds(one, *[st.integers(0, 6)] * 4, st.integers(0, 5))


def check_against_slow_twin(schedule: Schedule, costs: list[Costs]) -> None:
    slow = end_times_by_relaxation(schedule, costs)
    run = simulate(schedule, costs)
    fast = [[timed.end for timed in run.timeline if timed.rank == rank] for rank in range(schedule.ranks)]
    assert [sorted(ends) for ends in fast] == slow
    assert run.makespan >= max(use.busy for use in run.ranks)


@settings(max_examples=60, deadline=None)
@given(st.data(), any_schedule(max_ranks=4, max_microbatches=8))
def test_events_give_the_longest_path(data: st.DataObject, schedule: Schedule) -> None:
    costs = data.draw(st.lists(small_costs(), min_size=schedule.stages, max_size=schedule.stages))
    check_against_slow_twin(schedule, costs)


@st.composite
def random_schedules(draw: st.DrawFn) -> Schedule:
    """Any placement, whole and split backwards mixed, and any order that doesn't wait for itself."""
    stages, microbatches = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    ranks = draw(st.integers(1, stages))
    placement = tuple(draw(st.integers(0, ranks - 1)) for _ in range(stages))
    chains = []
    for microbatch in range(microbatches):
        chain = [Action(Kind.FORWARD, microbatch, stage) for stage in range(stages)]
        for stage in reversed(range(stages)):
            split = draw(st.booleans())
            kinds = (Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT) if split else (Kind.BACKWARD,)
            chain += [Action(kind, microbatch, stage) for kind in kinds]
        chains.append(chain)
    programs: list[list[tuple[Action, ...]]] = [[] for _ in range(ranks)]
    for microbatch in draw(st.permutations([m for m, chain in enumerate(chains) for _ in chain])):
        action = chains[microbatch].pop(0)
        programs[placement[action.stage]].append((action,))
    return Schedule("random", microbatches, (placement,), tuple(map(tuple, programs)))


@settings(max_examples=60, deadline=None)
@given(st.data(), random_schedules())
def test_events_give_the_longest_path_of_any_order(data: st.DataObject, schedule: Schedule) -> None:
    costs = data.draw(st.lists(small_costs(), min_size=schedule.stages, max_size=schedule.stages))
    check_against_slow_twin(schedule, costs)


@settings(max_examples=40, deadline=None)
@given(any_schedule())
def test_what_is_held_stays_within_bounds(schedule: Schedule) -> None:
    peaks = activation_peaks(schedule)
    assert max(peaks) <= schedule.microbatches
    limits = {"1F1B": schedule.ranks, "ZB-H1": schedule.ranks, "ZBV": schedule.ranks, "ZB-H2": 2 * schedule.ranks - 1}
    limits |= {"DualPipe": schedule.ranks + 1, "DualPipeV": schedule.ranks + Fraction(1, 2)}
    assert max(peaks) <= limits.get(schedule.name, schedule.microbatches)


def test_a_schedule_that_waits_for_itself_is_refused() -> None:
    steps = tuple((Action(kind, 0, 0),) for kind in (Kind.BACKWARD, Kind.FORWARD))
    with pytest.raises(ScheduleError, match="upside down: the ranks wait for each other: rank 0 before B0.0 for F0"):
        simulate(Schedule("upside down", 1, ((0,),), (steps,)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"forward": -1}, "costs are times: forward is -1; use 0 or more"),
        ({"transfer": -0.5}, "transfer is -0.5"),
        ({"overlapped": 4}, "take between 2 and 3 together; got 4"),
        ({"overlapped": 1.5}, "take between 2 and 3 together; got 1.5"),
    ],
)
def test_costs_that_can_not_be_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Costs(**wrong)


def test_an_overlapped_pair_saves_what_both_of_its_stages_can_save() -> None:
    pair = (Action(Kind.FORWARD, 1, 0), Action(Kind.BACKWARD, 0, 1))
    assert step_time(pair, [Costs(4, 4, 4, overlapped=9), Costs(5, 5, 5, overlapped=14)]) == 4 + 10 - 1
    assert step_time(pair[:1], [Costs(4, 4, 4, overlapped=9)]) == 4


def test_costs_in_seconds_may_round() -> None:
    assert 0.1 + (0.1 + 0.1) > 0.3
    with pytest.raises(ValueError, match="together; got 0.31"):
        Costs(0.1, 0.1, 0.1, overlapped=0.31)
    for forward, inputs, weights in ((0.1, 0.1, 0.1), (0.1, 0.1, 0.6)):
        costs = Costs(forward, inputs, weights, overlapped=round(forward + inputs + weights, 1))
        assert costs.for_stage(build_schedule("dualpipe-v", 3, 6)).pair == pytest.approx(costs.pair / 2)


def test_other_bad_input() -> None:
    with pytest.raises(ValueError, match="GPipe has 2 stages, and 3 costs were given"):
        simulate(gpipe(2, 2), [Costs()] * 3)
    with pytest.raises(ValueError, match=r"kept_for_weights is a share between 0 and 1; got 1\.5"):
        simulate(gpipe(2, 2), kept_for_weights=1.5)
    with pytest.raises(ValueError, match="whose costs are all 0"):
        _ = simulate(gpipe(2, 2), Costs(0, 0, 0)).idle_share


def test_the_experiment_prints_all_schedules(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["schedules.py", "--ranks", "4", "--microbatches", "10", "--overlapped", "2.5"])
    runpy.run_path(str(EXPERIMENT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines if line.split() and line.split()[0] in PUBLISHED}
    assert set(table) == set(PUBLISHED) - {"interleaved"}
    assert table["1f1b"] == ["4", "39", "23.1%", "30.0%", "9", "(9)", "9", "4", "1"]
    assert any("interleaved: interleaved 1F1B sends" in line for line in lines)
