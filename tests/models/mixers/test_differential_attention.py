"""Differential attention, versions 1 and 2, against maps computed one by one and against transformers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.config import AttentionConfig, DifferentialAttentionConfig, ModelConfig
from jaxllm.models.declare import count, initialize
from jaxllm.models.layer import Context
from jaxllm.models.mixers.differential_attention import (
    differential_attention,
    differential_attention_cache,
    differential_attention_spec,
    lambda_init,
)
from jaxllm.models.mixers.rope import rope_angles, rotate

MODEL = ModelConfig(vocab_size=8, d_model=24, num_layers=1, context_length=64, init_std=0.3)
VERSIONS = {
    1: DifferentialAttentionConfig(version=1, num_heads=4, num_kv_heads=2, head_dim=6),
    2: DifferentialAttentionConfig(version=2, num_heads=4, num_kv_heads=2, head_dim=6),
}
WIDE = ModelConfig(vocab_size=8, d_model=4096, num_layers=1, attention=AttentionConfig(num_heads=32))
T, LAYER = 12, 3


@pytest.fixture(scope="module")
def apply():
    return jax.jit(differential_attention, static_argnums=(1, 2))


@pytest.fixture(params=[1, 2])
def config(request):
    return VERSIONS[request.param]


def parameters(config):
    params = initialize(differential_attention_spec(MODEL, config), jax.random.key(0))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + jnp.asarray(0.1 * random.normal(size=p.shape), jnp.float32), params)


def with_lambdas(params, exponent_1, exponent_2):
    """lambda = exp(exponent_1) - exp(exponent_2) + where it starts."""
    one = jnp.eye(6)[0]
    return params.replace(
        lambda_query_1=exponent_1 * one, lambda_key_1=one, lambda_query_2=exponent_2 * one, lambda_key_2=one
    )


def inputs(batch=2, length=T):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, length, MODEL.d_model)), jnp.float32)


def places(batch=2, start=0, stop=T):
    return Context(jnp.broadcast_to(jnp.arange(start, stop), (batch, stop - start)), None, None, LAYER)


def by_hand(p, config, x, window=0):
    """One row, one head, one map at a time; heads h of a group share key/value head h // (H / G)."""
    K, angles = config.head_dim, rope_angles(jnp.arange(len(x))[None], config.head_dim, config.rope, 64)
    turn = lambda a: np.asarray(rotate(a[None, :, None], *angles)[0, :, 0], np.float64)  # noqa: E731
    distance = np.arange(len(x))[:, None] - np.arange(len(x))
    hidden = (distance < 0) | ((distance >= window) if window else False)
    out = np.zeros((len(x), MODEL.d_model))
    for h in range(config.num_heads):
        g = h // (config.num_heads // config.kv_heads)
        maps = []
        for m in range(2):
            q, k = turn(x @ p.query[:, h, m]), turn(x @ p.key[:, g, min(m, p.key.shape[2] - 1)])
            scores = np.where(hidden, -np.inf, q @ k.T / np.sqrt(K))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            maps.append(weights / weights.sum(-1, keepdims=True) @ np.asarray(x @ p.value[:, g], np.float64))
        if config.version == 1:
            start = 0.8 - 0.6 * np.exp(-0.3 * LAYER)
            dots = float(p.lambda_query_1 @ p.lambda_key_1), float(p.lambda_query_2 @ p.lambda_key_2)
            mixed = maps[0] - (np.exp(dots[0]) - np.exp(dots[1]) + start) * maps[1]
            mixed = mixed / np.sqrt((mixed**2).mean(-1, keepdims=True) + MODEL.norm.epsilon)
            mixed = mixed * (1 if p.norm.scale is None else np.asarray(p.norm.scale)) * (1 - start)
        else:
            mixed = maps[0] - maps[1] / (1 + np.exp(-np.asarray(x @ p.lambda_token[:, h])))[:, None]
        out += mixed @ np.asarray(p.out[h])
    return out


