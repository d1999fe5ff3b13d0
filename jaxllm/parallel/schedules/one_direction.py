"""GPipe, 1F1B and interleaved 1F1B: backwards in one piece."""

from __future__ import annotations

from collections import Counter

from jaxllm.parallel.schedules.schedule import Action, Kind, Schedule, Step


def check_counts(name: str, ranks: int, microbatches: int) -> None:
    """Raises ValueError unless there is at least one of each."""
    if ranks < 1 or microbatches < 1:
        raise ValueError(f"{name} wants at least 1 rank and 1 microbatch; got {ranks} and {microbatches}")


def gpipe(ranks: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards. With one microbatch it is the naive pipeline. Source: Huang et al. 2019."""
    check_counts("GPipe", ranks, microbatches)
    order = [Kind.FORWARD] * microbatches + [Kind.BACKWARD] * microbatches
    return _one_stage_a_rank("GPipe", microbatches, [order] * ranks)


def one_forward_one_backward(ranks: int, microbatches: int) -> Schedule:
    """1F1B: a rank begins backwards as soon as it can, so that it holds few microbatches; as long as GPipe.

    Source: PipeDream-flush, Narayanan et al. 2021 (arXiv:2104.04473), figure 4.
    """
    check_counts("1F1B", ranks, microbatches)
    orders = []
    for rank in range(ranks):
        ahead = min(ranks - 1 - rank, microbatches)
        steady = [Kind.FORWARD, Kind.BACKWARD] * (microbatches - ahead)
        orders.append([Kind.FORWARD] * ahead + steady + [Kind.BACKWARD] * ahead)
    return _one_stage_a_rank("1F1B", microbatches, orders)


def interleaved(ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """1F1B with `chunks` stages a rank, rank r holding r, r + P, r + 2P ..: the bubble is `chunks` times shorter.

    Microbatches go through the chunks in groups of P. Source: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.
    Raises ValueError unless P divides the microbatches.
    """
    check_counts("interleaved 1F1B", ranks, microbatches)
    if chunks < 1:
        raise ValueError(f"interleaved 1F1B wants at least 1 chunk a rank; got {chunks}")
    if microbatches % ranks:
        below = microbatches // ranks * ranks
        nearest = " or ".join(str(count) for count in (below, below + ranks) if count)
        raise ValueError(
            f"interleaved 1F1B sends microbatches through in groups of as many as there are ranks: {microbatches} "
            f"microbatches don't divide by {ranks} ranks; use {nearest} microbatches, or another schedule"
        )
    total = microbatches * chunks
    programs = []
    for rank in range(ranks):
        forwards = [_interleaved_action(Kind.FORWARD, i, rank, ranks, chunks) for i in range(total)]
        backwards = [_interleaved_action(Kind.BACKWARD, i, rank, ranks, chunks) for i in range(total)]
        # A full round for each chunk but one. Then, where chunks follow each other, two for each later rank: that much
        # later comes the first gradient back.
        later = ranks - 1 - rank
        ahead = min(2 * later + (chunks - 1) * ranks if chunks > 1 else later, total)
        order = forwards[:ahead]
        for forward, backward in zip(forwards[ahead:], backwards, strict=False):
            order += [forward, backward]
        programs.append(tuple((action,) for action in order + backwards[total - ahead :]))
    placement = tuple(stage % ranks for stage in range(ranks * chunks))
    return Schedule("interleaved 1F1B", microbatches, (placement,), tuple(programs))


def _interleaved_action(kind: Kind, index: int, rank: int, ranks: int, chunks: int) -> Action:
    """The index-th forward or backward of a rank: P microbatches through one chunk, then the same through the next."""
    group, within = divmod(index, ranks * chunks)
    chunk, microbatch = divmod(within, ranks)
    if kind is Kind.BACKWARD:
        chunk = chunks - 1 - chunk
    return Action(kind, group * ranks + microbatch, chunk * ranks + rank)


def _one_stage_a_rank(name: str, microbatches: int, orders: list[list[Kind]]) -> Schedule:
    """A schedule from the kinds that each rank does in turn."""
    programs = (in_order([(kind, rank) for kind in order]) for rank, order in enumerate(orders))
    return Schedule(name, microbatches, (tuple(range(len(orders))),), tuple(map(tuple, programs)))


def in_order(order: list[tuple[Kind, int]]) -> list[Step]:
    """Steps from pairs of kind and stage: each pair takes the microbatches in order."""
    counts: Counter[tuple[Kind, int]] = Counter()
    steps = []
    for kind, stage in order:
        steps.append((Action(kind, counts[kind, stage], stage),))
        counts[kind, stage] += 1
    return steps
