"""What latent attention has of its own; what it shares with other kinds is in test_attention_forms.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.visibility import Places, Reach, visible
from jaxllm.models import Block, ModelConfig, RopeConfig
from jaxllm.models.config import LatentAttentionConfig
from jaxllm.models.declare import count
from jaxllm.models.mixers import latent_attention as module
from jaxllm.models.mixers.latent_attention import (
    absorbed_attention,
    absorbing_pays,
    latent_attention_cache,
    latent_attention_spec,
    latent_scale,
    naive_attention,
)
from tests.models.mixers.attention_variants import (
    ALIBI,
    LATENT,
    MODEL,
    QUICK,
    onward,
    random_parameters,
    random_stream,
    whole,
)

DEEPSEEK_V3 = LatentAttentionConfig(num_heads=128, q_rank=1536)


def test_the_absorbed_form_equals_the_naive_one():
    """Values and gradients of everything."""
    p = random_parameters(MODEL, LATENT)
    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    q, latent, rope_key = draw(2, 5, 3, 10), draw(2, 8, 9), draw(2, 8, 4)
    mask = visible(Places(jnp.arange(3, 8)[None], None), Places(jnp.arange(8)[None], None), Reach())

    def both(form):
        def run(p, q, latent, rope_key):
            out = form(p, q, latent, rope_key, mask, scale=0.4)
            return jnp.sin(out).sum(), out

        run = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2, 3), has_aux=True), compiler_options=QUICK)
        (_, out), gradients = run(p, q, latent, rope_key)
        return out, gradients

    absorbed, naive = both(absorbed_attention), both(naive_attention)
    assert absorbed[0].shape == (2, 5, 3, 5)
    np.testing.assert_allclose(absorbed[0], naive[0], rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), absorbed[1], naive[1])


@pytest.mark.parametrize("form", ["absorbed", "naive"])
def test_a_cache_equals_the_whole_in_either_form(form, monkeypatch):
    monkeypatch.setattr(module, "absorbing_pays", lambda config, queries: form == "absorbed")
    config = replace(LATENT, kv_rank=11 if form == "naive" else 13)  # programs are remembered by their config
    p, x = random_parameters(MODEL, config), random_stream(1, 8)
    expected, cache = whole(p, MODEL, config, x), latent_attention_cache(MODEL, config, 1, 10)
    for start in (0, 4):
        piece = x[:, start : start + 4]
        out, cache = onward(p, MODEL, config, piece, cache, np.full(1, start, np.int32), np.ones((1, 4), bool))
        np.testing.assert_allclose(out, expected[:, start : start + 4], rtol=1e-5, atol=1e-5)


def test_the_absorbed_form_is_for_few_queries():
    """Operations for each head and key, counted out for DeepSeek-V3: 512 * 256 for its key and value, then 320 a
    query, against 1088 a query."""
    assert absorbing_pays(DEEPSEEK_V3, 1) and absorbing_pays(DEEPSEEK_V3, 170)
    assert 512 * 256 + 170 * 320 > 170 * 1088 and 512 * 256 + 171 * 320 < 171 * 1088
    assert not absorbing_pays(DEEPSEEK_V3, 171)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_the_cache_holds_a_latent_and_a_rotary_key_a_position(dtype, size):
    cache = jax.eval_shape(lambda: latent_attention_cache(replace(MODEL, compute_dtype=dtype), LATENT, 3, 50))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)) == 3 * 50 * (9 + 4) * size


def test_published_parameter_count():
    model = ModelConfig(d_model=7168, pattern=(Block(mixer=DEEPSEEK_V3),))
    assert count(latent_attention_spec(model, DEEPSEEK_V3)) == 187_107_328
    assert all(p.is_matrix or len(p.shape) == 1 for p in jax.tree.leaves(latent_attention_spec(model, DEEPSEEK_V3)))


def test_yarn_sharpens_the_scores():
    rope = RopeConfig(scaling="yarn", factor=40.0, original_context=8, mscale=1.0, mscale_all_dim=1.0)
    assert latent_scale(MODEL, LATENT) == pytest.approx(10**-0.5)
    sharper = 10**-0.5 * (1 + 0.1 * np.log(40)) ** 2
    assert latent_scale(MODEL, replace(LATENT, rope=rope)) == pytest.approx(sharper)
    assert latent_scale(MODEL, replace(LATENT, rope=rope, scale=0.3)) == 0.3
    assert latent_scale(MODEL, replace(LATENT, rope=replace(rope, mscale_all_dim=0.0))) == pytest.approx(10**-0.5)


def test_alibi_is_refused():
    with pytest.raises(ValueError, match="latent attention has rotary positions or none: set model.positions, now ali"):
        latent_attention_spec(ALIBI, LATENT)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 0}, "latent_attention.num_heads must be at least 1, got 0"),
        ({"kv_rank": 0}, "latent_attention.kv_rank must be at least 1, got 0"),
        ({"q_rank": -1}, "latent_attention.q_rank and .scale are positive or 0, got -1 and 0.0"),
        ({"rope_dim": 5}, "rotary positions turn pairs of units, so rope_dim must be even, got 5"),
    ],
)
def test_values_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        LatentAttentionConfig(**fields)
