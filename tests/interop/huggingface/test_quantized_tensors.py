"""Weights in FP8 and MXFP4 beside a loop over what the formats say, and beside transformers."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxllm.interop.huggingface import load_huggingface
from jaxllm.interop.huggingface.quantized_tensors import FP4, expanded
from jaxllm.interop.huggingface.safetensors_files import read_file
from jaxllm.interop.huggingface.safetensors_writing import PlannedTensor, write_file
from tests.interop.huggingface.small_directory import CONFIG, edit_config, edit_tensors, params_of, write_model

FP8 = {"quant_method": "fp8", "weight_block_size": [4, 6], "activation_scheme": "dynamic", "fmt": "e4m3"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def stored(tmp_path, **arrays):
    write_file(
        tmp_path / "x.safetensors", {n: PlannedTensor(a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}
    )
    return read_file(tmp_path / "x.safetensors")


def fp8(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(ml_dtypes.float8_e4m3fn)


def test_each_square_has_its_factor(tmp_path):
    weight, scale = fp8(10, 13), np.random.default_rng(1).uniform(0.5, 2, (3, 3)).astype(np.float32)
    tensors = expanded(stored(tmp_path, w=weight, w_scale_inv=scale, plain=scale), FP8)
    assert tensors.keys() == {"w", "plain"}
    expected = [[float(weight[i, j]) * scale[i // 4, j // 6] for j in range(13)] for i in range(10)]
    assert (tensors["w"].name, tensors["w"].shape, tensors["w"].dtype) == ("w", (10, 13), np.float32)
    np.testing.assert_allclose(tensors["w"].array(), expected, rtol=1e-6)


def random_codes():
    random = np.random.default_rng(2)
    blocks = random.integers(0, 256, (2, 5, 3, 16), dtype=np.uint8)
    return blocks, random.integers(110, 140, (2, 5, 3), dtype=np.uint8)


def test_each_group_has_its_power_of_two(tmp_path):
    blocks, scales = random_codes()
    (tensor,) = expanded(stored(tmp_path, w_blocks=blocks, w_scales=scales), MXFP4).values()
    expected = np.zeros((2, 96, 5))
    for e, row, group, byte in np.ndindex(blocks.shape):
        code, factor = int(blocks[e, row, group, byte]), 2.0 ** (int(scales[e, row, group]) - 127)
        for half, four in enumerate((code % 16, code // 16)):
            expected[e, group * 32 + 2 * byte + half, row] = FP4[four] * factor
    assert (tensor.name, tensor.shape) == ("w", expected.shape)
    np.testing.assert_array_equal(tensor.array().astype(np.float64), expected)


def test_mxfp4_is_that_of_transformers(tmp_path):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4", reason="needs requirements/parity.txt")
    blocks, scales = random_codes()
    (tensor,) = expanded(stored(tmp_path, w_blocks=blocks, w_scales=scales), MXFP4).values()
    expected = mxfp4._convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales))
    np.testing.assert_array_equal(tensor.array().astype(np.float32), expected.float().numpy())


def test_a_model_in_fp8_is_loaded(tmp_path):
    write_model(tmp_path / "m")
    expected = params_of(CONFIG)

    def quantize(arrays):
        for name in [name for name in arrays if name.endswith("_proj.weight")]:
            rows, columns = arrays[name].shape
            arrays[name] = arrays[name].astype(ml_dtypes.float8_e4m3fn)
            arrays[name + "_scale_inv"] = np.full((-(-rows // 4), -(-columns // 6)), 2.0, np.float32)

    edit_tensors(tmp_path / "m", quantize)
    edit_config(tmp_path / "m", quantization_config=FP8)
    read = load_huggingface(tmp_path / "m")
    doubled = lambda x: 2 * x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)  # noqa: E731
    up = expected.segments[0][0].channel.up
    np.testing.assert_array_equal(read.params.segments[0][0].channel.up, doubled(np.asarray(up)))
    np.testing.assert_array_equal(read.params.head, expected.head)
    assert all(array.dtype == np.float32 for array in jax.tree.leaves(read.params))


@pytest.mark.parametrize(
    ("quantization", "arrays", "complaint"),
    [
        (
            FP8,
            {"w": fp8(8, 6), "w_scale_inv": np.ones((2, 2), np.float32)},
            r"'w_scale_inv' has the shape \(2, 2\); exp",
        ),
        (FP8, {"w": fp8(8), "w_scale_inv": np.ones(2, np.float32)}, r"'w_scale_inv' has the shape \(2,\)"),
        (
            MXFP4,
            {"w_blocks": np.zeros((2, 3, 1, 16), np.uint8), "w_scales": np.zeros((2, 4, 1), np.uint8)},
            "'w_blocks' .* and 'w_scales' .* must be bytes of the same shape",
        ),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path, quantization, arrays, complaint):
    with pytest.raises(ValueError, match=complaint):
        expanded(stored(tmp_path, **arrays), quantization)


def test_a_part_without_the_other_is_named(tmp_path):
    """It is passed on as it is, and is then no tensor of the model."""
    (name,) = expanded(stored(tmp_path, w_scales=np.zeros((2, 4, 1), np.uint8)), MXFP4)
    assert name == "w_scales"


@pytest.mark.parametrize(
    ("quantization", "complaint"),
    [
        ({"quant_method": "gptq"}, "weights quantized by gptq are not supported; supported: fp8, mxfp4, or load"),
        ({"bits": 4}, "weights quantized by an unknown method are not supported"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size must be two sizes, found 128"),
    ],
)
def test_methods_that_are_not_supported(tmp_path, quantization, complaint):
    write_model(tmp_path / "m")
    edit_config(tmp_path / "m", quantization_config=quantization)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"] == quantization
    with pytest.raises(ValueError, match=complaint):
        load_huggingface(tmp_path / "m")
