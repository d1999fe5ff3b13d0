"""Compressed streams: whole, damaged, cut short, bombs, and read from the middle."""

import bz2
import gzip
import io
import itertools
import random
import sys

import pytest
import zstandard

from jaxllm.data import compression
from jaxllm.data.compression import SUFFIXES, CompressionError, compression_of, decompressed, member_starts

COMPRESS = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
MEMBERS = [f"member {i} ".encode() * 200 + random.Random(i).randbytes(3000).hex().encode() for i in range(5)]


def read(raw: bytes, suffix: str, **where) -> tuple[bytes, list[tuple[int, str]]]:
    damage = []
    pieces = decompressed(io.BytesIO(raw), suffix, lambda *found: damage.append(found), **where)
    return b"".join(b"|" if piece.gap else piece.data for piece in pieces), damage


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_members_one_after_another_are_one_stream(suffix):
    assert compression_of(f"a.TXT{suffix.upper()}") == suffix
    packed = [COMPRESS[suffix](member) for member in MEMBERS]
    assert read(b"".join(packed), suffix) == (b"".join(MEMBERS), [])
    assert read(b"".join(packed) + bytes(1000), suffix) == (b"".join(MEMBERS), [])  # padding
    assert read(b"", suffix) == (b"", [])
    large = random.Random(0).randbytes(150_000) * 8
    assert read(COMPRESS[suffix](large), suffix) == (large, [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_member_in_the_middle_is_named_and_the_others_are_kept(suffix):
    packed = [COMPRESS[suffix](member) for member in MEMBERS]
    bad = bytearray(packed[2])
    bad[len(bad) // 2 : len(bad) // 2 + 20] = bytes(20)
    got, [(offset, message)] = read(b"".join([*packed[:2], bytes(bad), *packed[3:]]), suffix)
    assert got == b"".join(MEMBERS[:2]) + b"|" + b"".join(MEMBERS[3:])
    assert offset == len(packed[0]) + len(packed[1]) and message.startswith("damaged ")
    with pytest.raises(CompressionError, match="damaged"):
        list(decompressed(io.BytesIO(b"".join([*packed[:2], bytes(bad), *packed[3:]])), suffix))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_came_before_a_cut_is_kept(suffix):
    raw = b"".join(map(COMPRESS[suffix], MEMBERS))
    got, [(offset, message)] = read(raw[:-50], suffix)
    assert b"".join(MEMBERS).startswith(got.removesuffix(b"|")) and got.startswith(b"".join(MEMBERS[:4]))
    assert "ends inside" in message and offset > 0
    assert suffix != ".gz" or len(got) > sum(map(len, MEMBERS[:4])) + 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bomb_ends_early(suffix, monkeypatch):
    monkeypatch.setattr(compression, "_EXPANSION_ALLOWED", 1 << 20)
    bomb = COMPRESS[suffix](bytes(8 << 20))
    got, [(_, message)] = read(bomb, suffix)
    assert "expands more than 500 times" in message and len(got) < 4 << 20


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_between_members_are_the_whole(suffix):
    packed = [COMPRESS[suffix](member) for member in MEMBERS]
    raw = b"".join(packed)
    starts = member_starts(io.BytesIO(raw), suffix, len(raw), 1000)
    assert starts == [0, *itertools.accumulate(map(len, packed[:-1]))]
    parts = [read(raw, suffix, start=a, stop=b) for a, b in itertools.zip_longest(starts, starts[1:])]
    assert [part for part, _ in parts] == MEMBERS
    single = COMPRESS[suffix](random.Random(1).randbytes(50_000))
    assert member_starts(io.BytesIO(single), suffix, len(single), 1000) == [0]


def test_plain_bytes_between_two_offsets():
    assert read(b"0123456789", "", start=3, stop=7) == (b"3456", [])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CompressionError, match="pip install zstandard"):
        list(decompressed(io.BytesIO(b"x"), ".zst"))
