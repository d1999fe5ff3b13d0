"""Files are read as they are, and what is wrong with one is said before any of its data is used."""

import struct

import numpy as np
import pytest

from jaxllm.interop.gguf import is_gguf, read_gguf

from .small_files import Tensor, gguf_bytes, of

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1.5, -2.0], np.float32),
    "c": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
}
TENSORS = {name: of(array) for name, array in ARRAYS.items()}


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def equal(file, arrays=ARRAYS):
    assert list(file.tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.tensors[name].array(), array)


@pytest.mark.parametrize("alignment", [32, 8, 64])
def test_tensors_are_found_behind_the_settings(tmp_path, alignment):
    settings = {"general.alignment": alignment, "x": "y"}
    path = write(tmp_path / "m.gguf", gguf_bytes(settings, TENSORS, alignment=alignment))
    file = read_gguf(path)
    assert is_gguf(path)
    assert (file.path, file.settings) == (path, settings)
    equal(file)


def test_tensors_are_those_of_the_gguf_package(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    rng = np.random.default_rng(0)
    path, expected = tmp_path / "m.gguf", {}
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        raw = gguf.quants.quantize(rng.standard_normal((5, 64), np.float32), kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = gguf.quants.dequantize(raw, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    equal(read_gguf(path), expected)


def test_blocks_are_views_of_the_file(tmp_path):
    file = read_gguf(write(tmp_path / "m.gguf", gguf_bytes({}, TENSORS)))
    blocks = file.tensors["a.weight"].blocks
    assert (blocks.shape, blocks.dtype) == ((3, 4, 4), np.uint8)
    assert not blocks.flags.owndata and not blocks.flags.writeable
    assert file.tensors["a.weight"].kind.name == "F32"


@pytest.mark.parametrize("cuts", [(100,), (16, 17, 200), (5, 150, 300)])
@pytest.mark.parametrize("listed", [True, False])
def test_parts_are_read_as_one_file(tmp_path, cuts, listed):
    content = gguf_bytes({"k": "v" * 50}, TENSORS)
    bounds = [0, *cuts, len(content)]
    paths = [
        write(tmp_path / f"m.gguf.part{i:02}", content[begin:end])
        for i, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]
    equal(read_gguf(paths if listed else paths[0]))


def test_parts_that_are_not_all_there(tmp_path):
    for name in ("m.gguf.part00", "m.gguf.part02"):
        write(tmp_path / name, b"GGUF")
    with pytest.raises(ValueError, match="has parts of m.gguf, but not m.gguf.part01: the model is not whole"):
        read_gguf(tmp_path / "m.gguf.part00")
    with pytest.raises(ValueError, match=r"there is no file .*m.gguf.part03"):
        read_gguf([tmp_path / "m.gguf.part00", tmp_path / "m.gguf.part03"])
    with pytest.raises(ValueError, match="no file was given"):
        read_gguf([])


HUGE = 1 << 60
GOOD = TENSORS["b"]


@pytest.mark.parametrize(
    ("tensors", "settings", "count", "message"),
    [
        ({"b": GOOD}, {}, HUGE, "it promises 1,152,921,504,606,846,976 tensors, too many for its size"),
        ({"b": GOOD}, {}, 2, "promises .* bytes, but ends after|has .* dimensions"),
        ({"b": GOOD._replace(offset=64)}, {}, None, "the tensor 'b' ends at byte 72 of the data, which has 8"),
        ({"b": GOOD._replace(shape=(HUGE,))}, {}, None, "the tensor 'b' ends at byte .*: the file is cut off"),
        ({"b": GOOD._replace(shape=(HUGE, HUGE, HUGE, HUGE))}, {}, None, "the file is cut off, or its head lies"),
        ({"b": GOOD._replace(offset=3)}, {}, None, "the tensor 'b' begins at byte 3, no multiple of 32"),
        ({"b": GOOD._replace(kind=23)}, {}, None, r"the tensor 'b' is of the type IQ4_XS \(23\); supported are F32"),
        ({"b": GOOD._replace(kind=99)}, {}, None, "the tensor 'b' is of the type number 99"),
        ({"b": GOOD._replace(kind=12)}, {}, None, r"type Q4_K has the shape \(2,\); its last axis must be a multiple"),
        ({"b": GOOD._replace(shape=(0,))}, {}, None, "none may be 0"),
        ({"b": GOOD._replace(shape=())}, {}, None, "has 0 dimensions; 1 to 4 are possible"),
        ({"b": GOOD._replace(shape=(1,) * 5)}, {}, None, "has 5 dimensions"),
        ({"a": GOOD, "b": GOOD._replace(offset=0)}, {}, None, "the tensors 'a' and 'b' overlap"),
        ({"b": GOOD}, {"general.alignment": 12}, None, "general.alignment must be a multiple of 8, found 12"),
        ({"b": GOOD}, {"general.alignment": "x"}, None, "general.alignment must be a multiple of 8, found 'x'"),
    ],
)
def test_heads_that_lie(tmp_path, tensors, settings, count, message):
    path = write(tmp_path / "m.gguf", gguf_bytes(settings, tensors, count=count))
    with pytest.raises(ValueError, match=message) as raised:
        read_gguf(path)
    assert str(path) in str(raised.value)


def test_a_tensor_that_occurs_twice(tmp_path):
    content = gguf_bytes({}, {"aa": GOOD, "bb": GOOD}).replace(b"bb", b"aa")
    with pytest.raises(ValueError, match="the tensor 'aa' occurs twice"):
        read_gguf(write(tmp_path / "m.gguf", content))


def test_wherever_a_file_is_cut_off_it_is_refused(tmp_path):
    content = gguf_bytes({"k": "v"}, TENSORS)
    for size in range(len(content)):
        with pytest.raises(ValueError, match="m.gguf is (damaged|no GGUF file)"):
            read_gguf(write(tmp_path / "m.gguf", content[:size]))


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*m\.gguf"):
        read_gguf(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="is no GGUF file: it doesn't begin with b'GGUF'"):
        read_gguf(write(tmp_path / "m.gguf", b"PK" + bytes(99)))
    big = struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(32)
    with pytest.raises(ValueError, match="order of big-endian machines"):
        read_gguf(write(tmp_path / "m.gguf", big))


def test_a_file_without_tensors(tmp_path):
    assert read_gguf(write(tmp_path / "m.gguf", gguf_bytes({"k": "v"}, {}))).tensors == {}
    assert Tensor((1,), b"").offset is None
