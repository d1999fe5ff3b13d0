import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxllm.data.dedup import RepeatedSubstrings
from jaxllm.data.dedup import substrings as substrings_module
from jaxllm.data.dedup import words as words_module
from jaxllm.data.dedup.substrings import sliding_minimum
from jaxllm.data.dedup.suffix_array import agree, repeated_spans, suffix_array, united

from .small_engine import batch_of, left, resolved


def slow_suffix_array(values):
    return sorted(range(len(values)), key=lambda start: values[start:])


@given(st.lists(st.integers(0, 3), max_size=60))
@example([0] * 50)
@example([1, 0] * 30)
@example([])
def test_suffixes_are_sorted_as_by_comparing_them(values):
    for dtype in (np.uint8, np.uint16, np.uint32):
        assert suffix_array(np.array(values, dtype)).tolist() == slow_suffix_array(values)


@given(st.lists(st.integers(0, 100_000), max_size=30), st.integers(1, 5))
def test_many_different_tokens(values, depth):
    values = values + values
    assert suffix_array(np.array(values, np.uint32)).tolist() == slow_suffix_array(values)
    order = suffix_array(np.array(values, np.uint32), depth)
    prefixes = [values[start : start + depth] for start in order.tolist()]
    assert prefixes == sorted(prefixes)


def test_long_repeats_are_sorted_by_what_follows_them():
    draw = np.random.default_rng(0)
    base = draw.integers(0, 3, 150)
    copies = [base.copy() for _ in range(8)]
    for copy in copies:
        copy[draw.integers(0, 150)] = draw.integers(0, 4)
    values = np.concatenate(copies)
    assert suffix_array(values).tolist() == slow_suffix_array(values.tolist())


def test_a_memory_mapped_array(tmp_path):
    values = np.random.default_rng(0).integers(0, 5, 3000, np.uint8)
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    assert suffix_array(mapped).tolist() == slow_suffix_array(values.tolist())


def slow_spans(documents: list[bytes], length: int) -> list[tuple[int, int, int]]:
    """Every window one after the other: (document, start, end)."""
    first, marked = {}, [[False] * len(one) for one in documents]
    for number, one in enumerate(documents):
        for start in range(len(one) - length + 1):
            window = one[start : start + length]
            home, place = first.setdefault(window, (number, start))
            if home != number or start - place >= length:
                marked[number][start : start + length] = [True] * length
    spans = []
    for number, one in enumerate(marked):
        edges = np.flatnonzero(np.diff([False, *one, False]))
        spans += [(number, int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return spans


TEXTS = st.lists(st.text("ab", max_size=40), max_size=4)


@given(TEXTS, st.integers(1, 12))
@example(["a" * 30], 3)
@example(["abab", "ababababab"], 4)
def test_repeats_are_those_of_brute_force(texts, length):
    documents = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, documents)])
    starts, ends = repeated_spans(np.frombuffer(b"".join(documents), np.uint8), offsets, length)
    expected = [(offsets[number] + a, offsets[number] + b) for number, a, b in slow_spans(documents, length)]
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


PASSAGES = [random.Random(seed).choices("abcdefgh é", k=90) for seed in range(3)]
MIXED = st.lists(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 90)).map(
            lambda t: "".join(PASSAGES[t[0]][t[1] : t[2]])
        )
        | st.sampled_from(["-" * 90, "xy" * 40])
        | st.text("abc", max_size=10),
        max_size=5,
    ).map("".join),
    max_size=6,
)


@settings(max_examples=60)
@given(MIXED, st.integers(1, 4), st.integers(1, 3))
def test_the_stage_finds_what_brute_force_finds(texts, rows, partitions):
    batches = [
        batch_of(texts[at : at + rows], [f"d{at + n}" for n in range(len(texts[at : at + rows]))])
        for at in range(0, len(texts), rows)
    ]
    found = resolved(RepeatedSubstrings(40), batches or [batch_of([])], partitions)
    columns = (found.parts[name].to_pylist() for name in ("id", "start", "end"))
    expected = [(f"d{n}", a, b) for n, a, b in slow_spans([text.encode() for text in texts], 40)]
    assert list(zip(*columns, strict=True)) == expected


