"""The training step and the evaluation step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.models.declare import Spec
from jaxllm.objectives.next_token import Batch, Metrics, Objective
from jaxllm.parallel.sharding import Layout, constrain_updates, use_layout
from jaxllm.parallel.text_order import arrange
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.gradients import Gradients, accumulated, scaled
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
    gradients: Gradients | None = None,
) -> Step:
    """The pure step: (state, batch of [batch_size, T] arrays) -> (state, metrics).

    With the parameters' declarations in `spec`, gradients and updates lie where the layout's tables say (ZeRO).

    `after_update` is for what no optimizer should do: from the parameters before and after its update and the metrics
    of the whole batch it makes the parameters to go on with, and the metrics to report. `gradients` stands in for the
    accumulation of microbatches.

    A step whose loss or gradient norm is not finite leaves everything but the counters as it was.
    """

    gradients = gradients or accumulated(objective, config.accumulation, spec)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step) if dropout else None
        loss, metrics, grads = gradients(state.params, batch, key, state.step)
        grad_norm = optax.tree.norm(grads)
        if config.grad_clip:
            grads = scaled(grads, jnp.minimum(1.0, config.grad_clip / (grad_norm + 1e-6)))
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
