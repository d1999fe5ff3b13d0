"""Blocks decode to the values that ggml gives them, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxllm.interop.gguf import BLOCK_TYPES, BlockTensor, block_type_named
from jaxllm.interop.gguf.block_types import block_type

GOLDEN = json.loads((Path(__file__).parent / "golden" / "blocks.json").read_text())
ENCODED = {number: kind for number, kind in BLOCK_TYPES.items() if kind.decode}


def tensor(kind, raw: np.ndarray, rows: int) -> BlockTensor:
    blocks = raw.reshape(rows, -1, kind.block_bytes)
    return BlockTensor("t", Path("f"), kind, (rows, blocks.shape[1] * kind.block_size), blocks)


@pytest.mark.parametrize("name", GOLDEN)
def test_values_are_those_of_the_golden_file(name):
    kind = block_type_named(name)
    raw = np.frombuffer(bytes.fromhex(GOLDEN[name]["blocks"]), np.uint8)
    values = np.frombuffer(bytes.fromhex(GOLDEN[name]["values"]), "<f4").reshape(2, -1)
    found = tensor(kind, raw, 2).array()
    assert found.dtype == kind.dtype
    np.testing.assert_array_equal(found.astype(np.float32), values)


@pytest.mark.parametrize("number", ENCODED)
def test_random_blocks_decode_as_the_gguf_package_decodes_them(number):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    kind = BLOCK_TYPES[number]
    reference = gguf.GGMLQuantizationType(number)
    assert (reference.name, gguf.GGML_QUANT_SIZES[reference]) == (kind.name, (kind.block_size, kind.block_bytes))
    raw = np.random.default_rng(number).integers(0, 256, (3000, kind.block_bytes), np.uint8)
    raw[0], raw[1] = 0, 255
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, reference)
    np.testing.assert_array_equal(tensor(kind, raw, 3000).array(), expected)


@pytest.mark.parametrize("name", ["F32", "Q4_1", "Q6_K", "BF16"])
def test_some_rows_alone_are_those_rows_of_all(name):
    kind = block_type_named(name)
    raw = np.random.default_rng(0).integers(0, 60, 12 * 2 * kind.block_bytes, np.uint8)
    flat = tensor(kind, raw, 12)
    cube = BlockTensor("t", Path("f"), kind, (4, 3, flat.shape[1]), flat.blocks.reshape(4, 3, -1, kind.block_bytes))
    whole = cube.array()
    assert whole.shape == cube.shape
    np.testing.assert_array_equal(whole.reshape(12, -1), flat.array())
    np.testing.assert_array_equal(cube.dequantize(slice(1, 3)), whole[1:3])
    np.testing.assert_array_equal(cube.dequantize((slice(None), 2)), whole[:, 2])
    np.testing.assert_array_equal(flat.rearranged(lambda blocks: blocks[::-1]).array(), flat.array()[::-1])


def test_more_than_is_decoded_at_once(monkeypatch):
    kind = block_type_named("Q5_K")
    raw = np.random.default_rng(0).integers(0, 60, 40 * kind.block_bytes, np.uint8)
    whole = tensor(kind, raw, 8).array()
    monkeypatch.setattr("jaxllm.interop.gguf.block_tensor._DECODED_AT_ONCE", 7 * kind.block_size)
    np.testing.assert_array_equal(tensor(kind, raw, 8).array(), whole)


def test_types_that_are_not_supported_are_named():
    with pytest.raises(ValueError, match=r"is of the type IQ4_XS \(23\); supported are F32, F16, Q4_0"):
        block_type(23)
    with pytest.raises(ValueError, match="is of the type number 4711"):
        block_type(4711)
    with pytest.raises(ValueError, match="there is no block type 'Q9'"):
        block_type_named("Q9")