def test_a_huge_document_in_parts_is_no_different(monkeypatch):
    chance = random.Random(1)
    passage = "".join(chance.choices("abcdefgh é", k=300))
    texts = [
        "".join(chance.choices("abc é", k=700)) + passage + "xyz" * 100 + passage,
        passage,
        "".join(chance.choices("abc", k=50)),
    ]
    expected = left(RepeatedSubstrings(60), texts)
    assert len(expected["d000000"]) < len(texts[0]) - 290 and "d000001" not in expected
    monkeypatch.setattr(words_module, "MOST_BYTES", 97)
    monkeypatch.setattr(words_module, "CHUNK_BYTES", 50)
    monkeypatch.setattr(substrings_module, "slices", lambda *a: words_module.slices(*a, num_bytes=50))
    assert left(RepeatedSubstrings(60), texts, partitions=3) == expected


@pytest.mark.parametrize("most", [10**6, *range(90, 110)])
def test_every_window_is_sent_once(most, monkeypatch):
    monkeypatch.setattr(words_module, "MOST_BYTES", most)
    monkeypatch.setattr(substrings_module, "slices", lambda *a: words_module.slices(*a, num_bytes=50))
    chance = random.Random(3)
    texts = ["".join(chance.choices("abcdefgh é", k=length)) for length in (700, 10, 59, 60, 61, 0, 200)]
    rows = RepeatedSubstrings(60).keys(batch_of(texts)).to_pylist()
    windows = [(row["id"], row["start"] + n) for row in rows for n in range(len(row["text"]) - 59)]
    expected = [(f"d{row:06d}", n) for row, text in enumerate(texts) for n in range(len(text.encode()) - 59)]
    assert sorted(set(windows)) == expected
    # At the bounds of parts of a huge document some are sent twice.
    assert len(windows) == len(expected) if most > 700 else len(windows) < len(expected) + 10 * 7
    whole = {f"d{row:06d}": text.encode() for row, text in enumerate(texts)}
    assert all(whole[row["id"]][row["start"] :].startswith(row["text"]) for row in rows)


def test_characters_are_not_cut_in_two():
    text = "é" * 5 + "".join(random.Random(2).choices("äöüß", k=100))
    kept = left(RepeatedSubstrings(33), [f"a{text}", f"bb{text}z"])
    assert kept == {"d000000": f"a{text}", "d000001": "bbz"}


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_sliding_minimum(values, width):
    found = sliding_minimum(np.array(values, int), width).tolist()
    assert found == [min(values[at : at + width]) for at in range(len(values) - width + 1)]


def test_agree_and_united():
    values = np.frombuffer(b"abcabdabc", np.uint8)
    assert agree(values, np.array([0, 0]), np.array([6, 3]), 3).tolist() == [True, False]
    once = np.frombuffer(random.Random(4).randbytes(20), np.uint8)
    for at in range(21):
        other = once.copy()
        other[at : at + 1] += 1
        both = np.concatenate([once, other])
        for length in range(1, 21):
            assert agree(both, np.array([0]), np.array([20]), length).tolist() == [at >= length]
            assert agree(both.astype(np.uint16), np.array([0]), np.array([20]), length).tolist() == [at >= length]
    spans = united(np.array([1, 0, 1, 1]), np.array([5, 2, 0, 4]), np.array([9, 3, 4, 6]))
    assert [column.tolist() for column in spans] == [[0, 1], [2, 0], [3, 9]]
    inner = united(np.zeros(3, int), np.array([0, 2, 5]), np.array([10, 3, 6]))
    assert [column.tolist() for column in inner] == [[0], [0], [10]]


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="at least 32 bytes, got 31"):
        RepeatedSubstrings(31)
