"""How tokens get to their experts and back: sorted, in slots, or all to all of them.

Shape letters: B batch, T time, N = B T tokens, K experts of a token, R = N K rows sorted by expert, D model width,
F hidden width of an expert, E experts, C slots of an expert.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import AxisType, PartitionSpec

from jaxllm.models.channels.grouped import grouped_product
from jaxllm.models.channels.mlp import activate
from jaxllm.models.channels.routing import Routing, Slots
from jaxllm.models.config import ModelConfig, MoEConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.parallel.sharding import Layout, constrain, current_layout


@struct.dataclass
class Experts:
    up: jax.Array
    gate: jax.Array | None
    down: jax.Array
    up_bias: jax.Array | None
    gate_bias: jax.Array | None
    down_bias: jax.Array | None


def experts_spec(model: ModelConfig, config: MoEConfig) -> Experts:
    """The declarations of E MLPs."""
    E, D, F = config.num_experts, model.d_model, config.d_ff
    inward = Param((E, D, F), ("expert", "embed", "mlp"), out_of_stream(model, fan_in=D))
    hidden_bias = Param((E, F), ("expert", "mlp"), zeros) if config.bias else None
    return Experts(
        up=inward,
        gate=inward if config.gated else None,
        down=Param((E, F, D), ("expert", "mlp", "embed"), into_stream(model, fan_in=F)),
        up_bias=hidden_bias,
        gate_bias=hidden_bias if config.gated else None,
        down_bias=Param((E, D), ("expert", "residual"), zeros) if config.bias else None,
    )


def every_expert(p: Experts, config: MoEConfig, x_BTD: jax.Array, routing: Routing) -> jax.Array:
    """The slow twin of the others: all experts on all tokens, then the weighted sum of the chosen."""
    up_BTEF = _plus(einsum("BTD,EDF->BTEF", x_BTD, p.up), p.up_bias)
    gate_BTEF = None if p.gate is None else _plus(einsum("BTD,EDF->BTEF", x_BTD, p.gate), p.gate_bias)
    hidden_BTEF = activate(config.activation, gate_BTEF, up_BTEF)
    out_BTED = _plus(einsum("BTEF,EFD->BTED", hidden_BTEF, p.down), p.down_bias)
    chosen_BTKE = routing.expert_BTK[..., None] == jnp.arange(config.num_experts)
    weight_BTE = jnp.where(chosen_BTKE, routing.weight_BTK[..., None], 0).sum(-2)
    return jnp.einsum("BTED,BTE->BTD", out_BTED.astype(jnp.float32), weight_BTE).astype(x_BTD.dtype)


def with_slots(p: Experts, config: MoEConfig, x_BTD: jax.Array, slots: Slots) -> jax.Array:
    """Each expert works on its slots of every row; what no expert holds gets zeros."""
    rows_B11 = jnp.arange(x_BTD.shape[0])[:, None, None]
    x_BECD = x_BTD.at[rows_B11, slots.token_BEC].get(mode="fill", fill_value=0)
    x_BECD = constrain(x_BECD, "batch", "act_expert", None, None)
    per_slot = lambda bias: None if bias is None else bias[:, None]  # noqa: E731
    up_BECF = _plus(einsum("BECD,EDF->BECF", x_BECD, p.up), per_slot(p.up_bias))
    gate_BECF = None
    if p.gate is not None:
        gate_BECF = _plus(einsum("BECD,EDF->BECF", x_BECD, p.gate), per_slot(p.gate_bias))
    hidden_BECF = constrain(activate(config.activation, gate_BECF, up_BECF), "batch", "act_expert", None, "act_mlp")
    out_BECD = _plus(einsum("BECF,EFD->BECD", hidden_BECF, p.down), per_slot(p.down_bias))
    weighted_BECD = out_BECD.astype(jnp.float32) * slots.weight_BEC[..., None]
    out_BTD = jnp.zeros(x_BTD.shape, jnp.float32).at[rows_B11, slots.token_BEC].add(weighted_BECD, mode="drop")
    return constrain(out_BTD.astype(x_BTD.dtype), "batch", "length", None)


def sorted_by_expert(p: Experts, config: MoEConfig, x_BTD: jax.Array, routing: Routing) -> jax.Array:
    """No token is dropped: tokens lie in the order of their experts, and each expert multiplies its own.

    On a mesh every device sorts the tokens it has and multiplies them with its part of all experts' hidden units, so
    tokens do not travel.
    """
    layout = current_layout()
    if layout is None or layout.mesh.size == 1:
        return _sorted_locally(config, None, p, x_BTD, routing)
    # Rows that the mesh does not divide lie whole on every device.
    divided = x_BTD.shape[0] % layout.batch_shards == 0
    along = layout.rules.spec(("batch" if divided else None, "length", None))
    parts = _hidden_parts(p, layout)
    # Inside a pipeline's program, which has taken an axis for itself, it is over those left to the compiler.
    kinds = zip(layout.mesh.axis_names, layout.mesh.axis_types, strict=True)
    local = jax.shard_map(
        partial(_sorted_locally, config, layout.rules.mlp),
        mesh=layout.mesh,
        axis_names={name for name, kind in kinds if kind != AxisType.Manual},
        in_specs=(parts, along, Routing(along, along)),
        out_specs=along,
        check_vma=False,
    )
    return local(p, x_BTD, routing)


def _hidden_parts(p: Experts, layout: Layout) -> Experts:
    """Hidden units are split as the rules say; experts and the stream's width are gathered."""
    mlp = layout.rules.mlp
    return Experts(
        up=PartitionSpec(None, None, mlp),
        gate=None if p.gate is None else PartitionSpec(None, None, mlp),
        down=PartitionSpec(None, mlp),
        up_bias=None if p.up_bias is None else PartitionSpec(None, mlp),
        gate_bias=None if p.gate_bias is None else PartitionSpec(None, mlp),
        down_bias=None if p.down_bias is None else PartitionSpec(),
    )


