"""The coordinate check: do activations move as much in a wide model as in a narrow one?

Under µP the elements of every activation change by an amount that does not depend on the width; in the standard
parametrization the change grows with it, and so the best learning rate falls. (Yang et al. 2022, appendix D.1.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.models.block import run_block
from jaxllm.models.config import MLPConfig, ModelConfig
from jaxllm.models.declare import initialize
from jaxllm.models.decoder import Decoder, decoder_spec, embed, forward, unembed
from jaxllm.models.layer import Context
from jaxllm.models.norm import normalize
from jaxllm.training.optimizers import OptimizerConfig, make_optimizer


@dataclass(frozen=True)
class Coordinates:
    """Root mean squares over tokens and units, of one model."""

    width: int
    step: int
    size: dict[str, float]
    """Of each activation: "layer 0", ..., "logits"."""
    change: dict[str, float]
    """Of its difference from the start of training."""


def at_width(model: ModelConfig, width: int) -> ModelConfig:
    """The model with all its widths multiplied alike: more heads of the same width, a wider MLP.

    Raises ValueError for a width that is no whole number of heads, and for mixers other than attention and MLPs.
    """
    attention, mlp = model.attention, model.mlp
    if any(block.mixer != attention or not isinstance(block.channel, MLPConfig) for block in model.blocks()):
        raise ValueError("the coordinate check widens models of the model's own attention and MLPs only")
    heads, rest = divmod(attention.num_heads * width, model.d_model)
    groups = attention.kv_heads * width // model.d_model
    if rest or not groups or heads % groups:
        raise ValueError(f"a width of {width} is no whole number of heads of {model.head_dim} units")
    return replace(
        model,
        d_model=width,
        attention=replace(attention, num_heads=heads, num_kv_heads=groups, head_dim=model.head_dim),
        mlp=replace(mlp, d_ff=mlp.d_ff * width // model.d_model),
    )


def coordinate_check(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    widths: Iterable[int],
    *,
    steps: int = 4,
    rows: int = 4,
    seeds: Sequence[int] = (0,),
) -> tuple[Coordinates, ...]:
    """Train the model at each width for a few steps on one random batch; what its activations are before and after
    each, averaged over seeds."""
    return tuple(
        coordinates for width in widths for coordinates in _at_one_width(model, optimizer, width, steps, rows, seeds)
    )


def _at_one_width(model, optimizer, width, steps, rows, seeds) -> list[Coordinates]:
    config = at_width(model, width)
    spec = decoder_spec(config)
    rule = make_optimizer(optimizer, spec, steps + optimizer.warmup_steps + 1, config)

    @jax.jit
    def update(params: Decoder, state: Any, tokens: jax.Array):
        gradients = jax.grad(lambda p: _loss(p, config, tokens))(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    look = jax.jit(lambda params, tokens: activations(params, config, tokens))
    sizes, changes = [], []
    for seed in seeds:
        shape = (rows, config.context_length + 1)
        tokens = jax.random.randint(jax.random.key(seed), shape, 0, config.vocab_size)
        params = initialize(spec, jax.random.key(seed + 1))
        state, start, measured = rule.init(params), look(params, tokens[:, :-1]), []
        for step in range(steps + 1):
            now = look(params, tokens[:, :-1])
            measured.append(({k: _rms(x) for k, x in now.items()}, {k: _rms(x - start[k]) for k, x in now.items()}))
            if step < steps:
                params, state = update(params, state, tokens)
        sizes.append([size for size, _ in measured])
        changes.append([change for _, change in measured])
    mean = lambda runs, step: {k: float(np.mean([run[step][k] for run in runs])) for k in runs[0][step]}  # noqa: E731
    return [Coordinates(width, step, mean(sizes, step), mean(changes, step)) for step in range(steps + 1)]


def activations(params: Decoder, config: ModelConfig, tokens_BT: jax.Array) -> dict[str, jax.Array]:
    """The residual stream after each layer, and the logits."""
    positions_BT = jnp.arange(tokens_BT.shape[1])[None]
    x_BTD, found = embed(params, config, tokens_BT, positions_BT), {}
    for segment, blocks in zip(config.segments(), params.segments, strict=True):
        for repeat in range(segment.repeats):
            for i, block_config in enumerate(segment.blocks):
                block = jax.tree.map(lambda leaf: leaf[repeat], blocks[i])  # noqa: B023
                context = Context(positions_BT, None, None, layer=len(found))
                x_BTD, _, _ = run_block(block, config, block_config, x_BTD, context, None, None)
                found[f"layer {len(found)}"] = x_BTD
    x_BTD = x_BTD if params.norm is None else normalize(params.norm, config.norm, x_BTD)
    return found | {"logits": unembed(params, config, x_BTD)}


def draw_coordinates(checks: dict[str, Sequence[Coordinates]], path: str | Path) -> Path:
    """The change of each activation over the width, one panel for each named check, into a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4 * len(checks), 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(checks), sharey=True, squeeze=False)[0]
    for axis, (title, rows) in zip(axes, checks.items(), strict=True):
        last = [row for row in rows if row.step == max(row.step for row in rows)]
        for name in last[0].change:
            style = {"color": "black", "linestyle": "--"} if name == "logits" else {}
            axis.loglog(
                [row.width for row in last], [row.change[name] for row in last], marker="o", label=name, **style
            )
        axis.set_xticks([row.width for row in last], [str(row.width) for row in last])
        axis.minorticks_off()
        axis.set_xlabel("width")
        axis.set_title(f"{title}, after {last[0].step} steps")
    axes[0].set_ylabel("root mean square of the change")
    axes[-1].legend(frameon=False, fontsize=8)
    path = Path(path)
    figure.savefig(path)
    return path


def _loss(params: Decoder, config: ModelConfig, tokens: jax.Array) -> jax.Array:
    logits = forward(params, config, tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def _rms(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.square(x.astype(jnp.float32)).mean()))
