"""How long a pipeline schedule takes, where ranks idle, and what each holds at most: simulated event by event.

What is simulated: a rank does its steps in order, each as soon as its inputs are there; results go to other ranks in
the background, one message at a time on the link from one rank to another. Times have no unit: seconds, or multiples
of one forward. Numbers are added and compared only, so that integers and fractions stay exact.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from jaxllm.parallel.schedules import Action, Kind, Schedule, Step
from jaxllm.parallel.schedules.ticks import deadlock, missing, ticks

Time = int | float | Fraction


@dataclass(frozen=True)
class Costs:
    """Time that one microbatch takes on one stage, and on its way to the next."""

    forward: Time = 1
    input_gradient: Time = 1
    """The backward pass without the gradient of the weights."""
    weight_gradient: Time = 1
    overlapped: Time | None = None
    """A forward and a whole backward that overlap, F&B in the literature; None: as long as one after the other."""
    transfer: Time = 0
    """A result on the link between two ranks; nothing within a rank."""

    def __post_init__(self) -> None:
        for name in ("forward", "input_gradient", "weight_gradient", "transfer"):
            if getattr(self, name) < 0:
                raise ValueError(f"costs are times: {name} is {getattr(self, name)}; use 0 or more")
        apart, slack = self.forward + self.backward, 1e-9 * float(self.forward + self.backward)  # rounding of floats
        if not max(self.forward, self.backward) - slack <= self.pair <= apart + slack:
            raise ValueError(
                f"a forward of {self.forward} and a backward of {self.backward} that overlap take between "
                f"{max(self.forward, self.backward)} and {apart} together; got {self.overlapped}"
            )

    @property
    def backward(self) -> Time:
        """A whole backward pass."""
        return self.input_gradient + self.weight_gradient

    @property
    def pair(self) -> Time:
        """A forward and a whole backward in one step."""
        return self.forward + self.backward if self.overlapped is None else self.overlapped

    def of(self, kind: Kind) -> Time:
        """The time of one action."""
        match kind:
            case Kind.FORWARD:
                return self.forward
            case Kind.BACKWARD:
                return self.backward
            case Kind.INPUT_GRADIENT:
                return self.input_gradient
            case Kind.WEIGHT_GRADIENT:
                return self.weight_gradient

    def for_stage(self, schedule: Schedule) -> Costs:
        """Costs of one stage of a schedule, from those of a P-th of the model; messages keep their size.

        This is what makes schedules comparable: a rank that holds two stages of one copy of the model has smaller ones.
        """
        share = Fraction(schedule.ranks, schedule.stages)
        names = ("forward", "input_gradient", "weight_gradient", "overlapped")
        times = {name: time for name in names if (time := getattr(self, name)) is not None}
        return replace(self, **{name: time * share for name, time in times.items()})


@dataclass(frozen=True)
class Timed:
    """One step and when it ran."""

    rank: int
    step: Step
    start: Time
    end: Time


@dataclass(frozen=True)
class RankUse:
    """What one rank did with its time and memory."""

    busy: Time
    start: Time
    end: Time
    idle: Time
    """Within the whole step, from the first start on any rank to the last end: what a barrier at the end costs."""
    bubble: Time
    """Between the rank's own first start and last end: what is lost if ranks begin the next step on their own."""
    peak_activations: Fraction
    """Microbatches held at most, each as large as the activations of a P-th of the model."""
    parameters: Fraction
    """Copies of a P-th of the model."""


@dataclass(frozen=True)
class Simulation:
    """A schedule that has run."""

    schedule: Schedule
    costs: tuple[Costs, ...]
    """Of each stage."""
    timeline: tuple[Timed, ...]
    """By start, then by rank."""
    ranks: tuple[RankUse, ...]

    @property
    def makespan(self) -> Time:
        """From the first start to the last end."""
        return max(use.end for use in self.ranks) - min(use.start for use in self.ranks)

    @property
    def idle_share(self) -> float:
        """The share of all ranks' time in which they idle: (P - 1) / (M + P - 1) for GPipe and 1F1B."""
        return float(_divide(sum(use.idle for use in self.ranks), self.makespan * len(self.ranks)))

    @property
    def overhead(self) -> float:
        """Idle time over busy time: (P - 1) / M for GPipe and 1F1B."""
        return float(_divide(sum(use.idle for use in self.ranks), sum(use.busy for use in self.ranks)))

    @property
    def idle(self) -> Time:
        """The idle time of the rank that idles most, within the whole step."""
        return max(use.idle for use in self.ranks)

    @property
    def bubble(self) -> Time:
        """The longest bubble of a rank within its own first start and last end."""
        return max(use.bubble for use in self.ranks)

    @property
    def peak_activations(self) -> Fraction:
        """Of the rank that holds most."""
        return max(use.peak_activations for use in self.ranks)


