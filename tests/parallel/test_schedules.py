"""Pipeline schedules: complete, free of deadlock, and in the order that others run them in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.parallel.schedules import (
    SCHEDULES,
    Action,
    Kind,
    Schedule,
    ScheduleError,
    build_schedule,
    dualpipe,
    dualpipe_v,
    gpipe,
    interleaved,
    one_forward_one_backward,
    ticks,
    zb_h1,
    zb_v,
)

F, B, I, W = Kind.FORWARD, Kind.BACKWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT  # noqa: E741


def any_schedule(max_ranks: int = 6, max_microbatches: int = 14) -> st.SearchStrategy[Schedule]:
    """Every kind of schedule; counts that don't go with it are made larger."""

    def one(name: str, ranks: int, microbatches: int, chunks: int) -> Schedule:
        if name == "interleaved":
            microbatches = -(-microbatches // ranks) * ranks
        if name == "dualpipe":
            ranks, microbatches = ranks + ranks % 2, microbatches + microbatches % 2
        if name.startswith("dualpipe"):
            microbatches = max(microbatches, 2 * ranks)
        return build_schedule(name, ranks, microbatches, chunks)

    names, counts = st.sampled_from(list(SCHEDULES)), st.integers(1, max_microbatches)
    return st.builds(one, names, st.integers(1, max_ranks), counts, st.integers(1, 3))


@settings(max_examples=80, deadline=None)
@given(any_schedule())
def test_every_microbatch_passes_every_stage_forward_and_backward_once(schedule: Schedule) -> None:
    counts = Counter(
        (action.microbatch, action.stage, half)
        for rank in range(schedule.ranks)
        for action in schedule.actions(rank)
        for half in {F: "f", B: "iw", I: "i", W: "w"}[action.kind]
    )
    everything = {(m, s, h) for m in range(schedule.microbatches) for s in range(schedule.stages) for h in "fiw"}
    assert set(counts) == everything
    assert set(counts.values()) == {1}


@settings(max_examples=80, deadline=None)
@given(any_schedule())
def test_in_lock_step_all_steps_run_in_order_and_after_what_they_read(schedule: Schedule) -> None:
    table = ticks(schedule)
    for rank, program in enumerate(schedule.programs):
        assert tuple(row[rank] for row in table if row[rank] is not None) == program
    tick_of = {action: tick for tick, row in enumerate(table) for step in row if step for action in step}
    for action, tick in tick_of.items():
        assert all(tick_of[needed] < tick for needed in schedule.needs(action))


@settings(max_examples=40, deadline=None)
@given(any_schedule())
def test_who_reads_a_result_needs_it(schedule: Schedule) -> None:
    sent = 0
    for rank in range(schedule.ranks):
        for action in schedule.actions(rank):
            reader = schedule.reader(action)
            assert schedule.chunks[rank][schedule.chunk(action)] == (action.direction, action.stage)
            if reader is None:
                assert schedule.receiver(action) is None
                continue
            assert action in schedule.needs(reader)
            assert schedule.receiver(action) in (schedule.rank(reader), None)
            assert (schedule.receiver(action) is None) == (schedule.rank(reader) == rank)
            sent += 1
    assert sent == 2 * schedule.microbatches * (schedule.stages - 1)


def test_what_an_action_reads() -> None:
    schedule = zb_v(2, 3)  # stages 0 and 3 on rank 0, 1 and 2 on rank 1
    assert schedule.needs(Action(F, 1, 0)) == ()
    assert schedule.needs(Action(F, 1, 2)) == (Action(F, 1, 1),)
    assert schedule.needs(Action(I, 1, 3)) == (Action(F, 1, 3),)
    assert schedule.needs(Action(I, 1, 0)) == (Action(F, 1, 0), Action(I, 1, 1))
    assert schedule.needs(Action(W, 1, 0)) == (Action(I, 1, 0),)
    assert schedule.receiver(Action(F, 1, 1)) is None
    assert schedule.receiver(Action(I, 1, 1)) == 0
    assert one_forward_one_backward(2, 3).needs(Action(B, 1, 0)) == (Action(F, 1, 0), Action(B, 1, 1))


@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 1), (3, 1), (4, 4), (4, 9)])
def test_gpipe_in_lock_step_takes_as_long_as_the_formula_says(ranks: int, microbatches: int) -> None:
    assert len(ticks(gpipe(ranks, microbatches))) == 2 * (microbatches + ranks - 1)


