"""A ladder of small runs: models of one shape in several sizes, trained so that a scaling law can be read off them.

Sizes: the width varies; depth follows it at the base model's ratio, heads keep their width and grow in number, and MLPs
keep their ratio to the width. Texts: what a budget of operations leaves for each size (iso-FLOP, Hoffmann et al. 2022,
section 3.2), or so many tokens per parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxllm.models.config import AttentionConfig, Block, MLPConfig, ModelConfig, MoEConfig
from jaxllm.plan.flops import train_flops_per_token
from jaxllm.plan.parameters import components
from jaxllm.plan.scaling_laws import FLOPS_FACTOR
from jaxllm.training.experiment import Experiment

FlopsCount = Literal["exact", "6ND"]

RULES = {
    "size": "d_model in whole heads of the base model's width; layers, heads and d_ff in proportion to it",
    "batch": "the base experiment's rows, halved while a run would have fewer than min_steps steps",
    "steps": "tokens / (rows x context), rounded; warmup keeps its part of the steps",
    "learning rate, µP": "the base experiment's: model.mup carries it over from size to size",
    "learning rate": "times (C / C of the base experiment)^-0.125 (DeepSeek LLM, Bi et al. 2024, equation 1)",
    "learning rate, fewer rows": "times the root of the part of the rows that is left (Malladi et al. 2022)",
}
LEARNING_RATE_EXPONENT = -0.125
NO_WORK = ("embedding", "head", "positions and types")


@dataclass(frozen=True)
class LadderConfig:
    """How runs are spaced."""

    budgets: tuple[float, ...] = ()
    """Operations of each iso-FLOP row; empty for a ladder of one number of tokens per parameter."""
    widths: tuple[int, ...] = ()
    """d_model of each model. Iso-FLOP rows choose their own where this is empty."""
    sizes: int = 5
    """Models in an iso-FLOP row, at most."""
    tokens_per_parameter: float = 20.0
    """D / N: of every run, or around which an iso-FLOP row lies."""
    spread: float = 4.0
    """The smallest and the largest model of an iso-FLOP row are so many times smaller and larger than the one with that
    many tokens per parameter."""
    flops: FlopsCount = "exact"
    """How operations are counted: those of the model's own products and attention, or 6 N D."""
    min_steps: int = 100
    """Steps of a run, at least."""

    def __post_init__(self):
        if not self.budgets and not self.widths:
            raise ValueError("a ladder needs budgets (of operations) or widths (of models)")
        for name in ("budgets", "widths"):
            values = getattr(self, name)
            if any(not (math.isfinite(v) and v > 0) for v in values) or len(set(values)) < len(values):
                raise ValueError(f"ladder.{name} must be positive and different from each other, got {values}")
        if self.sizes < 3:
            raise ValueError(f"ladder.sizes={self.sizes}: a parabola needs three models in a row")
        if not self.tokens_per_parameter > 0 or not self.spread > 1 or self.min_steps < 1:
            raise ValueError("ladder: tokens_per_parameter must be positive, spread above 1, min_steps at least 1")


@dataclass(frozen=True)
class Rung:
    """One run of a ladder, planned."""

    name: str
    """Of its directory."""
    experiment: Experiment
    parameters: int
    """N: all that take part in the work on one token, embeddings included."""
    non_embedding: int
    """Of these, without tables of tokens and positions."""
    tokens: int
    """D after rounding to whole steps."""
    flops: float
    """C of that."""
    budget: float = 0.0
    """What C was to be; 0 in a ladder of one number of tokens per parameter."""


@dataclass(frozen=True)
class Ladder:
    """All runs, by budget and by size."""

    config: LadderConfig
    rungs: tuple[Rung, ...]

    @property
    def flops(self) -> float:
        """Of all runs together."""
        return sum(rung.flops for rung in self.rungs)


