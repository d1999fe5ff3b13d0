from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.channels.grouped import grouped_product, reference_grouped_product

SIZES = [[30, 0, 70, 1, 19], [0, 0, 0, 0, 0], [120, 0, 0, 0, 0], [1, 2, 3, 4, 5]]


def with_gradients(function, x, weight, sizes):
    wave = jnp.cos(jnp.arange(x.shape[0] * weight.shape[2]).reshape(x.shape[0], -1))
    loss = lambda x, weight: (function(x, weight, sizes) * wave).sum()  # noqa: E731
    return function(x, weight, sizes), jax.grad(loss, argnums=(0, 1))(x, weight)


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (120, 6)), jax.random.normal(keys[1], (5, 6, 7))


def compare(function, arrays):
    fast = jax.jit(lambda *a: with_gradients(function, *a))
    slow = jax.jit(lambda *a: with_gradients(reference_grouped_product, *a))
    for sizes in SIZES:
        sizes = jnp.array(sizes, jnp.int32)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
        jax.tree.map(close, fast(*arrays, sizes), slow(*arrays, sizes))


def test_equals_its_slow_twin(arrays):
    compare(grouped_product, arrays)


def test_the_form_for_accelerators_does_too(arrays):
    compare(partial(grouped_product, kernel="ragged"), arrays)


def test_a_kernel_for_another_platform_is_refused(arrays):
    with pytest.raises(ValueError, match="kernels.experts=megablox can't compute this layer: it is for tpu, and this"):
        grouped_product(*arrays, jnp.array(SIZES[0]), kernel="megablox")


def test_gradients_of_float32_matrices_are_not_rounded(arrays):
    x, weight = arrays[0].astype(jnp.bfloat16), arrays[1]
    sizes = jnp.array(SIZES[0], jnp.int32)
    value, (grad_x, grad_weight) = with_gradients(grouped_product, x, weight, sizes)
    assert value.dtype == grad_x.dtype == jnp.bfloat16 and grad_weight.dtype == jnp.float32
    assert (grad_weight.astype(jnp.bfloat16).astype(jnp.float32) != grad_weight).any()
    rounded = weight.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(
        value.astype(jnp.float32),
        reference_grouped_product(x.astype(jnp.float32), rounded, sizes),
        rtol=0.01,
        atol=0.01,
    )
