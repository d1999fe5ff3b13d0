"""Zero-bubble schedules: the gradient of the weights waits, so that the gradient of the inputs goes on sooner.

Source: Qi et al. 2023 (arXiv:2401.10241).
"""

from __future__ import annotations

from jaxllm.parallel.schedules.one_direction import check_counts, in_order
from jaxllm.parallel.schedules.schedule import Kind, Schedule, Step

F, I, W = Kind.FORWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT  # noqa: E741


def zb_h1(ranks: int, microbatches: int) -> Schedule:
    """As many microbatches on a rank as 1F1B has on the first; a third of its bubble when F = I = W (figure 2)."""
    return _delayed("ZB-H1", ranks, microbatches, rounds=1)


def zb_h2(ranks: int, microbatches: int) -> Schedule:
    """No bubble when F = I = W, for nearly twice the activations; ranks end one after another (figure 3)."""
    return _delayed("ZB-H2", ranks, microbatches, rounds=2)


def _delayed(name: str, ranks: int, microbatches: int, rounds: int) -> Schedule:
    """1F1B with backwards split. Rank r does `rounds` forwards more than the rank after it before its first backward,
    and keeps `rounds` * r gradients of weights for the end: each rank holds rounds * (P - 1) + 1 microbatches."""
    check_counts(name, ranks, microbatches)
    programs = []
    for rank in range(ranks):
        ahead = min(rounds * (ranks - 1 - rank), microbatches)
        order = [F] * ahead
        for i in range(microbatches):
            order += [F] * (ahead + i < microbatches) + [I] + [W] * (i >= rounds * rank)
        order += [W] * min(rounds * rank, microbatches)
        programs.append(tuple(in_order([(kind, rank) for kind in order])))
    return Schedule(name, microbatches, (tuple(range(ranks)),), tuple(programs))


def zb_v(ranks: int, microbatches: int) -> Schedule:
    """Two stages a rank in the shape of a V, r and 2P - 1 - r: no bubble when F = I = W, at 1F1B's memory (section 6).

    The order is made for at least 2P - 1 microbatches; with fewer it is that order with the others left out.
    """
    check_counts("ZBV", ranks, microbatches)
    count = max(microbatches, 2 * ranks - 1)
    programs = []
    for rank in range(ranks):
        steps = _v_order(rank, ranks, count)
        programs.append(tuple(step for step in steps if step[0].microbatch < microbatches))
    return Schedule("ZBV", microbatches, (v_placement(ranks),), tuple(programs))


def v_placement(ranks: int) -> tuple[int, ...]:
    """Ranks of stages that go down through all ranks and up again."""
    return (*range(ranks), *reversed(range(ranks)))


def _v_order(rank: int, ranks: int, count: int) -> list[Step]:
    """The order of one rank, as kinds on the way down (stage r) and on the way up (stage 2P - 1 - r)."""
    down, up = rank, 2 * ranks - 1 - rank
    turn = 2 * (ranks - rank) - 1  # forwards down until the first microbatch is back from the bottom of the V
    order = [(F, down)] * turn
    order += [(F, up), (F, down)] * rank
    order += [(F, up), (I, up), (W, up)] * (ranks - rank)
    for i in range(count - ranks):
        order += [(F, down)] * (turn + rank + i < count) + [(I, down), (W, down), (F, up), (I, up), (W, up)]
    # Gradients of inputs that other ranks wait for go first; rank r keeps r gradients of weights on each leg.
    order += [(I, down), (I, up)] * rank
    order += [(I, down), (W, down)] * (ranks - rank)
    order += [(W, up)] * rank + [(W, down)] * rank
    return in_order(order)