@pytest.mark.parametrize("window", [0, 4])
def test_equals_one_map_at_a_time(apply, config, window):
    config, params, x = replace(config, window=window), parameters(config), inputs()
    mixed, cache, statistics = apply(params, MODEL, config, x, places(), None)
    assert cache is None
    for row in range(2):
        np.testing.assert_allclose(mixed[row], by_hand(params, config, x[row], window), rtol=1e-4, atol=1e-4)
    assert 0 < statistics["lambda"] < 1.2


def test_lambda_zero_is_ordinary_attention(apply):
    """Version 1 with exp(0) - exp(log(1 + start)) + start = 0, but for the norm of each head's output."""
    config = replace(VERSIONS[1], head_norm_scale=False)
    params, x, start = parameters(config), inputs(), float(lambda_init(config, LAYER))
    params = with_lambdas(params, 0.0, np.log(1 + start))
    angles = rope_angles(jnp.arange(T)[None], 6, config.rope, 64)
    q = rotate(jnp.einsum("BTD,DHK->BTHK", x, params.query[:, :, 0]), *angles)
    k = rotate(jnp.einsum("BTD,DGK->BTGK", x, params.key[:, :, 0]), *angles)
    v = jnp.einsum("BTD,DGV->BTGV", x, params.value)
    heads = [jax.nn.dot_product_attention(q, k, half, is_causal=True) for half in jnp.split(v, 2, axis=-1)]
    plain = jnp.concatenate(heads, axis=-1)
    plain = plain / jnp.sqrt(jnp.square(plain).mean(-1, keepdims=True) + MODEL.norm.epsilon) * (1 - start)
    expected = jnp.einsum("BTHV,HVD->BTD", plain, params.out)
    mixed, _, statistics = apply(params, MODEL, config, x, places(), None)
    np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=1e-4)
    assert abs(statistics["lambda"]) < 1e-6


def test_equal_maps_and_lambda_one_cancel(apply):
    config, x = VERSIONS[1], inputs()
    params = parameters(config)
    start = float(lambda_init(config, LAYER))
    params = params.replace(
        query=params.query.at[:, :, 1].set(params.query[:, :, 0]),
        key=params.key.at[:, :, 1].set(params.key[:, :, 0]),
    )
    params = with_lambdas(params, np.log(2 - start), 0.0)
    mixed, _, _ = apply(params, MODEL, config, x, places(), None)
    np.testing.assert_allclose(mixed, 0, atol=1e-3)


def test_pairs_lie_inside_one_group(apply):
    """Version 2: pairing heads of different groups is another function."""
    config, params, x = VERSIONS[2], parameters(VERSIONS[2]), inputs()
    right, _, _ = apply(params, MODEL, config, x, places(), None)
    across = jnp.swapaxes(params.query.reshape(24, 2, 4, 6), 1, 2).reshape(params.query.shape)
    wrong, _, _ = apply(params.replace(query=across), MODEL, config, x, places(), None)
    assert jnp.abs(right - wrong).max() > 0.1


def test_no_token_sees_a_later_one(apply, config):
    params, x = parameters(config), inputs(batch=1)
    seen = jax.grad(lambda x: jnp.square(apply(params, MODEL, config, x, places(1), None)[0][0, 5]).sum())(x)
    reached = np.abs(seen[0]).sum(-1)
    assert (reached[6:] == 0).all() and (reached[:6] > 0).all()


def test_packed_documents_are_as_if_alone(apply, config):
    params, x = parameters(config), inputs(batch=1)
    positions, segments = jnp.array([[*range(7), *range(5)]]), jnp.array([[1] * 7 + [2] * 5])
    packed, _, _ = apply(params, MODEL, config, x, Context(positions, segments, segments > 0, LAYER), None)
    for start, stop in ((0, 7), (7, 12)):
        alone, _, _ = apply(params, MODEL, config, x[:, start:stop], places(1, 0, stop - start), None)
        np.testing.assert_allclose(packed[:, start:stop], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [0, 4])