def test_one_forward_one_backward_by_hand() -> None:
    orders = [
        " ".join(f"{a.kind}{a.microbatch}" for a in one_forward_one_backward(3, 4).actions(rank)) for rank in range(3)
    ]
    assert orders == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 2), (2, 4), (4, 8), (4, 12), (3, 6), (8, 24)])
@pytest.mark.parametrize(
    ("build", "other", "chunks"),
    [
        (lambda ranks, count: interleaved(ranks, count, 2), "ScheduleInterleaved1F1B", 2),
        (lambda ranks, count: interleaved(ranks, count, 3), "ScheduleInterleaved1F1B", 3),
        (zb_h1, "ScheduleInterleavedZeroBubble", 1),
        (zb_v, "ScheduleZBVZeroBubble", 2),
        (dualpipe_v, "ScheduleDualPipeV", 2),
    ],
)
def test_the_order_is_that_of_pytorch(build, other: str, chunks: int, ranks: int, microbatches: int) -> None:
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    kinds = {"FORWARD": F, "FULL_BACKWARD": B, "BACKWARD_INPUT": I, "BACKWARD_WEIGHT": W}
    theirs = object.__new__(getattr(schedules, other))
    theirs.pp_group_size, theirs._n_microbatches, theirs.n_local_stages = ranks, microbatches, chunks
    theirs.num_stages = theirs._num_stages = ranks * chunks
    theirs.number_of_rounds = max(1, microbatches // ranks)
    theirs.microbatches_per_round = microbatches // theirs.number_of_rounds
    schedule = build(ranks, microbatches)
    for rank in range(ranks):
        theirs.rank = rank
        steps = [step.sub_actions or (step,) for step in theirs._calculate_single_rank_operations(rank) if step]
        assert schedule.programs[rank] == tuple(
            tuple(Action(kinds[a.computation_type.name], a.microbatch_index, a.stage_index) for a in step)
            for step in steps
        )


@pytest.mark.parametrize(("half", "count"), [(1, 2), (2, 4), (3, 7), (4, 10)])
def test_dualpipe_is_dualpipe_v_and_its_mirror_image(half: int, count: int) -> None:
    # DualPipeV on half of the ranks: its stages 0 .. H-1 are one direction's first half, H .. 2H-1 the other's second.
    two_ways, v = dualpipe(2 * half, 2 * count), dualpipe_v(half, count)
    for rank in range(half):
        for ours, theirs in zip(two_ways.programs[rank], v.programs[rank], strict=True):
            assert [(a.kind, a.stage) for a in ours] == [(a.kind, a.stage) for a in theirs]
            for a, b in zip(ours, theirs, strict=True):
                assert a.direction == (a.stage >= half)
                assert a.microbatch == b.microbatch + count * a.direction
        mirrored = [
            tuple(replace(a, microbatch=(a.microbatch + count) % (2 * count), direction=1 - a.direction) for a in step)
            for step in two_ways.programs[rank]
        ]
        assert two_ways.programs[2 * half - 1 - rank] == tuple(mirrored)


def test_dualpipe_of_8_ranks_and_20_microbatches_has_the_published_phases() -> None:
    # Rank 0 of figure 5 in the DeepSeek-V3 report; 0 is the direction that begins on this rank.
    steps = ["&".join(f"{a.kind}{a.direction}" for a in step) for step in dualpipe(8, 20).programs[0]]
    fill = ["F0"] * 6 + ["F0", "F1"] + ["I1", "W1", "F1"] * 3
    drain = ["B1", "F1&B0"] * 3 + ["B1", "I0"] + ["W0", "I0"] * 3 + ["W0"]
    assert steps == fill + ["F0&B1", "F1&B0"] * 3 + drain


@pytest.mark.parametrize(
    ("name", "ranks", "microbatches", "message"),
    [
        ("gpipe", 0, 4, "GPipe wants at least 1 rank and 1 microbatch; got 0 and 4"),
        ("1f1b", 4, 0, "1F1B wants at least 1 rank and 1 microbatch; got 4 and 0"),
        ("interleaved", 8, 20, "20 microbatches don't divide by 8 ranks; use 16 or 24 microbatches"),
        ("interleaved", 8, 3, "3 microbatches don't divide by 8 ranks; use 8 microbatches"),
        ("dualpipe", 3, 12, "got 3 ranks and 12 microbatches; use 4 ranks and 12 microbatches"),
        ("dualpipe", 8, 8, "got 8 ranks and 8 microbatches; use 8 ranks and 16 microbatches"),
        ("dualpipe", 4, 9, "got 4 ranks and 9 microbatches; use 4 ranks and 10 microbatches"),
        ("dualpipe-v", 4, 7, "got 7 for 4 ranks: use 8 microbatches or more"),
        ("zb-v", 4, 7, "no schedule is called 'zb-v'; use one of gpipe, 1f1b, interleaved, zb-h1, zb-h2, zbv,"),
    ],
)
def test_counts_that_do_not_work_are_refused(name: str, ranks: int, microbatches: int, message: str) -> None:
    with pytest.raises(ValueError) as error:
        build_schedule(name, ranks, microbatches)
    assert message in str(error.value)


def test_interleaved_wants_a_chunk() -> None:
    with pytest.raises(ValueError, match="at least 1 chunk a rank; got 0"):
        interleaved(2, 4, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda program: program[:-1], r"microbatch 1 on stage 0 has the actions F; wanted F and B once each"),
        (lambda program: (*program, program[0]), r"microbatch 0 on stage 0 has the actions B F F; wanted"),
        (lambda program: (*program, (Action(W, 0, 0),)), r"has the actions B F W; wanted"),
        (lambda program: (*program, (Action(F, 0, 1),)), r"rank 0 computes F0 of stage 1, which lies on rank 1"),
        (lambda program: (*program, (Action(F, 2, 0),)), r"rank 0 computes F2 of stage 0 in direction 0; there are 2"),
        (lambda program: (*program, (Action(F, -1, 0),)), r"rank 0 computes F-1 of stage 0"),
        (lambda program: (*program, ()), r"rank 0 has the step \(nothing\)"),
        (lambda program: ((*program[0], *program[1]),), r"rank 0 has the step F0.0&F1.0; a step is one action, or"),
        (lambda program: ((*program[0], *program[2]),), r"rank 0 has the step F0.0&B0.0; .* of another microbatch"),
    ],
)
def test_a_broken_schedule_is_refused(change, message: str) -> None:
    whole = gpipe(2, 2)
    with pytest.raises(ScheduleError, match=message):
        replace(whole, programs=(change(whole.programs[0]), whole.programs[1]))