def simulate(
    schedule: Schedule, costs: Costs | Sequence[Costs] | None = None, *, kept_for_weights: Fraction | float = 1
) -> Simulation:
    """Run a schedule. `costs` are those of one stage, or of each; `Costs.for_stage` takes those of a P-th of the model.

    `kept_for_weights` is the share of a microbatch's activations that stays between the gradient of the inputs and that
    of the weights. Raises ScheduleError where ranks wait for each other, ValueError for costs of another number of
    stages.
    """
    stage_costs = _costs_of_stages(schedule, costs)
    peaks = activation_peaks(schedule, kept_for_weights)
    timeline = _Run(schedule, stage_costs).until_done()
    uses = tuple(_use(schedule, timeline, rank, peaks[rank]) for rank in range(schedule.ranks))
    return Simulation(schedule, stage_costs, tuple(sorted(timeline, key=lambda t: (t.start, t.rank))), uses)


def end_times_by_relaxation(schedule: Schedule, costs: Costs | Sequence[Costs] | None = None) -> list[list[Time]]:
    """The slow twin of `simulate`: when each step of each rank ends, as the longest path to it. All times begin at 0
    and grow until every wait is honoured. Raises ScheduleError where ranks wait for each other."""
    ticks(schedule)  # or times would grow for ever
    stage_costs = _costs_of_stages(schedule, costs)
    ends: list[list[Time]] = [[0] * len(program) for program in schedule.programs]
    place = {a: (rank, i) for rank, program in enumerate(schedule.programs) for i, s in enumerate(program) for a in s}
    arrivals: dict[tuple[Action, int], Time] = {}  # when a result can be read on a rank
    changed = True
    while changed:
        changed = False
        link_free: dict[tuple[int, int], Time] = {}
        for action, (rank, i) in place.items():  # in the order of the programs, which is that of a link's messages
            arrivals[action, rank] = ends[rank][i]
            if (receiver := schedule.receiver(action)) is not None:
                leaves = max(ends[rank][i], link_free.get((rank, receiver), 0))
                link_free[rank, receiver] = leaves + stage_costs[action.stage].transfer
                arrivals[action, receiver] = link_free[rank, receiver]
        for rank, program in enumerate(schedule.programs):
            for i, step in enumerate(program):
                waits = [arrivals[needed, rank] for action in step for needed in schedule.needs(action)]
                end = max([ends[rank][i - 1] if i else 0, *waits]) + step_time(step, stage_costs)
                changed |= end != ends[rank][i]
                ends[rank][i] = end
    return ends


def _costs_of_stages(schedule: Schedule, costs: Costs | Sequence[Costs] | None) -> tuple[Costs, ...]:
    if costs is None or isinstance(costs, Costs):
        return (costs or Costs(),) * schedule.stages
    if len(costs) != schedule.stages:
        raise ValueError(
            f"{schedule.name} has {schedule.stages} stages, and {len(costs)} costs were given; give one for all "
            f"stages, or one for each"
        )
    return tuple(costs)


def step_time(step: Step, costs: Sequence[Costs]) -> Time:
    """The time of one step; an overlapped pair saves what the lesser of its two stages can save."""
    apart = sum(costs[action.stage].of(action.kind) for action in step)
    if len(step) == 1:
        return apart
    saved = (costs[action.stage].forward + costs[action.stage].backward - costs[action.stage].pair for action in step)
    return apart - min(saved)


