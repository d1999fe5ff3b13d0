"""Update rules from optax, wired to the declarations: which parameters decay and which are matrices is read off their
axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import optax
from optax import contrib

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Param, Spec, decay_mask
from jaxllm.models.mup import depth_multipliers, gradient_multipliers, width_multipliers


@dataclass(frozen=True)
class OptimizerConfig:
    """An update rule and its learning rate over time."""

    kind: Literal["adamw", "muon", "lion", "adafactor", "schedule_free"] = "adamw"
    """adamw; muon (orthogonalized momentum for hidden matrices, AdamW for the rest); lion; adafactor; schedule-free
    AdamW."""
    learning_rate: float = 6e-4
    """Peak learning rate. Muon's updates are scaled to AdamW's size, so one rate suits both."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """After the warmup: cosine decay, warmup-stable-decay, linear decay, or constant."""
    warmup_steps: int = 100
    """Steps of linear warmup from 0."""
    final_ratio: float = 0.1
    """The last learning rate as a part of the peak."""
    decay_fraction: float = 0.2
    """Part of the steps that warmup-stable-decay spends on its linear decay."""
    b1: float = 0.9
    """Decay of the first moment; momentum of Muon, Lion and schedule-free's interpolation."""
    b2: float = 0.95
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay, multiplied by the learning rate; on matrices of the residual stream only."""

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        for name in ("final_ratio", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("optimizer.warmup_steps and optimizer.weight_decay must not be negative")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the updates done, reaching `final_ratio` of the peak when `steps` are done.

    No update is wasted at rate 0: the first uses peak / warmup_steps, the last a rate just above the final one. Raises
    ValueError when the warmup does not fit.
    """
    peak, warmup, last = config.learning_rate, config.warmup_steps, config.final_ratio * config.learning_rate
    if warmup >= steps:
        raise ValueError(
            f"optimizer.warmup_steps={warmup} leaves none of the {steps} steps for the rest of the schedule"
        )
    rest = steps - warmup
    match config.schedule:
        case "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_ratio)
        case "linear":
            after = optax.linear_schedule(peak, last, rest)
        case "wsd":
            decay = min(rest, max(1, round(config.decay_fraction * steps)))
            stable = optax.constant_schedule(peak)
            after = optax.join_schedules([stable, optax.linear_schedule(peak, last, decay)], [rest - decay])
        case "constant":
            after = optax.constant_schedule(peak)
    if not warmup:
        return after
    return optax.join_schedules([lambda step: peak * (step + 1) / warmup, after], [warmup])


def make_optimizer(
    config: OptimizerConfig, spec: Spec, steps: int, model: ModelConfig | None = None
) -> optax.GradientTransformation:
    """The transformation from clipped gradients to updates. Clipping is the step's business.

    Of a `model` with a maximal update parametrization, each parameter learns at its own rate (`models.mup`).
    """
    if model is not None and model.mup is not None:
        return _scaled_with_size(config, spec, steps, model)
    return _update_rule(config, spec, steps)


def _update_rule(config: OptimizerConfig, spec: Spec, steps: int) -> optax.GradientTransformation:
    schedule, mask = make_schedule(config, steps), decay_mask(spec)
    match config.kind:
        case "adamw":
            return optax.adamw(
                schedule, config.b1, config.b2, config.epsilon, weight_decay=config.weight_decay, mask=mask
            )
        case "lion":
            return optax.lion(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=mask)
        case "adafactor":
            # Adafactor multiplies its decay in per step, not per learning rate, so it gets the product.
            return optax.adafactor(
                schedule,
                multiply_by_parameter_scale=False,
                weight_decay_rate=config.weight_decay * config.learning_rate or None,
                weight_decay_mask=mask,
            )
        case "schedule_free":
            # b1 is the interpolation of the method, so the base optimizer has no momentum of its own (Defazio et al.
            # 2024).
            base = optax.adamw(schedule, 0.0, config.b2, config.epsilon, weight_decay=config.weight_decay, mask=mask)
            return contrib.schedule_free(base, schedule, b1=config.b1)
        case "muon":
            return contrib.muon(
                schedule,
                beta=config.b1,
                eps=config.epsilon,
                weight_decay=config.weight_decay,
                weight_decay_mask=mask,
                adam_b1=config.b1,
                adam_b2=config.b2,
                adam_weight_decay=0.0,
                muon_weight_dimension_numbers=lambda _: jax.tree.map(_muon_axes, spec),
                # Updates as large as AdamW's (Liu et al. 2025, section 2.2), so one learning rate serves both groups.
                consistent_rms=0.2,
            )


def _scaled_with_size(
    config: OptimizerConfig, spec: Spec, steps: int, model: ModelConfig
) -> optax.GradientTransformation:
    """The update rule with the multipliers of µP and CompleteP; at the base size it is the update rule itself."""
    schedule = make_schedule(config, steps)
    # Weight decay does not change with the width, so it is added once the learning rates have been multiplied. Each
    # rule keeps its own ways: Muon spares tables, Adafactor's decay follows the peak rate.
    decayed = jax.tree.map(lambda p: p.is_hidden_matrix, spec) if config.kind == "muon" else decay_mask(spec)
    if config.kind == "adafactor":
        decay = -config.weight_decay * config.learning_rate
    else:
        decay = lambda step: -config.weight_decay * schedule(step)  # noqa: E731

    def scaled(rule: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(
            _multiplied(gradient_multipliers(model, spec)),
            rule,
            _multiplied(width_multipliers(model, spec, power=-0.5 if config.kind == "muon" else -1.0)),
            optax.add_decayed_weights(decay, decayed),
            _multiplied(depth_multipliers(model, spec)),
        )

    if config.kind == "schedule_free":
        base = optax.adamw(schedule, 0.0, config.b2, config.epsilon, weight_decay=0.0)
        return contrib.schedule_free(scaled(base), schedule, b1=config.b1)
    return scaled(_update_rule(replace(config, weight_decay=0.0), spec, steps))


def _multiplied(factors: Any) -> optax.GradientTransformation:
    """Each update times its factor."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def evaluation_params(config: OptimizerConfig, params: Any, opt_state: Any) -> Any:
    """The parameters to evaluate and to ship: schedule-free keeps its average apart from the point it differentiates
    at."""
    if config.kind == "schedule_free":
        return contrib.schedule_free_eval_params(opt_state, params)
    return params


def _muon_axes(param: Param) -> contrib.MuonDimensionNumbers | None:
    """How a hidden matrix reads as rows times columns: the residual stream against everything else, or between inner
    widths the first axis against the others. Layers are a batch, and so are experts (a router's are its columns)."""
    if not param.is_hidden_matrix:
        return None
    sides = [i for i, axis in enumerate(param.axes) if axis != "layers"]
    if "expert" in param.axes and len(sides) > 2:
        sides.remove(param.axes.index("expert"))
    stream = param.axes.index("embed") if "embed" in param.axes else sides[0]
    rest = tuple(i for i in sides if i != stream)
    writes_stream = stream == len(param.axes) - 1
    return (
        contrib.MuonDimensionNumbers(rest, (stream,))
        if writes_stream
        else contrib.MuonDimensionNumbers((stream,), rest)
    )
