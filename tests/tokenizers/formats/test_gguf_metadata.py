import struct
import time

import pytest

from jaxllm.tokenizers.formats.gguf_metadata import read_metadata


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def file_of(*settings: bytes, version: int = 3, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, 0, len(settings) if count is None else count) + b"".join(settings)


def write(tmp_path, content: bytes):
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "bert-bge"])
def test_settings_are_those_of_the_gguf_package(shared, name):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    path = shared(f"tokenizers/llama.cpp-golden/ggml-vocab-{name}.gguf")
    fields = gguf.GGUFReader(path).fields
    assert read_metadata(path) == {
        key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")
    }


def test_every_kind_of_value(tmp_path):
    kinds = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    settings = [text(str(kind)) + struct.pack(f"<I{code}", kind, 1) for kind, code in kinds.items()]
    settings += [
        text("s") + struct.pack("<I", 8) + text("é"),
        text("a") + struct.pack("<IIQ3h", 9, 3, 3, 1, -2, 3),
        text("t") + struct.pack("<IIQ", 9, 8, 2) + text("") + text("x"),
    ]
    expected = {str(kind): 1 for kind in kinds} | {"s": "é", "a": [1, -2, 3], "t": ["", "x"]}
    assert read_metadata(write(tmp_path, file_of(*settings))) == expected


def test_a_file_of_a_big_endian_machine(tmp_path):
    content = struct.pack(">4sIQQQ1sIi", b"GGUF", 3, 0, 1, 1, b"x", 5, -7)
    assert read_metadata(write(tmp_path, content)) == {"x": -7}


HUGE = 1 << 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no GGUF file: it doesn't begin with b'GGUF'"),
        (b"PK\x03\x04" + bytes(99), "is no GGUF file"),
        (b"GGUF", "is damaged, .*: at byte 4 it promises"),
        (file_of(version=1), "version 1 is not supported"),
        (file_of(count=HUGE), "it promises 8 bytes, but ends after 0"),
        (file_of(struct.pack("<Q", HUGE)), f"it promises {HUGE:,} bytes, but ends after 0"),
        (file_of(text("a") + struct.pack("<IIQ", 9, 8, HUGE)), f"it promises {HUGE:,} strings"),
        (file_of(text("a") + struct.pack("<IIQ", 9, 0, HUGE)), f"it promises {HUGE:,} bytes"),
        (file_of(text("a") + struct.pack("<IIQ", 9, 9, 1)), "a list of values of kind 9 is not supported"),
        (file_of(text("a") + struct.pack("<I", 13)), "there is no kind of value 13"),
        (file_of(*[text("a") + struct.pack("<IB", 0, 1)] * 2), "the setting 'a' occurs twice"),
        (file_of(struct.pack("<Q1sIB", 1, b"\xff", 0, 1)), "'utf-8' codec can't decode"),
    ],
)
def test_damaged_and_hostile_files(tmp_path, content, message):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        read_metadata(write(tmp_path, content))
    assert time.perf_counter() - begin < 1


def test_a_file_that_is_cut_off_anywhere(tmp_path):
    content = file_of(
        text("s") + struct.pack("<I", 8) + text("abc"),
        text("a") + struct.pack("<IIQ2h", 9, 3, 2, 1, 2),
        text("t") + struct.pack("<IIQ", 9, 8, 2) + text("y") + text("x"),
    )
    assert len(read_metadata(write(tmp_path, content))) == 3
    for size in range(len(content)):
        with pytest.raises(ValueError, match="is no GGUF file|is damaged"):
            read_metadata(write(tmp_path, content[:size]))
