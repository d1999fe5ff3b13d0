import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.layer import Context
from jaxllm.models.mixers.causal_convolution import (
    CausalConvolution,
    causal_convolution,
    convolution_spec,
    empty_history,
    new_history,
    previous_token,
    reference_causal_convolution,
)
from jaxllm.models.mixers.recurrence import document_starts

IDS = jnp.asarray([[1, 1, 1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2, 2]])


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def context(ids=None, valid=None):
    return Context(jnp.zeros((2, 1), jnp.int32), ids, valid)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_definition(width, bias):
    p = CausalConvolution(random(width, 3, 2), random(3, 2, seed=1) if bias else None)
    x = random(2, 8, 3, 2, seed=2)
    for ids in (IDS, jnp.ones_like(IDS)):
        starts = document_starts(context(ids), None)
        np.testing.assert_allclose(
            causal_convolution(p, x, starts, None), reference_causal_convolution(p, x, ids), atol=1e-6
        )


def test_equals_the_convolution_of_pytorch():
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    layer = torch.nn.Conv1d(6, 6, 4, groups=6, padding=3)
    x = random(2, 9, 6)
    expected = layer(torch.tensor(np.asarray(x)).swapaxes(1, 2))[..., :9].swapaxes(1, 2)
    p = CausalConvolution(jnp.asarray(layer.weight.detach().numpy()[:, 0].T), jnp.asarray(layer.bias.detach().numpy()))
    np.testing.assert_allclose(causal_convolution(p, x, None, None), expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("width", [2, 4])
def test_pieces_equal_the_whole(width):
    """Pieces shorter than the width too, and rows with padding on the right."""
    p, x = CausalConvolution(random(width, 3), None), random(2, 12, 3)
    whole = causal_convolution(p, x, None, None)
    history, done, out = empty_history(2, width, (3,), jnp.float32), np.zeros(2, int), [[], []]
    for count in ([1, 3], [0, 2], [2, 0], [5, 5], [4, 2]):
        size = max(count)
        piece = jnp.stack([jnp.pad(x, ((0, 0), (0, 9), (0, 0)))[b, done[b] : done[b] + size] for b in range(2)])
        valid = jnp.arange(size)[None] < jnp.asarray(count)[:, None]
        y = causal_convolution(p, piece, None, history)
        history = new_history(piece, history, context(valid=valid))
        for b in range(2):
            out[b].append(y[b, : count[b]])
        done += count
    for b in range(2):
        np.testing.assert_allclose(jnp.concatenate(out[b]), whole[b], atol=1e-6)
    np.testing.assert_array_equal(history, x[:, 12 - width + 1 :])


def test_history_without_padding_is_the_last_inputs():
    x, history = random(2, 5, 3), empty_history(2, 4, (3,), jnp.bfloat16)
    kept = new_history(x, history, context())
    assert kept.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept, x[:, 2:].astype(jnp.bfloat16))
    assert empty_history(2, 1, (3,), jnp.float32) is None and new_history(x, None, context()) is None


def test_previous_token():
    x = random(2, 8, 3)
    shifted = previous_token(x, document_starts(context(IDS), None), None)
    np.testing.assert_array_equal(shifted[0, :, 0], [0, *x[0, :3, 0], 0, x[0, 4, 0], 0, 0])
    np.testing.assert_array_equal(previous_token(x, None, jnp.ones((2, 1, 3)))[:, 0], np.ones((2, 3)))


def test_documents_start_where_the_number_changes():
    starts = document_starts(context(IDS), None)
    np.testing.assert_array_equal(np.argwhere(starts), [[0, 4], [0, 6], [0, 7], [1, 1]])
    assert document_starts(context(), None) is None
    assert document_starts(context(IDS), "a cache") is None


def test_sums_are_in_float32():
    """Of a bfloat16 input: 256 + 1 + 1 is 256 if each sum is rounded."""
    p = CausalConvolution(jnp.ones((3, 1)), None)
    x = jnp.asarray([1.0, 1.0, 256.0], jnp.bfloat16)[None, :, None]
    y = causal_convolution(p, x, None, None)
    assert y.dtype == jnp.bfloat16 and float(y[0, 2, 0]) == 258


def test_specification():
    assert convolution_spec(0, (3,), ("inner",), bias=True) is None
    spec = convolution_spec(4, (3, 2), ("inner", "head_dim"), bias=True)
    assert spec.weight.axes == ("conv", "inner", "head_dim") and spec.weight.shape == (4, 3, 2)
    weight = spec.weight.init(jax.random.key(0), (4, 300), jnp.float32)
    assert 0.49 < abs(weight).max() <= 0.5
    assert not spec.weight.is_matrix and convolution_spec(4, (3,), ("inner",), bias=False).bias is None