def test_cached_in_pieces_equals_the_whole(apply, config, window):
    config, params, x = replace(config, window=window), parameters(config), inputs()
    whole, _, _ = apply(params, MODEL, config, x, places(), None)
    cache, pieces = differential_attention_cache(MODEL, config, 2, T), []
    for start, stop in ((0, 7), (7, 8), (8, 12)):
        mixed, cache, _ = apply(params, MODEL, config, x[:, start:stop], places(2, start, stop), cache)
        pieces.append(mixed)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, rtol=1e-4, atol=1e-5)


def test_the_cache_is_that_of_grouped_attention():
    """Version 1 has half the heads of double width, version 2 just the same."""
    model = replace(WIDE, compute_dtype="bfloat16")
    grouped = 2 * 8 * 128 * 2  # keys and values of 8 heads of width 128, in bytes
    for config in (
        DifferentialAttentionConfig(version=1, num_heads=16, num_kv_heads=4),
        DifferentialAttentionConfig(version=2, num_heads=32, num_kv_heads=8),
    ):
        cache = jax.eval_shape(lambda config=config: differential_attention_cache(model, config, 1, 10))
        assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) == 10 * grouped


def test_parameters_of_version_2():
    """Beside grouped attention with 32 heads on 8 of width 128: the queries again, and a lambda for each head."""
    config = DifferentialAttentionConfig(version=2, num_heads=32, num_kv_heads=8)
    spec = differential_attention_spec(WIDE, config)
    grouped = 4096 * 128 * (32 + 8 + 8 + 32)
    assert count(spec) == grouped + 4096 * 4096 + 4096 * 32 == 41_943_040 + 16_777_216 + 131_072


@pytest.mark.parametrize("bias", [False, True])
def test_version_1_is_that_of_transformers(apply, bias):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    modeling = pytest.importorskip("transformers.models.diffllama.modeling_diffllama")
    from transformers import DiffLlamaConfig

    theirs = DiffLlamaConfig(
        hidden_size=24,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=6,
        attention_bias=bias,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    layer = modeling.DiffLlamaAttention(theirs, LAYER).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = inputs()
    angles = modeling.DiffLlamaRotaryEmbedding(theirs)(torch.zeros(1, T, 6), torch.arange(T)[None])
    causal = torch.full((T, T), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        expected, _ = layer(torch.tensor(np.asarray(x)), angles, causal)
    w = {name: jnp.asarray(value.numpy()) for name, value in layer.state_dict().items()}
    # Theirs has all heads of the first map before those of the second; values of two heads make one of ours.
    maps = lambda a, heads: jnp.moveaxis(a.reshape(2, heads, 6, *a.shape[1:]), 0, 1)  # noqa: E731
    inward = lambda name, heads: jnp.moveaxis(maps(w[f"{name}.weight"], heads), -1, 0)  # noqa: E731
    params = differential_attention_spec(MODEL, replace(VERSIONS[1], bias=bias, head_norm_scale=False)).replace(
        query=inward("q_proj", 4),
        key=inward("k_proj", 2),
        value=inward("v_proj", 2).reshape(24, 2, 12),
        out=w["o_proj.weight"].T.reshape(4, 12, 24),
        lambda_query_1=w["lambda_q1"],
        lambda_key_1=w["lambda_k1"],
        lambda_query_2=w["lambda_q2"],
        lambda_key_2=w["lambda_k2"],
    )
    if bias:
        params = params.replace(
            query_bias=maps(w["q_proj.bias"], 4),
            key_bias=maps(w["k_proj.bias"], 2),
            value_bias=maps(w["v_proj.bias"], 2).reshape(2, 12),
            out_bias=w["o_proj.bias"],
        )
    mixed, _, _ = apply(params, MODEL, replace(VERSIONS[1], bias=bias, head_norm_scale=False), x, places(), None)
    np.testing.assert_allclose(mixed, expected.numpy(), rtol=1e-4, atol=1e-4)