def activation_peaks(schedule: Schedule, kept_for_weights: Fraction | float = 1) -> tuple[Fraction, ...]:
    """Microbatches that each rank holds at most, in units of the activations of a P-th of the model.

    From the beginning of the forward to the end of the backward or of the gradient of the weights; of what is held, the
    end of the gradient of the inputs frees the share that is not `kept_for_weights`. Both forward and backward of an
    overlapped pair hold theirs. It follows from the order alone, whatever things cost. Not counted: messages that
    arrived and wait, gradients of activations, and gradients of weights.
    """
    kept = Fraction(kept_for_weights)
    if not 0 <= kept <= 1:
        raise ValueError(f"kept_for_weights is a share between 0 and 1; got {kept_for_weights}")
    unit = Fraction(schedule.ranks, schedule.stages)
    freed = {Kind.FORWARD: Fraction(0), Kind.BACKWARD: unit}
    freed |= {Kind.INPUT_GRADIENT: unit * (1 - kept), Kind.WEIGHT_GRADIENT: unit * kept}
    peaks = []
    for program in schedule.programs:
        held = peak = Fraction(0)
        for step in program:
            held += unit * sum(action.kind is Kind.FORWARD for action in step)
            peak = max(peak, held)
            held -= sum(freed[action.kind] for action in step)
        peaks.append(peak)
    return tuple(peaks)


class _Run:
    """The state of a simulation: what is done, what is under way, and the events to come."""

    def __init__(self, schedule: Schedule, costs: Sequence[Costs]) -> None:
        self.schedule, self.costs = schedule, costs
        self.next_step = [0] * schedule.ranks
        self.working = [False] * schedule.ranks
        self.here: list[set[Action]] = [set() for _ in range(schedule.ranks)]  # results that a rank can read
        self.links: dict[tuple[int, int], deque[Action]] = {}  # messages on a link, the first one on its way
        self.events: list[tuple[Time, int, Callable[[Time], None]]] = []
        self.count = Counter[str]()
        self.timeline: list[Timed] = []

    def until_done(self) -> list[Timed]:
        for rank in range(self.schedule.ranks):
            self.try_start(rank, 0)
        while self.events:
            now, _, happen = heapq.heappop(self.events)
            happen(now)
        if any(at < len(program) for at, program in zip(self.next_step, self.schedule.programs, strict=True)):
            raise deadlock(self.schedule, self.next_step, set().union(*self.here))
        return self.timeline

    def at(self, time: Time, happen: Callable[[Time], None]) -> None:
        self.count["events"] += 1
        heapq.heappush(self.events, (time, self.count["events"], happen))

    def try_start(self, rank: int, now: Time) -> None:
        program = self.schedule.programs[rank]
        if self.working[rank] or self.next_step[rank] == len(program):
            return
        step = program[self.next_step[rank]]
        if missing(self.schedule, step, self.here[rank]):
            return
        self.working[rank] = True
        self.next_step[rank] += 1
        timed = Timed(rank, step, now, now + step_time(step, self.costs))
        self.timeline.append(timed)
        self.at(timed.end, lambda now: self.finish(timed, now))

    def finish(self, timed: Timed, now: Time) -> None:
        self.working[timed.rank] = False
        self.here[timed.rank].update(timed.step)
        for action in timed.step:
            receiver = self.schedule.receiver(action)
            if receiver is not None:
                self.send(action, (timed.rank, receiver), now)
        self.try_start(timed.rank, now)

    def send(self, action: Action, link: tuple[int, int], now: Time) -> None:
        queue = self.links.setdefault(link, deque())
        queue.append(action)
        if len(queue) == 1:
            self.travel(link, now)

    def travel(self, link: tuple[int, int], now: Time) -> None:
        self.at(now + self.costs[self.links[link][0].stage].transfer, lambda now: self.arrive(link, now))

    def arrive(self, link: tuple[int, int], now: Time) -> None:
        queue = self.links[link]
        self.here[link[1]].add(queue.popleft())
        if queue:
            self.travel(link, now)
        self.try_start(link[1], now)


def _use(schedule: Schedule, timeline: list[Timed], rank: int, peak: Fraction) -> RankUse:
    mine = [timed for timed in timeline if timed.rank == rank]
    busy = sum(timed.end - timed.start for timed in mine)
    start, end = (mine[0].start, mine[-1].end) if mine else (0, 0)
    whole = max(timed.end for timed in timeline) - min(timed.start for timed in timeline)
    held = {stage for _, stage in schedule.chunks[rank]}
    parameters = Fraction(len(held) * schedule.ranks, schedule.stages)
    return RankUse(busy, start, end, whole - busy, end - start - busy, peak, parameters)


def _divide(part: Time, whole: Time) -> Time:
    if not whole:
        raise ValueError("a schedule whose costs are all 0 has no shares of time")
    return part / whole
