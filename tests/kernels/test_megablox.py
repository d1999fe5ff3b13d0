"""The Pallas kernels, interpreted, against their slow twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels import megablox, tuning
from jaxllm.kernels.platform import interpreting

# Groups that end inside a tile of 128 rows, empty ones, rows that belong to none, and nothing at all.
SIZES = [[100, 0, 130, 1, 19], [0, 0, 0, 0, 0], [300, 0, 0, 0, 0], [0, 128, 128, 0, 44]]
N, D, F = 300, 130, 140


@pytest.fixture(scope="module")
def fast():
    """Both kernels, compiled once for tiles smaller than any of the axes."""
    tiles = tuning.ProductTiles(128, 128, 128, "for this test")
    with pytest.MonkeyPatch.context() as patch, interpreting():
        patch.setattr(tuning, "PRODUCT", {"": tiles})
        shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
        sizes = jax.ShapeDtypeStruct((5,), jnp.int32)
        rows = jax.jit(megablox.rows).lower(shape(N, D), shape(5, D, F), sizes).compile()
        weights = jax.jit(megablox.weights).lower(shape(N, D), shape(N, F), sizes).compile()
    return rows, weights


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_kernels_compute_what_their_twins_do(fast, sizes):
    rows, weights = fast
    keys = jax.random.split(jax.random.key(0), 3)
    x, cotangent = jax.random.normal(keys[0], (N, D)), jax.random.normal(keys[1], (N, F))
    matrices, sizes = jax.random.normal(keys[2], (5, D, F)), jnp.array(sizes, jnp.int32)
    np.testing.assert_allclose(rows(x, matrices, sizes), megablox.reference_rows(x, matrices, sizes), atol=1e-4)
    np.testing.assert_allclose(weights(x, cotangent, sizes), megablox.reference_weights(x, cotangent, sizes), atol=1e-4)
