"""Small models of each style, with weights large enough that every part of them shows in the logits."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, NormConfig, decoder_spec, forward
from jaxllm.models.declare import initialize

VOCAB, CONTEXT = 48, 24

GPT2 = ModelConfig(
    vocab_size=VOCAB,
    context_length=CONTEXT,
    d_model=16,
    num_layers=3,
    attention=AttentionConfig(num_heads=4, qkv_bias=True, out_bias=True),
    mlp=MLPConfig(d_ff=40, activation="gelu_tanh", bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    positions="learned",
    init_std=0.3,
)
LLAMA = ModelConfig(
    vocab_size=VOCAB,
    context_length=CONTEXT,
    d_model=16,
    num_layers=3,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, rope_theta=500.0),
    mlp=MLPConfig(d_ff=40, activation="silu", gated=True),
    tie_embeddings=False,
    init_std=0.3,
)
# A prologue, a pattern of two kinds of block that does not fit evenly, heads wider than d_model / H, norms on queries and keys.
HYBRID = ModelConfig(
    vocab_size=VOCAB,
    context_length=CONTEXT,
    d_model=16,
    num_layers=6,
    prologue=(Block(channel="none"),),
    pattern=(Block(), Block(channel="none")),
    attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=12, qk_norm=True),
    mlp=MLPConfig(d_ff=24, activation="relu2", gated=True, bias=True),
    norm=NormConfig(epsilon=1e-3),
    init_std=0.3,
)
STYLES = {"gpt2": GPT2, "llama": LLAMA, "hybrid": HYBRID}


def parameters(config: ModelConfig, seed: int = 0):
    """Random values in every leaf: biases and scales too, which start at zero and one and would hide in a comparison."""
    params = initialize(decoder_spec(config), jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten(x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True))


def tokens(rows: int, length: int, seed: int = 2) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, VOCAB, jnp.int32)


# One compiled function for all tests of a process: calls with equal shapes share it.
jit_forward = partial(jax.jit, static_argnums=1)(forward)
