"""DualPipe and DualPipeV: two flows of microbatches meet on every rank, so that a forward overlaps a backward.

Source: DeepSeek-V3 technical report (arXiv:2412.19437), figure 5, and the order of steps that DeepSeek published for
both; the V is Sea AI Lab's "cut in half". What one rank does is the same for both: DualPipe on 2H ranks is DualPipeV on
H ranks and its mirror image, with half of the microbatches each.
"""

from __future__ import annotations

from collections import Counter, deque

from jaxllm.parallel.schedules.one_direction import check_counts
from jaxllm.parallel.schedules.schedule import Action, Kind, Schedule, Step
from jaxllm.parallel.schedules.zero_bubble import v_placement

F, B, I, W = Kind.FORWARD, Kind.BACKWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT  # noqa: E741


def dualpipe(ranks: int, microbatches: int) -> Schedule:
    """Half of the microbatches go from rank 0 to the last, half the other way through a second copy of the parameters.

    Rank r holds stage r for the first direction and stage P - 1 - r for the second. Microbatches 0 .. M/2 - 1 go in
    direction 0. Raises ValueError unless ranks and microbatches are even and there are 2 microbatches a rank.
    """
    check_counts("DualPipe", ranks, microbatches)
    if ranks % 2 or microbatches % 2 or microbatches < 2 * ranks:
        raise ValueError(
            f"DualPipe wants an even number of ranks, and an even number of microbatches, 2 a rank or more; got "
            f"{ranks} ranks and {microbatches} microbatches; use {_even(ranks)} ranks and "
            f"{_even(max(microbatches, 2 * _even(ranks)))} microbatches, or DualPipeV, which takes odd numbers"
        )
    half = ranks // 2
    programs = []
    for rank in range(ranks):
        directions = (0, 1) if rank < half else (1, 0)
        stages = tuple((rank, ranks - 1 - rank)[direction] for direction in directions)
        flow = _Flow(stages, directions, tuple(direction * microbatches // 2 for direction in directions))
        programs.append(_two_flows(flow, min(rank, ranks - 1 - rank), half, microbatches // 2))
    stages = tuple(range(ranks))
    return Schedule("DualPipe", microbatches, (stages, stages[::-1]), tuple(programs))


def dualpipe_v(ranks: int, microbatches: int) -> Schedule:
    """DualPipe with one copy of the parameters: rank r holds stages r and 2P - 1 - r, and the second flow is the first
    on its way back.

    Raises ValueError where there are fewer than 2 microbatches a rank.
    """
    check_counts("DualPipeV", ranks, microbatches)
    if microbatches < 2 * ranks:
        raise ValueError(
            f"DualPipeV wants 2 microbatches a rank or more; got {microbatches} for {ranks} ranks: use {2 * ranks} "
            f"microbatches or more, or ZBV"
        )
    programs = []
    for rank in range(ranks):
        flow = _Flow((rank, 2 * ranks - 1 - rank), (0, 0), (0, 0))
        programs.append(_two_flows(flow, rank, ranks, microbatches))
    return Schedule("DualPipeV", microbatches, (v_placement(ranks),), tuple(programs))


class _Flow:
    """Writes down what one rank does. Lane 0 is the flow that reaches the rank first, lane 1 the other one."""

    def __init__(self, stages: tuple[int, ...], directions: tuple[int, ...], first_microbatch: tuple[int, ...]) -> None:
        self.stages, self.directions, self.first_microbatch = stages, directions, first_microbatch
        self.steps: list[Step] = []
        self.counts: Counter[tuple[bool, int]] = Counter()
        self.waiting: deque[Action] = deque()

    def do(self, *work: tuple[Kind, int]) -> None:
        """One step: the next microbatch of a kind in a lane, or two of them that overlap."""
        self.steps.append(tuple(self._next(kind, lane) for kind, lane in work))

    def do_weights(self) -> None:
        """The gradient of weights that waits longest."""
        self.steps.append((self.waiting.popleft(),))

    def _next(self, kind: Kind, lane: int) -> Action:
        number = self.counts[kind is F, lane]
        self.counts[kind is F, lane] += 1
        place = (self.first_microbatch[lane] + number, self.stages[lane], self.directions[lane])
        if kind is I:
            self.waiting.append(Action(W, *place))
        return Action(kind, *place)


def _two_flows(flow: _Flow, depth: int, depths: int, count: int) -> tuple[Step, ...]:
    """The steps of the rank at `depth` of `depths`, where lane 0 enters at depth 0 and both lanes meet at the deepest;
    `count` microbatches in each lane."""
    deeper = depths - 1 - depth
    for _ in range(2 * deeper):
        flow.do((F, 0))
    for _ in range(depth + 1):
        flow.do((F, 0))
        flow.do((F, 1))
    for _ in range(deeper):
        flow.do((I, 1))
        flow.do_weights()
        flow.do((F, 1))
    for i in range(count - 2 * depths + depth + 1):
        if i == 0 and deeper == 0:
            # Not overlapped: the rank where the lanes meet sends its first forward on sooner.
            flow.do((F, 0))
            flow.do((B, 1))
        else:
            flow.do((F, 0), (B, 1))
        flow.do((F, 1), (B, 0))
    for _ in range(deeper):
        flow.do((B, 1))
        flow.do((F, 1), (B, 0))
    # The last 2 * (depth + 1) backwards: the later half is split, and weights wait until nobody waits for this rank.
    for i in range(2 * (depth + 1)):
        flow.do((B if i <= depth else I, 1 - i % 2))
    for _ in range(deeper):
        flow.do_weights()
        flow.do((I, 0))
    for _ in range(depth + 1):
        flow.do_weights()
    return tuple(flow.steps)


def _even(count: int) -> int:
    return count + count % 2
