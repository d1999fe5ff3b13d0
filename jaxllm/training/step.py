"""The training step and the evaluation step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.models.declare import Spec
from jaxllm.objectives.next_token import Batch, Metrics, Objective, Scheduled
from jaxllm.parallel.sharding import Layout, constrain_gradients, constrain_updates, use_layout
from jaxllm.parallel.text_order import arrange
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: TrainingConfig,
    *,
    dropout: bool = False,
    spec: Spec | None = None,
    after_update: Callable[[Any, Any, Metrics], tuple[Any, Metrics]] | None = None,
) -> Step:
    """The pure step: (state, batch of [batch_size, T] arrays) -> (state, metrics).

    With the parameters' declarations in `spec`, gradients and updates lie where the layout's tables say (ZeRO).

    `after_update` is for what no optimizer should do: from the parameters before and after its update and the metrics
    of the whole batch it makes the parameters to go on with, and the metrics to report.

    A step whose loss or gradient norm is not finite leaves everything but the counters as it was.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step) if dropout else None
        current = objective.at(state.step) if isinstance(objective, Scheduled) else objective
        loss, metrics, grads = _accumulate(current, state.params, batch, key, config.accumulation, spec)
        grad_norm = optax.tree.norm(grads)
        if config.grad_clip:
            grads = _scale(grads, jnp.minimum(1.0, config.grad_clip / (grad_norm + 1e-6)))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = updates if spec is None else constrain_updates(spec, updates)
        params = optax.apply_updates(state.params, updates)
        if after_update is not None:
            params, metrics = after_update(state.params, params, metrics)
        ema = state.ema and optax.incremental_update(params, state.ema, 1 - config.ema_decay)

        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        params, opt_state, ema = jax.tree.map(
            keep, (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        )
        skipped = state.skipped + ~finite
        metrics |= {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step),
            "finite": finite,
            "skipped": skipped,
        }
        return TrainState(state.step + 1, params, opt_state, ema, state.key_data, skipped), metrics

    return step


def jit_step(step: Step, layout: Layout, shardings: TrainState) -> Step:
    """The step compiled for a layout: the state is donated, the batch is split over the mesh's batch axes."""
    batch_sharding = layout.sharding("batch", "length")

    def placed(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with use_layout(layout):
            return step(state, arrange(batch))

    return jax.jit(placed, in_shardings=(shardings, batch_sharding), out_shardings=(shardings, None), donate_argnums=0)


def make_evaluation(objective: Objective, layout: Layout, token_bytes: Any) -> Callable[[Any, Batch], Metrics]:
    """Compiled sums over a batch: nll in nats, targets counted, and the bytes of text these targets stand for.

    `token_bytes` is an int array [V]: the length of each token in bytes, 0 for special tokens.
    """
    lengths_V = jnp.asarray(token_bytes, jnp.float32)

    def evaluate(params: Any, batch: Batch) -> Metrics:
        with use_layout(layout):
            _, metrics = objective(params, arrange(batch), None)
        bytes_of_text = (lengths_V[batch["targets"]] * batch["weights"]).sum()
        return {"nll": metrics["nll"] * metrics["weight"], "weight": metrics["weight"], "bytes": bytes_of_text}

    return jax.jit(evaluate, in_shardings=(None, layout.sharding("batch", "length")))


def _accumulate(
    objective: Objective, params: Any, batch: Batch, key: jax.Array | None, microbatches: int, spec: Spec | None
):
    """Loss, metrics and gradients of the whole batch: the weighted mean over microbatches, one after another."""

    def differentiate(params, batch, key):
        value, grads = jax.value_and_grad(objective, has_aux=True)(params, batch, key)
        return value, grads if spec is None else constrain_gradients(spec, grads)

    if microbatches == 1:
        (loss, metrics), grads = differentiate(params, batch, key)
        return loss, metrics, grads

    def add(total, microbatch):
        index, rows = microbatch
        (loss, metrics), grads = differentiate(params, rows, None if key is None else jax.random.fold_in(key, index))
        weight = metrics["weight"]
        weighted = _scale((loss, {**metrics, "weight": jnp.ones_like(weight)}, grads), weight)
        return jax.tree.map(jnp.add, total, weighted), None

    # Row r goes to microbatch r mod n, so that each device finds its part of every microbatch among its own rows.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch)
    first = jax.tree.map(lambda x: x[0], split)
    (loss, metrics), grads = jax.eval_shape(differentiate, params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, grads))
    (loss, metrics, grads), _ = jax.lax.scan(add, zeros, (jnp.arange(microbatches), split))
    weight = metrics["weight"]
    loss, means, grads = _scale((loss, metrics, grads), 1 / jnp.maximum(weight, 1.0))
    return loss, {**means, "weight": weight}, grads


def _scale(tree: Any, factor: jax.Array) -> Any:
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), tree)
