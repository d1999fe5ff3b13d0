"""Products of eight-bit operands against NumPy with ml_dtypes, and leaves that make them in a model."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec, hidden_states
from jaxllm.models.config import MoEConfig
from jaxllm.models.declare import initialize
from jaxllm.models.einsum import einsum
from jaxllm.models.presets import preset
from jaxllm.quantize.config import ProductConfig
from jaxllm.quantize.low_precision import LowPrecision, empty_histories, in_low_precision, multiplied, remember
from jaxllm.quantize.number_formats import E4M3, E5M2, INT8, in_tiles, rounded, scale_for
from jaxllm.quantize.products import quantized_product

TWINS = {INT8: np.int8, E4M3: ml_dtypes.float8_e4m3fn, E5M2: ml_dtypes.float8_e5m2}
M, K, N, BLOCK = 12, 20, 10, 8
FP8, BLOCKS = ProductConfig(kind="fp8"), ProductConfig(kind="fp8", scales="block", block=BLOCK)
INTEGERS = ProductConfig(kind="int8")


def operands(seed=0):
    random = np.random.default_rng(seed)
    draw = lambda *shape: (random.normal(size=shape) * np.exp(random.normal(size=shape))).astype(np.float32)  # noqa: E731
    return draw(M, K), draw(K, N), draw(M, N)


# NumPy twins


def numpy_rounded(x, scale, to):
    y = np.clip(x / np.float32(scale), -to.largest, to.largest)
    return (np.rint(y) if to is INT8 else y).astype(TWINS[to])


def numpy_scale(x, to):
    largest = np.abs(x).max()
    return np.float32(largest / np.float32(to.largest)) if largest > 0 else np.float32(1)


def numpy_dequantized(x, to, rows, columns):
    """Rounded tile by tile, in float64."""
    out = np.zeros(x.shape)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], columns):
            tile = x[i : i + rows, j : j + columns]
            scale = numpy_scale(tile, to)
            out[i : i + rows, j : j + columns] = numpy_rounded(tile, scale, to).astype(np.float64) * scale
    return out


def numpy_product(config, x, w, g):
    """The product and both gradients of operands that are rounded as the config says, summed in float64."""
    forward, backward = (INT8, INT8) if config.kind == "int8" else (E4M3, E5M2)
    if config.scales == "tensor":
        xq, wq = (numpy_dequantized(a, forward, *a.shape) for a in (x, w))
        gq = numpy_dequantized(g, backward, *g.shape)
        return xq @ wq, gq @ wq.T, xq.T @ gq
    b = config.block
    wq = numpy_dequantized(w, forward, b, b)
    along_tokens = numpy_dequantized(x, forward, b, 1).T @ numpy_dequantized(g, backward, b, 1)
    return numpy_dequantized(x, forward, 1, b) @ wq, numpy_dequantized(g, backward, 1, b) @ wq.T, along_tokens


@pytest.mark.parametrize("to", [INT8, E4M3, E5M2], ids=lambda f: f.name)
def test_rounding_is_that_of_numpy(to):
    x = np.concatenate([operands()[0].ravel(), np.linspace(-3, 3, 1001, dtype=np.float32), [0, 1e-9, 1e9]])
    for dtype in (np.float32, ml_dtypes.bfloat16):
        y = x.astype(dtype)
        scale = np.float32(3.1 / to.largest)
        found = np.asarray(jax.jit(rounded, static_argnums=2)(y, scale, to))
        np.testing.assert_array_equal(found, numpy_rounded(y.astype(np.float32), scale, to))
    assert float(scale_for(jnp.zeros(()), to)) == 1


@pytest.mark.parametrize("config", [INTEGERS, replace(BLOCKS, kind="int8"), FP8, BLOCKS], ids=str)
def test_products_and_gradients_are_those_of_rounded_operands(config):
    x, w, g = operands()
    y, pull = jax.vjp(lambda x, w: quantized_product(config, x, w), x, w)
    found = (y, *pull(jnp.asarray(g)))
    for f, e, exact in zip(found, numpy_product(config, x, w, g), (x @ w, g @ w.T, x.T @ g), strict=True):
        np.testing.assert_allclose(f, e, rtol=2e-5, atol=2e-5 * np.abs(e).max())
        error = np.linalg.norm(f - exact) / np.linalg.norm(exact)
        assert 1e-3 < error < 0.12, "rounded, and not far off"


def test_integers_are_added_exactly():
    """Sums beyond 2^24, where float32 has no odd numbers."""
    x = np.full((1, 4096), 127, np.float32)
    w = np.full((4096, 2), 127, np.float32)
    w[0] = [126, 1]
    expected = (x.astype(np.int64) @ w.astype(np.int64)).astype(np.float32)
    np.testing.assert_array_equal(quantized_product(INTEGERS, x, w), expected)
    traced = str(jax.make_jaxpr(lambda x, w: quantized_product(INTEGERS, x, w))(x, w))
    assert "preferred_element_type=int32" in traced


def test_an_outlier_spoils_its_own_tile_only():
    x, w, _ = operands()
    x[0, 0] = 1e4
    error = {
        config.scales: np.abs(quantized_product(config, x, w) - x @ w)[1:].max() for config in (BLOCKS, INTEGERS, FP8)
    }
    whole = np.abs(quantized_product(INTEGERS, x, w) - x @ w)[1:].max()
    blocks = np.abs(quantized_product(replace(BLOCKS, kind="int8"), x, w) - x @ w)[1:].max()
    assert blocks < whole / 10 and error["block"] < 0.2 * np.abs(x[1:] @ w).max()


def test_tiles_of_a_ragged_matrix():
    x = operands()[0]
    numbers, scales = in_tiles(jnp.asarray(x), 1, BLOCK, E4M3)
    assert numbers.shape == (12, 24) and scales.shape == (12, 3)
    restored = np.asarray(numbers, np.float32) * np.repeat(scales, BLOCK, axis=1)
    np.testing.assert_allclose(restored[:, :20], numpy_dequantized(x, E4M3, 1, BLOCK), rtol=1e-6)
    assert not restored[:, 20:].any()


def test_gradients_in_the_compute_type():
    x, w, g = operands()
    for config in (FP8, BLOCKS):
        pull = jax.vjp(partial(quantized_product, replace(config, backward="compute")), x, w)[1]
        for found, exact in zip(pull(jnp.asarray(g)), (g @ w.T, x.T @ g), strict=True):
            np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


# Delayed scaling


DELAYED = ProductConfig(kind="fp8", scaling="delayed", history=3)


def test_delayed_scales_are_those_of_the_steps_before():
    x, w, g = operands()
    history = jnp.asarray([[2.0, 8.0, 4.0], [1.0, 0.5, 0.25], [3.0, 0.0, 0.0]])
    y, pull = jax.vjp(lambda x, w, h: quantized_product(DELAYED, x, w, h), x, w, history)
    xs, ws = (np.float32(largest / 448) for largest in (8.0, 1.0))
    xq, wq = (numpy_rounded(a, s, E4M3).astype(np.float64) * s for a, s in ((x, xs), (w, ws)))
    np.testing.assert_allclose(y, xq @ wq, rtol=1e-5, atol=1e-4)
    assert np.abs(xq).max() == pytest.approx(8) and np.abs(x).max() > 8, (
        "what is larger than anything before is cut off"
    )
    grad_x, _, observed = pull(jnp.asarray(g))
    gq = numpy_rounded(g, np.float32(3 / 57344), E5M2).astype(np.float64) * np.float32(3 / 57344)
    np.testing.assert_allclose(grad_x, gq @ wq.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(observed[:, 0], [np.abs(a).max() for a in (x, w, g)])
    assert not observed[:, 1:].any()
    after = remember({"w": history}, {"w": observed})["w"]
    np.testing.assert_array_equal(after[:, 1:], history[:, :2])
    np.testing.assert_array_equal(after[:, 0], observed[:, 0])


def test_an_empty_history_says_nothing():
    x, w, _ = operands()
    np.testing.assert_array_equal(
        quantized_product(DELAYED, x, w, jnp.zeros((3, 3))), quantized_product(FP8, x, w, None)
    )


# In a model

MODEL = ModelConfig(
    vocab_size=32,
    context_length=16,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=32, activation="silu", gated=True),
)
TOKENS = jnp.arange(32, dtype=jnp.int32).reshape(2, 16) % 32


@pytest.mark.parametrize(
    "equation", ["BTD,DHK->BTHK", "BTHK,HKD->BTD", "BTD,DF->BTF", "BTHN,CHN->BTHC", "BPGK,PKM->BGM"]
)
def test_a_leaf_makes_its_products(equation):
    size = {"B": 2, "T": 3, "D": 8, "H": 4, "K": 5, "F": 6, "C": 7, "N": 9, "P": 2, "G": 3, "M": 4}
    left, right, _ = equation.replace("->", ",").split(",")
    if equation == "BTHN,CHN->BTHC":  # a product for each head
        x, w = (jnp.ones([size[c] for c in term]) for term in (left, right))
        with pytest.raises(ValueError, match="a product for each of several weights"):
            einsum(equation, x, LowPrecision(w, None, FP8))
        return
    x, w = (jax.random.normal(jax.random.key(i), [size[c] for c in term]) for i, term in enumerate((left, right)))
    exact, found = jnp.einsum(equation, x, w), einsum(equation, x.astype(jnp.bfloat16), LowPrecision(w, None, FP8))
    assert found.dtype == jnp.bfloat16 and found.shape == exact.shape
    assert jnp.linalg.norm(found - exact) < 0.07 * jnp.linalg.norm(exact)


def test_what_is_multiplied_in_eight_bits():
    """Hidden matrices are; embeddings, head, norms, biases, routers and experts are not."""
    model = replace(MODEL, tie_embeddings=False, pattern=(replace(MODEL.pattern[0], channel=MoEConfig(num_experts=4)),))
    spec = decoder_spec(model)
    chosen = in_low_precision(initialize(spec, jax.random.key(0)), spec, DELAYED, empty_histories(spec, DELAYED))
    leaf = lambda x: isinstance(x, LowPrecision)  # noqa: E731
    paths = [
        jax.tree_util.keystr(path, simple=True, separator=".").split(".")[-1]
        for path, value in jax.tree_util.tree_leaves_with_path(chosen, is_leaf=leaf)
        if leaf(value)
    ]
    assert paths == ["query", "key", "value", "out"]
    assert chosen.segments[0][0].mixer.query.history.shape == (2, 3, 3)


@pytest.mark.parametrize("name", ["gpt2", "deepseek-v3", "jamba-v0.1", "qwen3-next-80b-a3b"])
def test_every_kind_of_layer_takes_such_leaves(name):
    """Only traced: what touches a weight otherwise than by `einsum` would fail."""
    model = preset(name)
    spec = decoder_spec(replace(model, context_length=256))
    params = jax.eval_shape(lambda: in_low_precision(initialize(spec, jax.random.key(0)), spec, FP8, None))
    assert any(multiplied(param) for param in jax.tree.leaves(spec))
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    hidden = jax.eval_shape(lambda p, t: hidden_states(p, replace(model, context_length=256), t).x_BTD, params, tokens)
    assert hidden.shape == (1, 256, model.d_model)


def test_scales_are_the_same_when_computed_again():
    """Delayed scaling under remat: histories are values, so the second forward pass reads what the first one read,
    and what was seen is reported once."""
    spec = decoder_spec(MODEL)
    params = initialize(spec, jax.random.key(0))
    histories = jax.tree.map(lambda h: h + jnp.asarray([4.0, 0.2, 0.01])[:, None], empty_histories(spec, DELAYED))

    def gradient(remat):
        def loss(params, histories):
            leaves = in_low_precision(params, spec, DELAYED, histories)
            return jnp.square(hidden_states(leaves, MODEL, TOKENS, remat=remat).x_BTD).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, histories)

    (plain, seen), (again, seen_again) = gradient("none"), gradient("full")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), (plain, seen), (again, seen_again)
    )
    assert all((h[..., 0] > 0).all() and not h[..., 1:].any() for h in seen_again.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": 0}, "precision.products.block must be at least 1"),
        ({"scaling": "delayed", "scales": "block"}, "set precision.products.scales=tensor"),
        ({"scaling": "delayed", "backward": "compute"}, "set precision.products.backward=quantized"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ProductConfig(kind="fp8", **fields)
