"""The Pallas kernel, interpreted, against its slow twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.platform import interpreting
from jaxllm.kernels.state_space_scan import reference_state_space_scan, state_space_scan

B, T, H, G, P, N, CHUNK = 2, 20, 4, 2, 8, 16, 8
STARTS = {
    "one document": [],
    "packed": [3, 8, 9, 15],  # inside a chunk, at its beginning, two in a chunk, its last position
}


@pytest.fixture(scope="module")
def functions():
    """Output and gradients of both, compiled once: 20 positions in chunks of 8, the last of them half empty."""

    def loss(scan, inputs, starts, cotangents):
        state, y = scan(*inputs, starts)
        return (state * cotangents[0]).sum() + (y * cotangents[1]).sum(), (state, y)

    graded = lambda scan: jax.jit(  # noqa: E731
        lambda *args: jax.value_and_grad(loss, argnums=1, has_aux=True)(scan, *args)
    )
    with interpreting():
        fast = graded(lambda *args: state_space_scan(*args, CHUNK)).lower(*operands([])).compile()
    return fast, graded(reference_state_space_scan)


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
def test_the_kernel_computes_what_its_twin_does(functions, starts):
    fast, slow = (function(*operands(starts)) for function in functions)
    names = ("state", "x", "log_decay", "write", "read")
    (_, out), gradients = fast
    (_, expected), expected_gradients = slow
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), out, expected)
    for name, found, wanted in zip(names, gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4, err_msg=name)


def operands(starts):
    keys = iter(jax.random.split(jax.random.key(0), 8))
    draw = lambda *shape: jax.random.normal(next(keys), shape, jnp.float32)  # noqa: E731
    # Decays from almost none to almost all within a step.
    inputs = (draw(B, H, P, N), draw(B, T, H, P), -jnp.exp(2 * draw(B, T, H)), draw(B, T, G, N), draw(B, T, G, N))
    begins = jnp.zeros((B, T), bool).at[0, jnp.array(starts, int)].set(True)
    return inputs, begins, (draw(B, H, P, N), draw(B, T, H, P))
