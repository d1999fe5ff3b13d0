"""The tables of instructions, carried out on paper: in each slot a rank finds what the schedule says it reads."""

import numpy as np
import pytest

from jaxllm.parallel.pipeline.instructions import BACKWARDS, FIRST, LAST, allot, instructions
from jaxllm.parallel.pipeline.stage_routes import StageRoutes
from jaxllm.parallel.schedules import SCHEDULES, Kind, build_schedule
from jaxllm.plan.schedule_simulation import activation_peaks

SIZES = [(name, ranks, count) for name in SCHEDULES for ranks, count in ((2, 4), (4, 8), (4, 12), (6, 12))]
SIZES += [("interleaved", 3, 9), ("zbv", 3, 2), ("dualpipe-v", 3, 7), ("gpipe", 1, 3), ("zb-h1", 5, 2)]


def carried_out(program):
    """Run the numbers on names of what they stand for. Returns the steps of each rank as (kind, microbatch, stage)."""
    schedule, c = program.schedule, program.columns
    ranks, last = range(schedule.ranks), schedule.stages - 1
    stash = {name: [[None] * size for _ in ranks] for name, size in program.slots.items()}
    done = [[] for _ in ranks]
    for t in range(program.ticks):
        sent = {"x": [None] * schedule.ranks, "y_bar": [None] * schedule.ranks}
        for r in ranks:
            read = lambda name, slot: stash[name][r][slot[t, r]]  # noqa: B023, E731
            if c.forward[t, r]:
                m, s = int(c.forward_microbatch[t, r]), int(c.forward_stage[t, r])
                assert s != last and bool(c.forward_ends[t, r] & FIRST) == (s == 0)
                assert s == 0 or read("x", c.forward_x) == ("x", m, s)
                sent["x"][r] = ("x", m, s + 1)
                done[r].append(("F", m, s))
            if c.backward[t, r]:
                kind = BACKWARDS[c.backward[t, r] - 1]
                m, s = int(c.backward_microbatch[t, r]), int(c.backward_stage[t, r])
                assert c.backward_ends[t, r] == FIRST * (s == 0) + LAST * (s == last)
                assert schedule.chunks[r][c.backward_chunk[t, r]][1] == s
                if kind is Kind.WEIGHT_GRADIENT:
                    assert read("saved", c.backward_saved) == ("saved", m, s)
                else:
                    assert s == 0 or read("x", c.backward_x) == ("x", m, s)
                    assert s == last or read("y_bar", c.backward_y_bar) == ("y_bar", m, s)
                    sent["y_bar"][r] = ("y_bar", m, s - 1)
                if kind is Kind.INPUT_GRADIENT:
                    stash["saved"][r][c.backward_saved[t, r]] = ("saved", m, s)
                done[r].append((kind.value, m, s))
        for channel in program.channels:
            source = {receiver: sender for sender, receiver in channel.pairs}
            assert all((receiver - sender) % schedule.ranks == channel.shift for sender, receiver in channel.pairs)
            for r in ranks:
                message = sent[channel.payload][source[r]] if r in source else None
                stash[channel.payload][r][channel.slots[t, r]] = message
    return done


@pytest.mark.parametrize(("name", "ranks", "microbatches"), SIZES)
def test_every_slot_holds_what_is_read(name, ranks, microbatches):
    program = instructions(build_schedule(name, ranks, microbatches))
    schedule, last = program.schedule, program.schedule.stages - 1
    for rank, steps in enumerate(carried_out(program)):
        planned = [(a.kind.value, a.microbatch, a.stage) for a in schedule.actions(rank)]
        # The last stage's forward is part of its backward.
        assert steps == [step for step in planned if step[0] != "F" or step[2] != last]
        assert program.executed(rank) == list(schedule.programs[rank])


@pytest.mark.parametrize("name", SCHEDULES)
def test_stashes_are_as_large_as_the_schedule_needs(name):
    schedule = build_schedule(name, 4, 16)
    program = instructions(schedule)
    # The simulator counts from a forward's beginning; here an input takes a slot from its arrival, up to one for each
    # rank that it passes before. The slot for waste is one more.
    most = max(activation_peaks(schedule)) * schedule.stages / schedule.ranks
    assert most - 1 <= program.slots["x"] - 1 <= most + schedule.ranks // 2
    split = schedule.name.startswith("Z") or schedule.name.startswith("Dual")
    assert (program.slots["saved"] > 1) == split == (Kind.WEIGHT_GRADIENT in program.kinds)


def test_messages_of_a_tick():
    shifts = {
        name: {(c.payload, c.shift) for c in instructions(build_schedule(name, 4, 8)).channels} for name in SCHEDULES
    }
    there_and_back = {("x", 1), ("y_bar", 3)}
    assert all(shifts[name] == there_and_back for name in ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2"))
    assert shifts["dualpipe"] == there_and_back | {("x", 3), ("y_bar", 1)}
    assert shifts["zbv"] == shifts["dualpipe-v"] == shifts["dualpipe"] | {("x", 0), ("y_bar", 0)}


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 8), (8, 32)])
def test_the_time_in_lock_step(ranks, microbatches):
    time = {
        name: instructions(build_schedule(name, ranks, microbatches)).lock_step_time()
        for name in ("gpipe", "1f1b", "dualpipe")
    }
    ticks = microbatches + ranks - 1
    assert time["gpipe"] == (ticks - 1) + 3 * ticks, "the last stage's forwards are part of its backwards"
    # In a steady tick of 1F1B one rank does a forward while its neighbour does a backward: it takes a backward's time.
    assert time["dualpipe"] < time["gpipe"] < time["1f1b"]


def test_numbers_are_used_again():
    assert allot([(0, 3), (1, 2), (3, 5), (4, 6), (7, 7)]) == [0, 1, 1, 0, 0]
    assert allot([(2, 2), (0, 1)]) == [0, 0]


@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zbv", "dualpipe"])
@pytest.mark.parametrize("ranks", [2, 4, 6])
def test_stages_arrive_where_the_schedule_places_them(name, ranks):
    schedule = build_schedule(name, ranks, 2 * ranks)
    routes = StageRoutes.of(schedule.placement, ranks)
    assert routes.kept * ranks == schedule.stages
    for direction, rounds in enumerate(routes.rounds):
        here = [[stage for d, stage in schedule.chunks[rank] if d == direction] for rank in range(ranks)]
        if rounds is None:
            assert np.array_equal(here, np.arange(schedule.stages).reshape(ranks, -1))
            continue
        arrived = [[None] * routes.kept for _ in range(ranks)]
        for r in rounds:
            assert sorted(sender for sender, _ in r.pairs) == sorted(to for _, to in r.pairs) == list(range(ranks))
            for sender, receiver in r.pairs:
                arrived[receiver][r.received[receiver]] = sender * routes.kept + int(r.sent[sender])
        assert arrived == here
