"""Which experts a token goes to, with what weights, and what keeps their load even.

Shape letters: B batch, T time, D model width, E experts, K experts of a token, G groups of experts, C slots of an
expert.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import MoEConfig
from jaxllm.models.layer import Statistics


@struct.dataclass
class Routing:
    """Where tokens go. A token that is padding goes to expert E, which does not exist, with weight 0."""

    expert_BTK: jax.Array
    weight_BTK: jax.Array


@struct.dataclass
class Slots:
    """What experts hold. An empty slot holds token T, which does not exist, with weight 0."""

    token_BEC: jax.Array
    weight_BEC: jax.Array


def router_logits(x_BTD: jax.Array, router_DE: jax.Array, bias_E: jax.Array | None) -> jax.Array:
    """[B, T, E] in float32 throughout: a rounded logit sends a token elsewhere."""
    logits = jnp.einsum("BTD,DE->BTE", x_BTD.astype(jnp.float32), router_DE, precision=jax.lax.Precision.HIGHEST)
    return logits if bias_E is None else logits + bias_E


def scores_of(config: MoEConfig, logits_BTE: jax.Array) -> jax.Array:
    """How well each expert suits each token: what the choice is by, and what the weights are made from."""
    match config.router:
        case "softmax" | "expert_choice":
            return jax.nn.softmax(logits_BTE)
        case "softmax_of_top_k":
            return logits_BTE
        case "sigmoid":
            return jax.nn.sigmoid(logits_BTE)


def route(config: MoEConfig, logits_BTE: jax.Array, selection_bias_E: jax.Array | None, valid_BT: jax.Array) -> Routing:
    """Tokens choose their top K experts.

    The selection bias takes part in the choice and not in the weights (Wang et al. 2024, equation 3); with groups, a
    token chooses groups first, and experts of these only (DeepSeek-V2, section 2.2.2; V3, 2.1.2).
    """
    scores_BTE = scores_of(config, logits_BTE)
    choice_BTE = scores_BTE if selection_bias_E is None else scores_BTE + selection_bias_E
    choice_BTE = _within_best_groups(config, jax.lax.stop_gradient(choice_BTE))
    expert_BTK = jax.lax.top_k(choice_BTE, config.top_k)[1]
    weight_BTK = jnp.take_along_axis(scores_BTE, expert_BTK, axis=-1)
    if config.router == "softmax_of_top_k":
        weight_BTK = jax.nn.softmax(weight_BTK)
    if config.normalize:
        weight_BTK = weight_BTK / (weight_BTK.sum(-1, keepdims=True) + 1e-20)
    valid_BT1 = valid_BT[..., None]
    weight_BTK = jnp.where(valid_BT1, weight_BTK * config.scale, 0)
    return Routing(jnp.where(valid_BT1, expert_BTK, config.num_experts), weight_BTK)


def _within_best_groups(config: MoEConfig, choice_BTE: jax.Array) -> jax.Array:
    if config.num_groups == config.top_k_groups:
        return choice_BTE
    choice_BTGE = choice_BTE.reshape(*choice_BTE.shape[:2], config.num_groups, -1)
    counted = 1 if config.group_score == "max" else min(2, choice_BTGE.shape[-1])
    group_BTG = jax.lax.top_k(choice_BTGE, counted)[0].sum(-1)
    best_BTK = jax.lax.top_k(group_BTG, config.top_k_groups)[1]
    chosen_BTG = (best_BTK[..., None] == jnp.arange(config.num_groups)).any(-2)
    return jnp.where(chosen_BTG[..., None], choice_BTGE, -jnp.inf).reshape(choice_BTE.shape)


def slots_per_expert(config: MoEConfig, length: int) -> int:
    """C, for a row of `length` tokens. No expert takes a token twice, so there are never more slots than tokens."""
    return min(length, math.ceil(config.capacity_factor * length * config.top_k / config.num_experts))


def fill_slots(config: MoEConfig, routing: Routing) -> Slots:
    """Each expert's first C tokens of the row, in the order of the text; the rest are dropped.

    Whether a token finds room depends on the tokens before it only, and on no other row.
    """
    B, T, K = routing.expert_BTK.shape
    E, C = config.num_experts, slots_per_expert(config, T)

    def fill(expert_N, weight_N):
        order_N = jnp.argsort(expert_N, stable=True)
        sorted_N = expert_N[order_N]
        place_N = jnp.arange(T * K) - jnp.searchsorted(sorted_N, sorted_N)
        # An expert or a place that does not exist is out of bounds, and not written.
        token_EC = jnp.full((E, C), T, jnp.int32).at[sorted_N, place_N].set(order_N // K, mode="drop")
        return token_EC, jnp.zeros((E, C)).at[sorted_N, place_N].set(weight_N[order_N], mode="drop")

    flat = lambda a: a.reshape(B, T * K)  # noqa: E731
    return Slots(*jax.vmap(fill)(flat(routing.expert_BTK), flat(routing.weight_BTK)))


def kept_in(slots: Slots, length: int) -> jax.Array:
    """How many tokens the slots of rows of `length` hold."""
    return (slots.token_BEC < length).sum()


def choose_tokens(config: MoEConfig, logits_BTE: jax.Array, valid_BT: jax.Array) -> Slots:
    """Experts choose their top C tokens of each row (Zhou et al. 2022): the load is even, but whether a token is chosen
    depends on the tokens after it."""
    T = logits_BTE.shape[1]
    scores_BET = jnp.swapaxes(scores_of(config, logits_BTE), 1, 2)
    # Softmax scores are positive, so padding comes last.
    weight_BEC, token_BEC = jax.lax.top_k(jnp.where(valid_BT[:, None], scores_BET, -1.0), slots_per_expert(config, T))
    return Slots(jnp.where(weight_BEC < 0, T, token_BEC), jnp.maximum(weight_BEC, 0) * config.scale)


def routing_statistics(
    config: MoEConfig, logits_BTE: jax.Array, routing: Routing, kept: jax.Array | None, valid_BT: jax.Array
) -> Statistics:
    """What the choice of the tokens was like; padding does not count. `kept`: assignments not dropped, None for all.

    `load` [E]: part of all assignments that each expert got, before any were dropped. `dropped`: part of them that
    found no place. `router_loss`: the weighted losses of this layer.
    """
    chosen_BTKE = routing.expert_BTK[..., None] == jnp.arange(config.num_experts)
    count_BE = chosen_BTKE.sum((1, 2), dtype=jnp.float32)
    total = jnp.maximum(count_BE.sum(), 1.0)
    load_E = count_BE.sum(0) / total
    kept = total if kept is None else kept
    return {
        "load": load_E,
        "dropped": jnp.where(count_BE.sum() > 0, 1 - kept / total, 0.0),
        "router_loss": _router_loss(config, logits_BTE, load_E, valid_BT),
    }


def expert_choice_statistics(config: MoEConfig, logits_BTE: jax.Array, slots: Slots, valid_BT: jax.Array) -> Statistics:
    """`load` and `router_loss` as above; `dropped`: part of the tokens that no expert chose."""
    B, T, E = logits_BTE.shape
    count_E = (slots.token_BEC < T).sum((0, 2), dtype=jnp.float32)
    rows_B1 = jnp.arange(B)[:, None]
    reached_BT = jnp.zeros((B, T), bool).at[rows_B1, slots.token_BEC.reshape(B, -1)].set(True, mode="drop")
    tokens = jnp.maximum(valid_BT.sum(), 1)
    load_E = count_E / jnp.maximum(count_E.sum(), 1.0)
    return {
        "load": load_E,
        "dropped": (valid_BT & ~reached_BT).sum() / tokens,
        "router_loss": _router_loss(config, logits_BTE, load_E, valid_BT),
    }


def _router_loss(config: MoEConfig, logits_BTE: jax.Array, load_E: jax.Array, valid_BT: jax.Array) -> jax.Array:
    loss, E = jnp.zeros(()), config.num_experts
    valid_BT1 = valid_BT[..., None].astype(jnp.float32)
    tokens_B1 = valid_BT1.sum(1)
    tokens = jnp.maximum(tokens_B1.sum(), 1.0)
    if config.load_loss or config.sequence_loss:
        affinity_BTE = _affinities(config, logits_BTE) * valid_BT1
    if config.load_loss:
        # Switch, equation 4, with the assignments of all K choices: 1 where the load is even.
        loss += config.load_loss * E * (load_E * affinity_BTE.sum((0, 1)) / tokens).sum()
    if config.sequence_loss:
        # DeepSeek-V3, equations 17 to 20: what the scores alone would choose, without bias and groups.
        first_BTK = jax.lax.top_k(jax.lax.stop_gradient(logits_BTE), config.top_k)[1]
        chosen_BTE = (first_BTK[..., None] == jnp.arange(E)).any(-2) * valid_BT1
        length_B1 = jnp.maximum(tokens_B1, 1.0)
        load_BE = chosen_BTE.sum(1) / (length_B1 * config.top_k)
        row_B = E * (load_BE * affinity_BTE.sum(1) / length_B1).sum(-1)
        loss += config.sequence_loss * row_B.sum() / jnp.maximum((tokens_B1 > 0).sum(), 1)
    if config.z_loss:
        log_z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
        loss += config.z_loss * (jnp.square(log_z_BT) * valid_BT).sum() / tokens
    return loss


def _affinities(config: MoEConfig, logits_BTE: jax.Array) -> jax.Array:
    """The scores as parts of a whole."""
    if config.router == "sigmoid":
        scores_BTE = jax.nn.sigmoid(logits_BTE)
        return scores_BTE / (scores_BTE.sum(-1, keepdims=True) + 1e-20)
    return jax.nn.softmax(logits_BTE)
