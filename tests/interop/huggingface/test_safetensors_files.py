"""Files beside the safetensors library, and files that lie."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.interop.huggingface.safetensors_files import DTYPES, INDEX_FILE, SINGLE_FILE, read_directory, read_file
from jaxllm.interop.huggingface.safetensors_writing import PlannedTensor, write_directory, write_file

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.linspace(-1, 1, 6).astype(np.float16),
    "brain": np.linspace(-3, 3, 10).astype(ml_dtypes.bfloat16).reshape(2, 5),
    "scalar": np.array(4, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "whole": np.arange(5, dtype=np.int64),
}


def planned(arrays):
    return {name: PlannedTensor(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}


def assert_same(read, arrays):
    assert read.keys() == arrays.keys()
    for name, tensor in read.items():
        assert (tensor.name, tensor.shape, tensor.dtype) == (name, arrays[name].shape, arrays[name].dtype)
        np.testing.assert_array_equal(tensor.array(), arrays[name])


def test_what_the_library_wrote(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors", metadata={"made": "by hand"})
    assert_same(read_file(tmp_path / "a.safetensors"), ARRAYS)


def test_the_library_reads_what_we_wrote(tmp_path):
    write_file(tmp_path / "a.safetensors", planned(ARRAYS))
    theirs = load_file(tmp_path / "a.safetensors")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], array)
    assert_same(read_file(tmp_path / "a.safetensors"), ARRAYS)


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_is_a_view_of_the_file(tmp_path, name):
    array = np.ones((2, 3)).astype(DTYPES[name])
    write_file(tmp_path / "a.safetensors", planned({"x": array}))
    read = read_file(tmp_path / "a.safetensors")["x"].array()
    np.testing.assert_array_equal(read.astype(np.float32), array.astype(np.float32))
    with pytest.raises(ValueError, match="read-only"):
        read[0, 0] = 0
    assert not read.flags.owndata


def test_several_files(tmp_path):
    write_directory(tmp_path, planned(ARRAYS), max_file_bytes=50)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    assert_same(read_directory(tmp_path), ARRAYS)
    for file in files:  # within the limit, but for a tensor that is larger alone
        tensors = read_file(tmp_path / file)
        assert len(tensors) == 1 or sum(tensor.array().nbytes for tensor in tensors.values()) <= 50


def test_one_file(tmp_path):
    write_directory(tmp_path, planned(ARRAYS), max_file_bytes=10**6)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_FILE]
    assert_same(read_directory(tmp_path), ARRAYS)


def entry(shape=(2, 2), offsets=(0, 16), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "cut off": (b"\x01\x00", "2 bytes are too few"),
    "header beyond the file": ((10**6).to_bytes(8, "little") + b"{}", "claims to be 1000000 bytes long"),
    "header of no end": ((2**63).to_bytes(8, "little") + b"{}", "claims to be"),
    "no JSON": ((4).to_bytes(8, "little") + b"{{{{", "the header is no JSON object"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "no JSON object, but a list"),
    "deep": ((50_000).to_bytes(8, "little") + b"[" * 50_000, "the header is no JSON object"),
    "twice": (b'{"x": 1, "x": 2}', "'x' is there twice"),
    "no entry": ({"x": 3}, "'x': expected dtype, shape and data_offsets"),
    "unknown type": ({"x": entry(dtype="F13")}, "'x' has the type F13, supported are F64"),
    "negative": ({"x": entry(offsets=(-4, 12))}, "must be whole numbers from 0"),
    "fraction": ({"x": entry(shape=(2.0, 2))}, "must be whole numbers from 0"),
    "true": ({"x": entry(shape=(True, 4))}, "must be whole numbers from 0"),
    "beyond the data": ({"x": entry((8,), (0, 32))}, "bytes 0 to 32 are not within the 16 bytes of data"),
    "backwards": ({"x": entry(offsets=(16, 0))}, "bytes 16 to 0 are not within"),
    "wrong size": ({"x": entry((3, 2))}, "takes 24 bytes, the offsets give it 16"),
    "overflow": ({"x": entry((2**40, 2**40))}, "the offsets give it 16"),
    "overlap": ({"x": entry((2,), (0, 8)), "y": entry((3,), (4, 16))}, "'x' and 'y' overlap"),
    "hole": ({"x": entry((1,), (0, 4)), "y": entry((2,), (8, 16))}, "nothing is said of the bytes before tensor 'y'"),
    "more data": ({"x": entry((2,), (0, 8))}, "the tensors end at byte 8, the data at 16"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(tmp_path, lie):
    content, complaint = LIES[lie]
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    if content[:1] == b"{":
        content = len(content).to_bytes(8, "little") + content + bytes(16)
    file = tmp_path / SINGLE_FILE
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*{re.escape(complaint)}"):
        read_directory(tmp_path)


def changed_index(directory, change):
    index = json.loads((directory / INDEX_FILE).read_text())
    change(index["weight_map"])
    (directory / INDEX_FILE).write_text(json.dumps(index))


def first(directory):
    return sorted(path.name for path in directory.glob("*.safetensors"))[0]


BREAKAGES = {
    "file gone": (lambda d: (d / first(d)).unlink(), "names model-00001-of-.*, which is not there"),
    "tensor not listed": (lambda d: changed_index(d, lambda m: m.pop("half")), "does not list the tensor 'half' of"),
    "file not listed": (
        lambda d: changed_index(d, lambda m: [m.pop(name) for name in list(m) if m[name] == first(d)]),
        "does not list the file model-00001-of-",
    ),
    "listed elsewhere": (
        lambda d: changed_index(d, lambda m: m.update(matrix=m["whole"])),
        "does not hold the tensor 'matrix' that",
    ),
    "another directory": (
        lambda d: changed_index(d, lambda m: m.update(matrix="../x.safetensors")),
        "names '../x.safetensors', which is no safetensors file of its own directory",
    ),
    "no map": (lambda d: (d / INDEX_FILE).write_text('{"weights": 1}'), "must have an object weight_map"),
    "no JSON": (lambda d: (d / INDEX_FILE).write_text("{"), "is no JSON object"),
    "no index": (lambda d: (d / INDEX_FILE).unlink(), r"safetensors files \(model-00001-of-.*\), but no model.safe"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_an_index_that_lies(tmp_path, breakage):
    write_directory(tmp_path, planned(ARRAYS), max_file_bytes=50)
    spoil, complaint = BREAKAGES[breakage]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        read_directory(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "consolidated.00.pt"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'echo ran'\ntR.")
    with pytest.raises(ValueError, match=f"{name}, a pickle file: reading it would run .*save_pretrained"):
        read_directory(tmp_path)
    write_directory(tmp_path, planned(ARRAYS), max_file_bytes=10**6)  # beside it, it is ignored
    assert_same(read_directory(tmp_path), ARRAYS)


def test_a_directory_without_weights(tmp_path):
    with pytest.raises(ValueError, match="has no weights: looked for model.safetensors"):
        read_directory(tmp_path)