def plan_ladder(base: Experiment, config: LadderConfig) -> Ladder:
    """The runs of a ladder from a base experiment, whose model has a settled vocabulary.

    Raises ValueError for a model that can't be resized, a width that is no whole number of heads, a budget with fewer
    than three sizes in range, and runs that stay shorter than min_steps.
    """
    if not base.model.vocab_size:
        raise ValueError("the ladder's models need one vocabulary: set model.vocab_size")
    count = _Counts(base.model, config.flops)
    rungs = [_rung(base, config, width, tokens, budget) for width, tokens, budget in _places(base, config, count)]
    return Ladder(config, tuple(sorted(rungs, key=lambda rung: (rung.budget, rung.parameters))))


def resized(base: ModelConfig, width: int) -> ModelConfig:
    """The model at another d_model, everything else in proportion.

    Grouped key/value heads keep their ratio as nearly as the number of heads allows. Raises ValueError for a width that
    is no whole number of heads, and for mixers other than attention.
    """
    head = base.head_dim
    if width < head or width % head:
        raise ValueError(f"a width of {width} is no whole number of heads of {head} units: take a multiple of {head}")
    scale = width / base.d_model
    mixer = lambda m: m if isinstance(m, str) else _resized_attention(base, m, scale)  # noqa: E731
    channel = lambda c: c if isinstance(c, str) else _resized_channel(c, scale)  # noqa: E731
    block = lambda b: Block(mixer(b.mixer), channel(b.channel))  # noqa: E731
    period, first = len(base.pattern), len(base.prologue)
    turns = max(1, round((base.num_layers - first) * scale / period))
    return replace(
        base,
        d_model=width,
        num_layers=first + turns * period,
        attention=_resized_attention(base, base.attention, scale),
        mlp=_resized_channel(base.mlp, scale),
        pattern=tuple(map(block, base.pattern)),
        prologue=tuple(map(block, base.prologue)),
    )


def _resized_attention(base: ModelConfig, mixer: object, scale: float) -> AttentionConfig:
    if not isinstance(mixer, AttentionConfig):
        raise ValueError(f"a ladder resizes softmax attention only; the base model has {mixer.kind}")
    heads = max(1, round(mixer.num_heads * scale))
    groups = mixer.num_kv_heads
    if groups > 1:
        wanted = groups * heads / mixer.num_heads
        divisors = [n for n in range(1, heads + 1) if heads % n == 0]
        groups = min(divisors, key=lambda n: abs(math.log(n / wanted)))
    return replace(mixer, num_heads=heads, num_kv_heads=groups, head_dim=base.head_width(mixer))


def _resized_channel(channel: object, scale: float) -> object:
    if not isinstance(channel, MLPConfig | MoEConfig):
        raise ValueError(f"a ladder resizes MLPs and mixtures of them only; the base model has {channel.kind}")
    # Whole rows of vector units; the base model stays what it is.
    wide = lambda size: size if scale == 1 else max(8, 8 * round(size * scale / 8))  # noqa: E731
    if isinstance(channel, MLPConfig):
        return replace(channel, d_ff=wide(channel.d_ff))
    shared = wide(channel.shared_d_ff) if channel.shared_d_ff else 0
    return replace(channel, d_ff=wide(channel.d_ff), shared_d_ff=shared)


def sizes_of(model: ModelConfig) -> tuple[int, int]:
    """(N, N without tables): parameters that take part in the work on one token."""
    parts = components(model)
    active = sum(part.active for part in parts)
    return active, active - sum(part.active for part in parts if part.name in NO_WORK)


def flops_per_token(model: ModelConfig, count: FlopsCount) -> float:
    """To train on one token."""
    if count == "6ND":
        return FLOPS_FACTOR * sizes_of(model)[0]
    return train_flops_per_token(model, model.context_length)


class _Counts:
    """(N, operations per token) by width, each counted once."""

    def __init__(self, base: ModelConfig, count: FlopsCount):
        self._base, self._count, self._known = base, count, {}

    def __call__(self, width: int) -> tuple[int, float]:
        if width not in self._known:
            model = resized(self._base, width)
            self._known[width] = sizes_of(model)[0], flops_per_token(model, self._count)
        return self._known[width]


