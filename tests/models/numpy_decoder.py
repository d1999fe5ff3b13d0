"""The decoder once more, in float64 numpy with loops over layers and heads.

Written from the papers, not from the code it checks.
"""

import math

import jax
import numpy as np

ACTIVATIONS = {
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def logits(params, config, tokens):
    """[T] ids -> [T, V]; one unpacked document."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = p.embedding[tokens]
    if config.positions == "learned":
        x = x + p.position[: len(tokens)]
    for block in layers(p, config):
        x = x + attention(block.mixer, config, norm(block.mixer_norm, config, x))
        if block.channel is not None:
            x = x + mlp(block.channel, config, norm(block.channel_norm, config, x))
    return norm(p.norm, config, x) @ (p.embedding if config.tie_embeddings else p.head).T


def layers(p, config):
    """The parameters of each layer in turn, taken out of its stack; they must be the blocks that the config names."""
    blocks = iter(config.blocks())
    for segment in p.segments:
        for layer in range(len(segment[0].mixer_norm.scale)):
            for stacked in segment:
                assert (stacked.channel is None) == (next(blocks).channel == "none")
                yield jax.tree.map(lambda a, layer=layer: a[layer], stacked)
    assert next(blocks, None) is None


def norm(p, config, x):
    if config.norm.kind == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm.epsilon) * p.scale
    return y if p.bias is None else y + p.bias


def attention(p, config, x):
    T, K, H, G = len(x), config.head_dim, config.attention.num_heads, config.num_kv_heads
    out = np.zeros_like(x)
    for head in range(H):
        group = head // (H // G)
        q, k, v = (
            x @ w[:, i] + (0 if b is None else b[i])
            for w, b, i in ((p.query, p.query_bias, head), (p.key, p.key_bias, group), (p.value, p.value_bias, group))
        )
        if p.query_norm is not None:
            rms = lambda a, s: a / np.sqrt((a**2).mean(-1, keepdims=True) + config.norm.epsilon) * s  # noqa: E731
            q, k = rms(q, p.query_norm.scale), rms(k, p.key_norm.scale)
        if config.positions == "rope":
            q, k = rope(q, config.attention.rope.theta), rope(k, config.attention.rope.theta)
        scores = q @ k.T / math.sqrt(K)
        scores[np.triu_indices(T, 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out += (weights / weights.sum(-1, keepdims=True)) @ v @ p.out[head]
    return out if p.out_bias is None else out + p.out_bias


def rope(x, theta):
    """Pairs (i, i + K/2) as complex numbers, turned by position * theta^(-2i/K)."""
    T, K = x.shape
    angles = np.arange(T)[:, None] * theta ** (-np.arange(0, K, 2) / K)
    turned = (x[:, : K // 2] + 1j * x[:, K // 2 :]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def mlp(p, config, x):
    bias = lambda b: 0 if b is None else b  # noqa: E731
    up, activation = x @ p.up + bias(p.up_bias), ACTIVATIONS[config.mlp.activation]
    hidden = activation(up) if p.gate is None else activation(x @ p.gate + bias(p.gate_bias)) * up
    return hidden @ p.down + bias(p.down_bias)