def _sorted_locally(config: MoEConfig, summed_over, p: Experts, x_BTD, routing: Routing):
    (B, T, K), D = routing.expert_BTK.shape, x_BTD.shape[-1]
    expert_R = routing.expert_BTK.reshape(-1)
    order_R = jnp.argsort(expert_R, stable=True)
    place_R = jnp.argsort(order_R)
    sorted_R = expert_R[order_R]
    # Padding is sorted behind the last expert and belongs to no group.
    sizes_E = jnp.diff(jnp.searchsorted(sorted_R, jnp.arange(config.num_experts + 1))).astype(jnp.int32)
    group_R = jnp.minimum(sorted_R, config.num_experts - 1)

    def affine(x_RD, weight, bias):
        y = grouped_product(x_RD, weight, sizes_E)
        return y if bias is None else y + bias.astype(y.dtype)[group_R]

    x_RD = _to_experts(x_BTD.reshape(-1, D), order_R, place_R, K)
    gate_RF = None if p.gate is None else affine(x_RD, p.gate, p.gate_bias)
    hidden_RF = activate(config.activation, gate_RF, affine(x_RD, p.up, p.up_bias))
    out_RD = grouped_product(hidden_RF, p.down, sizes_E)
    out_BTKD = _permuted(out_RD, place_R, order_R).reshape(B, T, K, D).astype(jnp.float32)
    out_BTD = jnp.einsum("BTKD,BTK->BTD", out_BTKD, routing.weight_BTK)
    if summed_over:
        out_BTD = jax.lax.psum(out_BTD, summed_over)
    if p.down_bias is not None:
        bias_BTKD = p.down_bias[jnp.minimum(routing.expert_BTK, config.num_experts - 1)]
        out_BTD = out_BTD + jnp.einsum("BTKD,BTK->BTD", bias_BTKD, routing.weight_BTK)
    return out_BTD.astype(x_BTD.dtype)


# A gather's derivative is a scatter, which takes its rows one by one on a CPU and with atomic additions on a GPU. That
# of a permutation is the inverse permutation.


@jax.custom_vjp
def _permuted(x_RD, order_R, inverse_R):
    return x_RD[order_R]


_permuted.defvjp(lambda x, order, inverse: (x[order], inverse), lambda inverse, g: (g[inverse], None, None))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _to_experts(x_ND, order_R, place_R, K):
    return x_ND[order_R // K]


def _to_experts_backward(K, place_R, cotangent_RD):
    of_token = cotangent_RD[place_R].reshape(-1, K, cotangent_RD.shape[-1])
    return of_token.astype(jnp.float32).sum(1).astype(cotangent_RD.dtype), None, None


_to_experts.defvjp(lambda x, order, place, K: (x[order // K], place), _to_experts_backward)


def _plus(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    return y if bias is None else y + bias.astype(y.dtype)
