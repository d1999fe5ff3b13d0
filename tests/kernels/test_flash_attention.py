"""The Pallas kernel, interpreted, against its slow twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels import tuning
from jaxllm.kernels.flash_attention import flash_attention, reference_flash_attention
from jaxllm.kernels.platform import interpreting

T = 256
PACKED = np.repeat([[1, 2, 3, 0]], [100, 28, 90, 38], axis=1).astype(np.int32)
CASES = {
    "packed, grouped heads": {"ids": PACKED, "kv_heads": 1},
    "windowed": {"window": 50},
    "soft-capped": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "everything": {"ids": PACKED, "window": 50, "softcap": 2.0, "sinks": True, "kv_heads": 1},
    "not causal, a length that is no multiple of 128": {"causal": False, "length": 200, "window": 50},
    "values narrower than keys": {"value_width": 16, "scale": 0.3},
}


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    """Four of scores, so that some are hidden and left out."""
    monkeypatch.setattr(tuning, "FLASH", {"": tuning.FlashTiles(128, 128, 128, 128, "for this test")})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_kernel_computes_what_its_twin_does(case):
    case = dict(case)
    length, sinks = case.pop("length", T), case.pop("sinks", False)
    q, k, v, cotangent = operands(length, 2, case.pop("kv_heads", 2), 32, case.pop("value_width", 32))
    ids = case.pop("ids", None)
    sinks_H = jnp.array([0.5, -1.0]) if sinks else jnp.zeros(2)

    def loss(attention, q, k, v, sinks_H):
        out = attention(q, k, v, ids, sinks_H=sinks_H if sinks else None, **case)
        return (out * cotangent).sum(), out

    grads = lambda attention: jax.jit(  # noqa: E731
        lambda *args: jax.value_and_grad(loss, (1, 2, 3, 4), has_aux=True)(attention, *args)
    )(q, k, v, sinks_H)
    with interpreting():
        (_, out), gradients = grads(flash_attention)
    (_, expected), expected_gradients = grads(reference_flash_attention)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    for name, found, wanted in zip(("q", "k", "v", "sinks"), gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-4, err_msg=name)


def operands(length, heads, kv_heads, width, value_width):
    keys = iter(jax.random.split(jax.random.key(0), 4))
    draw = lambda *shape: jax.random.normal(next(keys), (1, length, *shape), jnp.float32)  # noqa: E731
    return draw(heads, width), draw(kv_heads, width), draw(kv_heads, value_width), draw(heads, value_width)
