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
from jaxllm.quantize.low_precision import remember
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.gradients import Gradients, accumulated, scaled
from jaxllm.training.loss_scale import follow
from jaxllm.training.precision import FULL, Precision
from jaxllm.training.state import HOST_MEMORY, TrainState
from jaxllm.training.stochastic_rounding import store_like, widened

# Folded into a step's key: dropout draws from that key itself.
ROUNDING = 0x5EED

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
    precision: Precision = FULL,
) -> Step:
    """The pure step: (state, batch of [batch_size, T] arrays) -> (state, metrics).

    With the parameters' declarations in `spec`, gradients and updates lie where the layout's tables say (ZeRO).

    `after_update` is for what no optimizer should do: from the parameters before and after its update and the metrics
    of the whole batch it makes the parameters to go on with, and the metrics to report. `gradients` stands in for the
    accumulation of microbatches.

    A step whose loss or gradient norm is not finite leaves everything but the counters and the loss scale as it was.
    `metrics["overflow"]`, where the loss is scaled, says that a smaller scale may mend it.
    """

    gradients = gradients or accumulated(objective, config.accumulation, spec=spec, precision=precision)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step) if dropout else None
        weights, scale = (state.params, state.histories), state.loss_scale and state.loss_scale.scale
        loss, metrics, (grads, observed) = gradients(weights, batch, key, state.step, scale)
        grad_norm = optax.tree.norm(grads)
        if config.grad_clip:
            grads = scaled(grads, jnp.minimum(1.0, config.grad_clip / (grad_norm + 1e-6)))
        before = widened(state.params)
        updates, opt_state = optimizer.update(grads, widened(state.opt_state), before)
        updates = updates if spec is None else constrain_updates(spec, updates)
        params = optax.apply_updates(before, updates)
        if after_update is not None:
            params, metrics = after_update(before, params, metrics)
        ema = state.ema and optax.incremental_update(params, state.ema, 1 - config.ema_decay)
        params, opt_state = _stored((params, opt_state), (state.params, state.opt_state), state)
        histories = state.histories and remember(state.histories, observed)

        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        params, opt_state, ema, histories = jax.tree.map(
            keep, (params, opt_state, ema, histories), (state.params, state.opt_state, state.ema, state.histories)
        )
        loss_scale = state.loss_scale
        if loss_scale is not None:
            can_fall = loss_scale.scale > precision.config.loss_scale.smallest
            metrics |= {"loss_scale": scale, "overflow": ~finite & jnp.isfinite(loss) & can_fall}
            loss_scale = follow(loss_scale, finite, precision.config.loss_scale)
        skipped = state.skipped + ~finite
        metrics |= {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step),
            "finite": finite,
            "skipped": skipped,
        }
        counted = state.replace(step=state.step + 1, skipped=skipped, loss_scale=loss_scale, histories=histories)
        return counted.replace(params=params, opt_state=opt_state, ema=ema), metrics

    return step


def jit_step(step: Step, layout: Layout, shardings: TrainState) -> Step:
    """The step compiled for a layout: the state is donated, the batch is split over the mesh's batch axes. Optimizer
    state that lies in host memory comes to the devices for the update and goes back."""
    batch_sharding = layout.sharding("batch", "length")
    offloaded = any(sharding.memory_kind == HOST_MEMORY for sharding in jax.tree.leaves(shardings.opt_state))
    on_device = jax.tree.map(lambda sharding: sharding.with_memory_kind("device"), shardings.opt_state)

    def placed(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with use_layout(layout):
            batch = arrange(batch)
            if not offloaded:
                return step(state, batch)
            state = state.replace(opt_state=jax.device_put(state.opt_state, on_device))
            state, metrics = step(state, batch)
            return state.replace(opt_state=jax.device_put(state.opt_state, shardings.opt_state)), metrics

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


def _stored(new: Any, old: Any, state: TrainState) -> Any:
    """In the types that the state keeps; what is rounded by chance is so by the step's own key."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    return store_like(new, old, jax.random.fold_in(key, ROUNDING))
