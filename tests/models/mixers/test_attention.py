"""What one layer of softmax attention does that no other kind does, its cache, and its parameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, ModelConfig
from jaxllm.models.declare import count, ones, zeros
from jaxllm.models.layer import Context
from jaxllm.models.mixers.alibi import alibi_bias, alibi_slopes
from jaxllm.models.mixers.attention import attention, attention_cache, attention_spec
from jaxllm.models.mixers.dot_product import dot_product_attention, reference_attention
from jaxllm.models.mixers.kv_cache import NEVER, slot_positions
from tests.models.mixers.attention_variants import (
    ALIBI,
    GEMMA,
    GROUPED,
    LAYER_NORM,
    MODEL,
    QUICK,
    branch,
    onward,
    random_parameters,
    random_stream,
    whole,
)

POSITIONS = jnp.arange(9)[None]


def random_heads(heads, width, rows=2, length=9, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, length, heads, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("groups", "masked", "dials"),
    [
        (6, False, {}),
        (2, True, {"scale": 0.9, "softcap": 1.1}),
        (1, True, {"sinks": np.array([-3.0, 0.1, 9.0, 0.5, -9.0, 1.0], np.float32)}),
        (2, True, {"bias": random_heads(9, 9, rows=1, length=6), "softcap": 2.0}),
        (3, False, {"bias": random_heads(9, 9, rows=2, length=6), "sinks": np.zeros(6, np.float32)}),
    ],
    ids=["multi-head", "grouped, capped", "multi-query, sinks", "bias after the cap", "a bias for each row"],
)
def test_dot_product_attention_equals_its_slow_twin(groups, masked, dials):
    """Values and gradients; values of another width than keys."""
    q, k, v = random_heads(6, 5, seed=1), random_heads(groups, 5, seed=2), random_heads(groups, 7, seed=3)
    mask = np.tril(np.ones((2, 9, 9), bool)) if masked else None
    learned = {name: value for name, value in dials.items() if name in ("sinks", "bias")}
    fixed = {name: value for name, value in dials.items() if name not in learned}

    def both(function):
        def run(q, k, v, learned):
            out = function(q, k, v, mask, **learned, **fixed)
            return jnp.sin(out).sum(), out

        run = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2, 3), has_aux=True), compiler_options=QUICK)
        (_, out), gradients = run(q, k, v, learned)
        return out, gradients

    fast, slow = both(dot_product_attention), both(reference_attention)
    assert fast[0].shape == (2, 9, 6, 7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), fast, slow)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_large_scores_and_sinks_stay_finite(size):
    """Values and gradients, where a sink is far above all scores and far below."""
    q, sinks = size * random_heads(2, 4), np.array([1e4, -1e4], np.float32)
    run = lambda q, sinks: jnp.sin(dot_product_attention(q, q, q, None, sinks=sinks)).sum()  # noqa: E731
    for leaf in jax.tree.leaves(jax.jit(jax.value_and_grad(run, argnums=(0, 1)), compiler_options=QUICK)(q, sinks)):
        assert np.isfinite(leaf).all()


def test_softmax_is_in_float32_whatever_the_activations_are():
    q, k, v = (random_heads(2, 4, seed=i).astype(jnp.bfloat16) for i in range(3))
    out, exact = jax.jit(lambda q, k, v: (dot_product_attention(q, k, v, None), reference_attention(q, k, v, None)))(
        q, k, v
    )
    assert out.dtype == jnp.bfloat16
    assert np.abs(out.astype(jnp.float32) - exact).max() < 0.02


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_alibi_slopes_of_powers_of_two(heads):
    np.testing.assert_allclose(alibi_slopes(heads), [2 ** (-8 * i / heads) for i in range(1, heads + 1)])


def test_alibi_slopes_of_other_head_counts_take_every_other_one_of_the_next_power():
    np.testing.assert_allclose(alibi_slopes(12)[:8], alibi_slopes(8))
    np.testing.assert_allclose(alibi_slopes(12)[8:], alibi_slopes(16)[0:8:2])
    assert len(alibi_slopes(7)) == 7


def test_alibi_bias_falls_with_the_distance():
    bias = alibi_bias(jnp.array([[3]]), jnp.array([[0, 3, 5]]), 2)
    np.testing.assert_allclose(bias[0, :, 0], [[-3 / 16, 0, -2 / 16], [-3 / 256, 0, -2 / 256]])


def test_a_windowed_layer_is_a_full_one_whose_mask_is_a_band():
    """Said a second way: a bias that forbids what lies outside of the window."""
    config = replace(GROUPED, window=4, sinks=True)
    p, x = random_parameters(MODEL, config), random_stream(2, 12)
    band = np.arange(12)[:, None] - np.arange(12)[None] < 4
    bias = np.where(band, 0, -1e30).astype(np.float32)[None, None].repeat(6, 1)
    full = whole(p, MODEL, replace(config, window=0), x, bias=bias)
    np.testing.assert_allclose(whole(p, MODEL, config, x), full, rtol=1e-5, atol=1e-6)


def test_not_causal_sees_all_of_its_document_and_no_padding():
    config = replace(GROUPED, causal=False)
    p, x = random_parameters(MODEL, config), random_stream(1, 9)
    ids = np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0]], np.int32)
    positions = np.array([[0, 1, 2, 3, 0, 1, 2, 0, 1]], np.int32)
    outputs = lambda x: jnp.sin(branch(p, MODEL, config, x, positions, ids)).sum(-1)[0]  # noqa: E731
    reach = np.abs(jax.jit(jax.jacrev(outputs), compiler_options=QUICK)(x))
    np.testing.assert_array_equal(reach[:, 0].sum(-1) > 0, ids == ids.T)
    valid = ids > 0
    alone = whole(p, MODEL, config, x[:, :7])
    np.testing.assert_allclose(whole(p, MODEL, config, x, None, None, valid)[:, :7], alone, rtol=1e-5, atol=1e-6)


def test_alibi_and_a_given_bias_add_up():
    p, x = random_parameters(ALIBI, GROUPED), random_stream(1, 9)
    given = random_heads(9, 9, rows=1, length=6)
    nope = replace(ALIBI, positions="none")
    both = np.asarray(alibi_bias(POSITIONS, POSITIONS, 6)) + given
    np.testing.assert_allclose(
        whole(p, ALIBI, GROUPED, x, bias=given), whole(p, nope, GROUPED, x, bias=both), rtol=1e-5, atol=1e-6
    )


def test_a_layer_without_positions_has_neither_rope_nor_alibi():
    config = replace(GROUPED, no_positions=True)
    p, x = random_parameters(MODEL, config), random_stream(1, 9)
    expected = whole(p, replace(MODEL, positions="none"), GROUPED, x)
    np.testing.assert_array_equal(whole(p, MODEL, config, x), expected)
    np.testing.assert_array_equal(whole(p, ALIBI, config, x), expected)
    assert np.abs(expected - whole(p, MODEL, GROUPED, x)).max() > 1e-2


class TestRing:
    def test_it_has_as_many_slots_as_are_in_reach(self):
        def slots(length, **dials):
            return attention_cache(MODEL, replace(GROUPED, **dials), 3, length).key_BSGK.shape

        assert slots(100) == (3, 100, 2, 6)
        assert slots(100, window=8) == (3, 8, 2, 6)
        assert slots(100, chunk=7) == slots(100, chunk=7, window=9) == (3, 7, 2, 6)
        assert slots(5, window=8) == (3, 5, 2, 6)

    def test_slots_know_their_positions(self):
        held = slot_positions(jnp.array([0, 2, 4, 11]), 4)
        assert held.tolist() == [[NEVER] * 4, [0, 1, NEVER, NEVER], [0, 1, 2, 3], [8, 9, 10, 7]]

    def test_it_holds_the_newest_keys_and_no_padding(self):
        """What a row of 11 tokens and 2 of padding leaves behind, next to a cache with room for all."""
        config, full = replace(GROUPED, window=4), GROUPED
        p, x = random_parameters(MODEL, config), random_stream(1, 13)
        valid = np.arange(13)[None] < 11
        start = np.zeros(1, np.int32)
        _, ring = onward(p, MODEL, config, x, attention_cache(MODEL, config, 1, 20), start, valid)
        _, all_of_it = onward(p, MODEL, full, x, attention_cache(MODEL, full, 1, 20), start, valid)
        order = [8, 9, 10, 7]
        np.testing.assert_allclose(ring.key_BSGK[:, :], all_of_it.key_BSGK[:, order], atol=1e-6)
        np.testing.assert_allclose(ring.value_BSGV[:, :], all_of_it.value_BSGV[:, order], atol=1e-6)

    def test_a_piece_of_nothing_but_padding_leaves_it_as_it_is(self):
        config = replace(GROUPED, window=4)
        p, x = random_parameters(MODEL, config), random_stream(1, 6)
        empty = attention_cache(MODEL, config, 1, 20)
        _, ring = onward(p, MODEL, config, x, empty, np.zeros(1, np.int32), np.ones((1, 6), bool))
        _, after = onward(p, MODEL, config, x, ring, np.full(1, 6, np.int32), np.zeros((1, 6), bool))
        jax.tree.map(np.testing.assert_array_equal, ring, after)

    def test_a_row_that_waits_may_write_its_place_again_and_again(self):
        """As a finished row does while others go on decoding: its own place changes, what it still needs does not."""
        config = replace(GROUPED, window=4)
        p, x = random_parameters(MODEL, config), random_stream(1, 9)
        cache, at = attention_cache(MODEL, config, 1, 20), lambda n: np.full(1, n, np.int32)
        _, cache = onward(p, MODEL, config, x[:, :8], cache, at(0), np.ones((1, 8), bool))
        for noise in (3.0, -2.0):
            _, cache = onward(p, MODEL, config, np.full_like(x[:, :1], noise), cache, at(8), None)
        out, _ = onward(p, MODEL, config, x[:, 8:], cache, at(8), None)
        np.testing.assert_allclose(out, whole(p, MODEL, config, x)[:, 8:], rtol=1e-5, atol=1e-5)


def test_parameters_of_each_dial():
    """D 20, 6 heads and 2 key/value heads of width 6."""
    size = lambda model=MODEL, **dials: count(attention_spec(model, replace(GROUPED, **dials)))  # noqa: E731
    plain = 20 * 36 * 2 + 20 * 12 * 2
    assert size() == plain
    assert size(qkv_bias=True, out_bias=True) == plain + 36 + 12 + 12 + 20
    assert size(qk_norm="shared") == plain + 6 + 6
    assert size(qk_norm="per_head") == size(LAYER_NORM, qk_norm="whole") == plain + 36 + 12
    assert size(gate=True) == plain + 20 * 36
    assert size(gate=True, qkv_bias=True) == plain + 20 * 36 + 36 + 36 + 12 + 12
    assert size(sinks=True) == plain + 6


@pytest.mark.parametrize("kind", ["shared", "per_head", "whole"])
def test_norms_of_queries_and_keys_start_by_scaling_with_one(kind):
    for model, start in ((MODEL, ones), (LAYER_NORM, ones), (GEMMA, zeros)):
        spec = attention_spec(model, replace(GROUPED, qk_norm=kind))
        assert spec.query_norm.scale.init is start and spec.key_norm.scale.init is start
        assert spec.query_norm.bias is None and spec.key_norm.bias is None


def test_a_layer_that_looks_ahead_has_no_cache():
    with pytest.raises(ValueError, match="attention.causal=false sees later tokens, so there is no continuing from a"):
        attention_cache(MODEL, replace(GROUPED, causal=False), 1, 8)


def test_a_bias_for_other_keys_is_refused():
    config = replace(GROUPED, window=4)
    p, cache = random_parameters(MODEL, config), attention_cache(MODEL, config, 1, 20)
    context = Context(jnp.zeros((1, 1), jnp.int32), None, None, bias=jnp.zeros((1, 6, 1, 20)))
    with pytest.raises(ValueError, match="context.bias is for 20 keys, but queries look at 4: "):
        jax.eval_shape(lambda x: attention(p, MODEL, config, x, context, cache)[0], random_stream(1, 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, "num_heads=6 must be a positive multiple of num_kv_heads=4"),
        ({"num_heads": 0}, "num_heads=0 must be a positive multiple"),
        ({"window": -1}, "attention.window and .chunk are lengths or 0, got -1 and 0"),
        ({"chunk": -2}, "attention.window and .chunk are lengths or 0, got 0 and -2"),
        ({"softcap": -1.0}, "attention.softcap and .scale are positive or 0, got -1.0 and 0.0"),
    ],
)
def test_values_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        AttentionConfig(**fields)


def test_rope_needs_an_even_width():
    with pytest.raises(ValueError, match="rotary positions turn pairs of units, so head_dim must be even, got 5"):
        ModelConfig(d_model=20, attention=AttentionConfig(num_heads=4))