def test_placements_that_make_no_sense_are_refused() -> None:
    whole = gpipe(2, 2)
    with pytest.raises(ScheduleError, match=r"a stage lies on a rank outside 0 \.\. 1"):
        replace(whole, placement=((0, 2),))
    with pytest.raises(ScheduleError, match="the directions place different numbers of stages"):
        replace(whole, placement=((0, 1), (1,)))


def test_a_microbatch_has_one_direction() -> None:
    programs = [((Action(F, 0, rank, rank),), (Action(B, 0, rank, rank),)) for rank in range(2)]
    with pytest.raises(ScheduleError, match="microbatch 0 goes in more than one direction"):
        Schedule("crossed", 1, ((0, 1), (0, 1)), tuple(programs))


def test_ranks_that_wait_for_each_other_are_named() -> None:
    orders = [(F, 0), (B, 0), (F, 1), (B, 1)], [(F, 0), (F, 1), (B, 0), (B, 1)]
    programs = (tuple((Action(kind, m, stage),) for kind, m in order) for stage, order in enumerate(orders))
    stuck = Schedule("crossed", 2, ((0, 1),), tuple(programs))
    with pytest.raises(ScheduleError) as error:
        ticks(stuck)
    assert str(error.value) == (
        "crossed: the ranks wait for each other: "
        "rank 0 before B0.0 for B0 of stage 1; rank 1 before F1.1 for F1 of stage 0"
    )