Counts = Callable[[int], tuple[int, float]]


def _places(base: Experiment, config: LadderConfig, count: Counts) -> Iterator[tuple[int, float, float]]:
    """(width, tokens, budget) of each run."""
    if not config.budgets:
        for width in config.widths:
            yield width, config.tokens_per_parameter * count(width)[0], 0.0
    for budget in config.budgets:
        for width in config.widths or _row(base.model.head_dim, config, budget, count):
            yield width, budget / count(width)[1], budget


def _row(head: int, config: LadderConfig, budget: float, count: Counts) -> Sequence[int]:
    """Widths around the model with the wanted tokens per parameter, evenly spaced in log N."""
    # At one compute, a model s times as large has about 1/s^2 as many tokens per parameter.
    lowest, highest = (config.tokens_per_parameter * config.spread**power for power in (-2, 2))
    found, heads = [], 0
    while True:
        heads += 1
        N, per_token = count(heads * head)
        ratio = budget / per_token / N
        if ratio < lowest:
            break
        if ratio <= highest:
            found.append((math.log(N), heads * head))
    if len(found) < 3:
        raise ValueError(
            f"a budget of {budget:.3g} operations has {len(found)} model sizes with {lowest:.3g} to {highest:.3g} "
            "tokens per parameter; three are needed: raise the budget or ladder.spread, or take a base with narrower "
            f"heads than {head}"
        )
    first, last = found[0][0], found[-1][0]
    targets = [first + (last - first) * i / (config.sizes - 1) for i in range(config.sizes)]
    return sorted({min(found, key=lambda size: abs(size[0] - target))[1] for target in targets})


def _rung(base: Experiment, config: LadderConfig, width: int, tokens: float, budget: float) -> Rung:
    model = resized(base.model, width)
    name = f"{f'c{budget:.2e}' if budget else f'r{config.tokens_per_parameter:g}'}-w{width}".replace("+", "")
    rows, steps = _rows_and_steps(base, tokens, config.min_steps, name)
    seen = rows * steps * model.context_length
    per_token = flops_per_token(model, config.flops)
    training, optimizer = base.training, base.optimizer
    rate = optimizer.learning_rate * math.sqrt(rows / training.batch_size)
    if model.mup is None:
        base_tokens = training.steps * training.batch_size * base.model.context_length
        of_base = flops_per_token(base.model, config.flops) * base_tokens
        rate *= (per_token * seen / of_base) ** LEARNING_RATE_EXPONENT
    warmup = round(optimizer.warmup_steps * steps / training.steps)
    experiment = replace(
        base,
        name=name,
        model=model,
        optimizer=replace(
            optimizer,
            learning_rate=rate,
            warmup_steps=min(steps - 1, max(1, warmup)) if optimizer.warmup_steps else 0,
        ),
        training=replace(training, steps=steps, batch_size=rows, eval_every=0),
        checkpoints=replace(base.checkpoints, every=max(1, steps // 4), keep_last=1, keep_best=0),
    )
    parameters, non_embedding = sizes_of(model)
    return Rung(name, experiment, parameters, non_embedding, seen, per_token * seen, budget)


def _rows_and_steps(base: Experiment, tokens: float, min_steps: int, name: str) -> tuple[int, int]:
    rows, accumulation = base.training.batch_size, base.training.accumulation
    while True:
        steps = round(tokens / (rows * base.model.context_length))
        if steps >= min_steps:
            return rows, steps
        if rows % 2 or (rows // 2) % accumulation:
            raise ValueError(
                f"{name} would train on {tokens:,.0f} tokens: {steps} steps of {rows} rows, fewer than "
                f"min_steps={min_steps}; raise the budget, or lower ladder.min_steps or training.batch_size"
            )
        rows //= 2
