"""Every dial of softmax and latent attention, set in turn on one small layer, and how to run such a layer."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models import AttentionConfig, ModelConfig, NormConfig, RopeConfig
from jaxllm.models.config import LatentAttentionConfig
from jaxllm.models.layer import Context
from jaxllm.models.layers import layer_of

GROUPED = AttentionConfig(num_heads=6, num_kv_heads=2, head_dim=6)
MODEL = ModelConfig(vocab_size=8, context_length=24, d_model=20, attention=GROUPED)
LAYER_NORM = replace(MODEL, norm=NormConfig(kind="layernorm", bias=True))
GEMMA = replace(MODEL, norm=NormConfig(unit_offset=True, epsilon=1e-3))
ALIBI = replace(MODEL, positions="alibi")
YARN = RopeConfig(scaling="yarn", factor=3, original_context=8, beta_fast=2, beta_slow=0.1)
LLAMA3 = RopeConfig(scaling="llama3", factor=3, original_context=8, interleaved=True)
DYNAMIC = RopeConfig(scaling="dynamic_ntk", factor=2, original_context=9)
LONGROPE = RopeConfig(scaling="longrope", original_context=8, short_factor=(1.0, 1.5, 2.0), long_factor=(1.0, 2.5, 4.0))
LATENT = LatentAttentionConfig(num_heads=3, q_rank=7, kv_rank=9, nope_dim=6, rope_dim=4, value_dim=5)

VARIANTS = {
    "grouped, partial interleaved rope": (MODEL, replace(GROUPED, rope=RopeConfig(fraction=0.67, interleaved=True))),
    "multi-query, biases, one scale of qk-norm": (
        GEMMA,
        replace(GROUPED, num_kv_heads=1, qkv_bias=True, out_bias=True, qk_norm="shared", rope=LLAMA3),
    ),
    "a scale of qk-norm for each head": (LAYER_NORM, replace(GROUPED, qk_norm="per_head", rope=YARN)),
    "qk-norm over all heads": (MODEL, replace(GROUPED, num_kv_heads=6, qk_norm="whole", no_positions=True)),
    "window, sinks, dynamic ntk": (MODEL, replace(GROUPED, window=5, sinks=True, rope=DYNAMIC)),
    "window of one, cap, scale": (MODEL, replace(GROUPED, window=1, softcap=1.5, scale=0.7)),
    "chunk, longrope": (MODEL, replace(GROUPED, chunk=4, rope=LONGROPE)),
    "chunk and a wider window, gate": (MODEL, replace(GROUPED, chunk=7, window=4, gate=True, qkv_bias=True)),
    "alibi, window": (ALIBI, replace(GROUPED, window=6)),
    "alibi, scaled, window longer than the text": (ALIBI, replace(GROUPED, alibi_scaled=True, window=40)),
    "latent": (MODEL, replace(LATENT, rope=replace(YARN, interleaved=True, mscale=0.7, mscale_all_dim=1.2))),
    "latent, direct queries, biases": (MODEL, replace(LATENT, q_rank=0, bias=True)),
    "latent, without positions": (replace(MODEL, positions="none"), LATENT),
}


def random_parameters(model, config, seed=0):
    """Noise on every leaf: a bias or scale of 0 or 1 could go forgotten."""
    random = np.random.default_rng(seed)
    draw = lambda param: random.normal(scale=0.5, size=param.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, layer_of(config).spec(model, config))


def random_stream(rows, length, width=20, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, length, width)).astype(np.float32)


# Compiling is most of what these tests do, and half of it is optimizing code that runs once.
QUICK = {"xla_backend_optimization_level": 0}


def branch(p, model, config, x_BTD, positions_BT=None, segment_ids_BT=None, valid_BT=None, bias=None):
    """The layer's branch for whole sequences."""
    if positions_BT is None:
        positions_BT = jnp.arange(x_BTD.shape[1])[None]
    context = Context(positions_BT, segment_ids_BT, valid_BT, bias=bias)
    return layer_of(config).apply(p, model, config, x_BTD, context, None)[0]


whole = jax.jit(branch, static_argnames=("model", "config"), compiler_options=QUICK)


@partial(jax.jit, static_argnames=("model", "config"), compiler_options=QUICK)
def onward(p, model, config, x_BTD, cache, length_B, valid_BT):
    """The layer's branch for the next tokens of each row, and the cache."""
    context = Context(length_B[:, None] + jnp.arange(x_BTD.shape[1])[None], None, valid_BT)
    return layer_of(config).apply(p, model, config, x_BTD, context, cache)[:2]
