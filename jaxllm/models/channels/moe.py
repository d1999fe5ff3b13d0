"""A mixture of experts: each token goes to a few of many MLPs, and perhaps to one that all share.

Shape letters: B batch, T time, N = B T, D model width, F hidden width of an expert, E experts, K experts of a token,
C slots of an expert.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.channels.dispatch import Experts, every_expert, experts_spec, sorted_by_expert, with_slots
from jaxllm.models.channels.mlp import MLP, mlp, mlp_spec
from jaxllm.models.channels.routing import (
    choose_tokens,
    expert_choice_statistics,
    fill_slots,
    kept_in,
    route,
    router_logits,
    routing_statistics,
)
from jaxllm.models.config import MLPConfig, ModelConfig, MoEConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.initializers import out_of_stream
from jaxllm.models.layer import Context, Statistics


@struct.dataclass
class MoE:
    router: jax.Array
    router_bias: jax.Array | None
    selection_bias: jax.Array | None
    experts: Experts
    shared: MLP | None
    shared_gate: jax.Array | None


def moe_spec(model: ModelConfig, config: MoEConfig) -> MoE:
    """The declarations of a mixture of experts."""
    D, E = model.d_model, config.num_experts
    reads = out_of_stream(model, fan_in=D)
    return MoE(
        router=Param((D, E), ("embed", "router"), reads),
        router_bias=Param((E,), ("router",), zeros) if config.router_bias else None,
        selection_bias=Param((E,), ("router",), zeros) if config.balance_rate >= 0 else None,
        experts=experts_spec(model, config),
        shared=mlp_spec(model, _shared(config)) if config.shared_d_ff else None,
        shared_gate=Param((D,), ("residual",), reads) if config.shared_gate else None,
    )


def moe_cache(model: ModelConfig, config: MoEConfig, batch: int, length: int) -> jax.Array | None:
    """Nothing is remembered; but slots are for training only, and a cache without content tells decoding from it.

    Raises ValueError for experts that choose tokens: which they choose depends on text that is not there yet.
    """
    if config.router == "expert_choice":
        raise ValueError(
            "a model whose experts choose tokens (moe.router=expert_choice) looks ahead in the text and cannot generate"
        )
    return jnp.zeros((batch, 0)) if config.dispatch == "capacity" else None


def fills_slots(config: MoEConfig) -> bool:
    """Whether experts have slots for a row's tokens, which the first of them take."""
    return config.dispatch == "capacity" or config.router == "expert_choice"


def moe(
    p: MoE, model: ModelConfig, config: MoEConfig, x_BTD: jax.Array, context: Context, cache: jax.Array | None
) -> tuple[jax.Array, jax.Array | None, Statistics]:
    """The weighted sum of the chosen experts' outputs, and that of the shared expert; statistics in
    `routing_statistics`.

    With a cache no token is dropped, whatever `config.dispatch` is. Sources: Shazeer et al. 2017; Switch, Fedus et al.
    2021; DeepSeekMoE, Dai et al. 2024.
    """
    valid_BT = jnp.ones(x_BTD.shape[:2], bool) if context.valid_BT is None else context.valid_BT
    logits_BTE = router_logits(x_BTD, p.router, p.router_bias)
    if config.router == "expert_choice":
        slots = choose_tokens(config, logits_BTE, valid_BT)
        out_BTD = with_slots(p.experts, config, x_BTD, slots)
        statistics = expert_choice_statistics(config, logits_BTE, slots, valid_BT)
    else:
        routing = route(config, logits_BTE, p.selection_bias, valid_BT)
        dispatch = "dropless" if config.dispatch == "capacity" and cache is not None else config.dispatch
        kept = None
        match dispatch:
            case "dropless":
                out_BTD, kept = sorted_by_expert(p.experts, config, x_BTD, routing, model.kernels.experts)
            case "capacity":
                slots = fill_slots(config, routing)
                out_BTD, kept = with_slots(p.experts, config, x_BTD, slots), kept_in(slots, x_BTD.shape[1])
            case "dense":
                out_BTD = every_expert(p.experts, config, x_BTD, routing)
        statistics = routing_statistics(config, logits_BTE, routing, kept, valid_BT)
    if p.shared is not None:
        shared_BTD, _, _ = mlp(p.shared, model, _shared(config), x_BTD, context, None)
        if p.shared_gate is not None:
            gate_BT = jnp.einsum("BTD,D->BT", x_BTD.astype(jnp.float32), p.shared_gate)
            shared_BTD = shared_BTD * jax.nn.sigmoid(gate_BT)[..., None].astype(x_BTD.dtype)
        out_BTD = out_BTD + shared_BTD
    return out_BTD, cache, statistics


def _shared(config: MoEConfig) -> MLPConfig:
    return MLPConfig(d_ff=config.shared_d_ff, activation=config.activation, gated=config.gated, bias=config.bias)
