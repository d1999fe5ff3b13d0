"""What can be known of cuDNN's attention without a GPU: what it is asked, and what comes of that by XLA.

Nothing here has run on a GPU. The masks and windows that cuDNN is given are given to XLA instead; the ragged form,
which XLA has not, to a stand-in that does what JAX's documentation of it says; and the programs are lowered for CUDA.
"""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from jaxllm.kernels.cudnn_attention import cudnn_attention
from jaxllm.kernels.flash_attention import reference_flash_attention

T = 24
PACKED = np.repeat([[1, 2, 3, 0], [1, 2, 2, 2]], [10, 3, 5, 6], axis=1).astype(np.int32)
CASES = {
    "one document": {},
    "windowed": {"window": 5},
    "packed": {"ids_BT": PACKED},
    "packed, windowed": {"ids_BT": PACKED, "window": 5},
    "not causal": {"causal": False},
    "not causal, windowed": {"causal": False, "window": 5},
    "packed, not causal, scaled": {"ids_BT": PACKED, "causal": False, "scale": 0.3},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_asked_for_is_what_the_twin_computes(case):
    arrays, cotangent = operands()
    fast = with_gradients(partial(cudnn_attention, implementation="xla", **case), arrays, cotangent)
    compare(fast, with_gradients(partial(reference_flash_attention, **twins(case)), arrays, cotangent))


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES.values() if "ids_BT" in case], ids=str)
def test_the_ragged_form_says_the_same(case, monkeypatch):
    monkeypatch.setattr(cudnn, "dot_product_attention", ragged_stand_in)
    arrays, cotangent = operands()
    fast = with_gradients(partial(cudnn_attention, documents=5, **case), arrays, cotangent)
    compare(fast, with_gradients(partial(reference_flash_attention, **twins(case)), arrays, cotangent))


def test_rows_of_too_many_documents_come_out_as_nan(monkeypatch):
    monkeypatch.setattr(cudnn, "dot_product_attention", ragged_stand_in)
    out = cudnn_attention(*operands()[0], PACKED, documents=3)
    assert np.isnan(out[0]).all() and not np.isnan(out[1]).any()


def test_an_odd_length_is_masked_as_an_even_one():
    q, k, v = (x[:, :23] for x in operands()[0])
    for case in ({"ids_BT": PACKED[:, :23]}, {"causal": False, "window": 5}):
        out = cudnn_attention(q, k, v, implementation="xla", **case)
        np.testing.assert_allclose(out, reference_flash_attention(q, k, v, **twins(case)), atol=2e-5)


@pytest.mark.parametrize(
    "case, mask_type, window, documents, has_bias",
    [
        ({}, "CAUSAL", None, 1, False),
        ({"window": 5}, "CAUSAL", 5, 1, False),
        ({"causal": False}, "NO_MASK", None, 1, False),
        ({"ids_BT": PACKED}, "CAUSAL", None, 1, True),
        ({"ids_BT": PACKED, "documents": 7}, "PADDING_CAUSAL", None, 7, False),
        ({"ids_BT": PACKED, "documents": 7, "window": 5}, "PADDING_CAUSAL", 5, 7, False),
    ],
    ids=str,
)
def test_the_program_for_cuda(case, mask_type, window, documents, has_bias, monkeypatch):
    # Both ask the GPU at hand.
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in operands()[0]]
    total = lambda *args: cudnn_attention(*args, **case).astype(jnp.float32).sum()  # noqa: E731
    text = jax.jit(jax.grad(total, (0, 1, 2))).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @(__cudnn\$fmha\w+)\(", text)
    assert len(calls) == 2 and sum("Backward" in call for call in calls) == 1
    assert all(("ScaleBias" in call) == has_bias for call in calls)
    configs = [json.loads(found.replace(r"\22", '"')) for found in re.findall(r'backend_config = "(\{[^"]*)"', text)]
    configs = [config["cudnn_fmha_backend_config"] for config in configs]
    assert len(configs) == 2
    for config in configs:
        assert config["mask_type"] == mask_type
        assert config["sliding_window_length"] == (window or 0) and config["max_seg_per_batch"] == documents


def ragged_stand_in(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, sliding_window_length):
    """Every document by itself, from where it begins in its row and as long as it is."""
    assert q.shape == k.shape == v.shape and q_offsets.shape[1] == q_seqlen.shape[1] + 1
    out = jnp.full(q.shape, jnp.inf)  # what no document holds is never written
    for row in range(q.shape[0]):
        for start, length in zip(np.asarray(q_offsets[row, :-1]), np.asarray(q_seqlen[row]), strict=True):
            if length > 0:
                part = np.s_[row : row + 1, int(start) : int(start + length)]
                causal = mask_type == cudnn.MaskType.PADDING_CAUSAL
                alone = reference_flash_attention(
                    q[part], k[part], v[part], causal=causal, window=sliding_window_length or 0, scale=scale
                )
                out = out.at[part].set(alone)
    return out


def operands():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, T, heads, 8) for heads in (4, 2, 2, 4)]
    *arrays, cotangent = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    return arrays, cotangent


def twins(case):
    return {"ids" if name == "ids_BT" else name: value for name, value in case.items()}


def with_gradients(attention, arrays, cotangent):
    out, pull = jax.vjp(attention, *arrays)
    return out, pull(cotangent)


def compare(fast, slow):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), fast, slow)
