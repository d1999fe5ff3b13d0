import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm.data.dedup import words as words_module
from jaxllm.data.dedup.shingles import Shingling, shingles_of
from jaxllm.data.dedup.words import LONGEST_WORD, bytes_of, character_start, chunks, slices, words_of

TEXTS = st.lists(
    st.text(st.sampled_from("aB1 ,.-\n’ÉßЖжΩ你好あก🙂\u3000\u00a0𝒳𠀀İ") | st.characters(codec="utf-8"), max_size=90)
)


def column(texts):
    return pa.array(texts, pa.large_string())


def slow_words(text: str) -> list[str]:
    """One character after the other."""
    found, word = [], ""
    for character in text:
        alone = any(first <= ord(character) <= last for first, last in words_module._WITHOUT_SPACES)
        alone = alone or ord(character) >= 0x20000
        lower = character.lower()
        if len(lower) == 1 and len(lower.encode()) == len(character.encode()) and ord(character) < 0x20000:
            small = lower
        else:
            small = character
        if unicodedata.category(character)[0] not in "LMN" and ord(character) < 0x20000:
            found, word = [*found, word], ""
        elif alone:
            found, word = [*found, word, small], ""
        else:
            word += small
    pieces = []
    for one in [*found, word]:
        data = one.encode()
        pieces += [data[at : at + LONGEST_WORD] for at in range(0, len(data), LONGEST_WORD)]
    return pieces


@given(TEXTS)
@example(["Don’t  STOP!", "Don t stop", "", "ÉCOLE", "x" * 100, "你好。世界", "a\U0001f642b"])
def test_words_are_those_of_the_slow_twin(texts):
    data, offsets = bytes_of(column(texts))
    words = words_of(data, offsets)
    expected = [slow_words(text) for text in texts]
    assert np.diff(words.offsets).tolist() == [len(one) for one in expected]
    flat = [word for one in expected for word in one]
    # Equal words have equal hashes, and others do not.
    of_word = dict(zip(flat, words.hashes.tolist(), strict=True))
    assert [of_word[word] for word in flat] == words.hashes.tolist()
    assert len(set(of_word.values())) == len(of_word)
    assert all(a < b for a, b in zip(words.starts.tolist(), words.ends.tolist(), strict=True))


@pytest.mark.parametrize("unit", ["words", "characters"])
@given(texts=TEXTS, at=st.integers(0, 10))
def test_a_document_is_the_same_in_any_company(unit, texts, at):
    shingling = Shingling(3, unit)
    together, offsets = shingles_of(*bytes_of(column(texts)), shingling)
    for row, text in enumerate(texts):
        alone, _ = shingles_of(*bytes_of(column([text])), shingling)
        assert alone.tolist() == together[offsets[row] : offsets[row + 1]].tolist()
    whole = column(texts)
    sliced, _ = shingles_of(*bytes_of(whole.slice(at)), shingling)
    assert sliced.tolist() == together[offsets[min(at, len(texts))] :].tolist()


def test_shingles_are_runs_of_words_and_a_short_document_is_one():
    texts = ["a b c d e f", "A, b; c\nd - e F.", "b c d e f", "a b", "a b c", "ab c", ""]
    shingles, offsets = shingles_of(*bytes_of(column(texts)), Shingling(5))
    one, same, rest, short, other, third, none = (
        shingles[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:], strict=True)
    )
    assert len(one) == 2 and one == same and rest == one[1:]
    assert len({*one, *short, *other, *third}) == 5 and none == []
    turned, _ = shingles_of(*bytes_of(column(["a b c", "c b a", "b a c"])), Shingling(2))
    assert len(set(turned.tolist())) == 5  # only "b a" is in two of them


def test_characters_take_punctuation_and_spaces_as_one_space():
    texts = ["Ab - cd", "ab cd", "abcd", "äb, cd"]
    data, offsets = bytes_of(column(texts))
    words = words_of(data, offsets, "characters")
    assert np.diff(words.offsets).tolist() == [5, 5, 4, 5]
    of = [words.hashes[a:b].tolist() for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]
    assert of[0] == of[1] and of[3][1:] == of[0][1:] and of[3][0] != of[0][0]


def test_chunks_and_slices_cover_everything_once(monkeypatch):
    monkeypatch.setattr(words_module, "MOST_BYTES", 100)
    texts = ["é" * 10, "ab" * 20, "", "é" * 175, "x", "y" * 101]
    data, offsets = bytes_of(column(texts))
    runs = list(chunks(offsets, 60))
    assert [run[0] for run in runs] == [0, *(run[1] for run in runs[:-1])] and runs[-1][1] == len(texts)
    covered = np.zeros(len(data), int)
    for first, bounds in slices(data, offsets, overlap=7, num_bytes=60):
        bytes(data[bounds[0] : bounds[-1]]).decode()  # no part of a character
        assert offsets[first] <= bounds[0] and bounds[-1] <= offsets[first + len(bounds) - 1]
        covered[bounds[0] : bounds[-1]] += 1
    assert covered.min() == 1 and covered.max() == 2 and (covered == 2).sum() <= 4 * 9
    assert character_start(np.frombuffer("aé".encode(), np.uint8), 2) == 1


def test_only_the_beginning_of_a_huge_document_is_looked_at(monkeypatch):
    monkeypatch.setattr("jaxllm.data.dedup.shingles.MOST_BYTES", 21)
    texts = ["a b c d e f g é é é z z z z", "short one"]
    shingles, offsets = shingles_of(*bytes_of(column(texts)), Shingling(2))
    expected, bounds = shingles_of(*bytes_of(column(["a b c d e f g é é", "short one"])), Shingling(2))
    assert shingles.tolist() == expected.tolist() and offsets.tolist() == bounds.tolist()


def test_a_null_and_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="row 1 of the batch has no text"):
        bytes_of(column(["a", None]))
    with pytest.raises(ValueError, match="at least 1 word"):
        Shingling(0)
    with pytest.raises(ValueError, match="'words' or 'characters', got 'bytes'"):
        Shingling(5, "bytes")


def test_hashes_spread_evenly():
    texts = [" ".join(f"{a}{b}" for a in "abcdefghij" for b in range(1000))]
    hashes = words_of(*bytes_of(column(texts))).hashes
    assert len(set(hashes.tolist())) == 10_000
    for shift in (0, 30, 56):
        counts = np.bincount(((hashes >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
        # Chi-squared with 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert ((counts - 10_000 / 256) ** 2 / (10_000 / 256)).sum() < 255 + 5 * 22.6
