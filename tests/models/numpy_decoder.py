"""The decoder once more, in plain float64 numpy with loops over layers: written from the papers, not from the code it
checks."""

import math

import numpy as np


def logits(params, config, tokens):
    """[T] ids -> [T, V]; one unpacked document."""
    p = to_numpy(params)
    x = p.embedding[tokens]
    if p.position is not None:
        x = x + p.position[: len(tokens)]
    for segment in p.segments:
        for layer in range(len(segment[0].mixer_norm.scale)):
            for block in segment:
                x = x + attention(block.mixer, layer, config, norm(block.mixer_norm, config, x, layer))
                x = x + mlp(block.channel, layer, config, norm(block.channel_norm, config, x, layer))
    head = p.embedding if p.head is None else p.head
    return norm(p.norm, config, x) @ head.T


def to_numpy(params):
    import jax

    return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def norm(p, config, x, layer=None):
    pick = lambda a: a if layer is None else a[layer]  # noqa: E731
    if config.norm.kind == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm.epsilon) * pick(p.scale)
    return y if p.bias is None else y + pick(p.bias)


def attention(p, layer, config, x):
    T, K, H, G = len(x), config.head_dim, config.attention.num_heads, config.num_kv_heads
    out = np.zeros_like(x)
    for head in range(H):
        group = head // (H // G)
        q, k, v = (
            x @ w[layer][:, i] + (0 if b is None else b[layer][i])
            for w, b, i in ((p.query, p.query_bias, head), (p.key, p.key_bias, group), (p.value, p.value_bias, group))
        )
        if p.query_norm is not None:
            rms = lambda a, s: a / np.sqrt((a**2).mean(-1, keepdims=True) + config.norm.epsilon) * s[layer]  # noqa: E731
            q, k = rms(q, p.query_norm.scale), rms(k, p.key_norm.scale)
        if config.positions == "rope":
            q, k = rope(q, config.attention.rope_theta), rope(k, config.attention.rope_theta)
        scores = q @ k.T / math.sqrt(K)
        scores[np.triu_indices(T, 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out += (weights / weights.sum(-1, keepdims=True)) @ v @ p.out[layer][head]
    return out if p.out_bias is None else out + p.out_bias[layer]


def rope(x, theta):
    """Pairs (i, i + K/2) as complex numbers, turned by position * theta^(-2i/K)."""
    T, K = x.shape
    angles = np.arange(T)[:, None] * theta ** (-np.arange(0, K, 2) / K)
    turned = (x[:, : K // 2] + 1j * x[:, K // 2 :]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def mlp(p, layer, config, x):
    bias = lambda b: 0 if b is None else b[layer]  # noqa: E731
    up = x @ p.up[layer] + bias(p.up_bias)
    act = {
        "silu": lambda a: a / (1 + np.exp(-a)),
        "gelu_tanh": lambda a: 0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
    }[config.mlp.activation]
    hidden = act(up) if p.gate is None else act(x @ p.gate[layer] + bias(p.gate_bias)) * up
    return hidden @ p.down[layer] + bias(p.down_bias)
