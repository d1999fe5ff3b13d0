from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.formats.sentencepiece_model import WordBoundaries, read_sentencepiece
from jaxllm.tokenizers.training.train_character_bpe import learn_character_bpe, learn_slowly
from tests.tokenizers.library_models import train


def _learned(words: dict[str, int], count: int, longest: int) -> list[str]:
    characters = len(set("".join(words)))
    pieces = learn_character_bpe(words, 3 + characters + count, character_coverage=1.0, max_piece_length=longest).pieces
    return [piece for piece, _ in pieces[3 : 3 + count]]


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=20), st.integers(1, 3), min_size=1, max_size=8),
    st.integers(1, 25),
    st.sampled_from([2, 3, 16]),
)
def test_merges_are_those_of_counting_everything_anew(words, count, longest):
    expected = learn_slowly(words, count, longest)
    assert _learned(words, len(expected), longest) == expected
    if len(expected) < count:
        with pytest.raises(
            ValueError, match=f"^the text supports {len(expected)} merges, so vocab_size can be at most"
        ):
            _learned(words, count, longest)


def test_the_vocabulary_is_that_of_the_library(texts, tmp_path):
    lines = [line for text in texts for line in text.splitlines()]
    file = train(tmp_path, lines, "bpe", vocab_size=1500, split_by_unicode_script=False, split_by_number=False)
    expected = read_sentencepiece(file)
    words: Counter[str] = Counter()
    for line in lines:
        words.update(WordBoundaries()(expected.normalizer(line)))
    found = learn_character_bpe(words, 1500)
    assert found.pieces == expected.vocabulary.pieces


def test_the_order_of_words_does_not_matter(texts):
    words = Counter(" ".join(texts).split())
    backwards = dict(reversed(list(words.items())))
    assert learn_character_bpe(words, 500).pieces == learn_character_bpe(backwards, 500).pieces


def test_special_tokens_are_not_learned():
    found = learn_character_bpe({"<s>": 9, "<s>x": 9}, 3 + 4 + 3, character_coverage=1.0)
    assert [piece for piece, _ in found.pieces[3:6]] == ["<s", ">x", "<s>x"]
    assert found.encode_piece("<s>") == (3, found.pieces.index((">", -4.0)))


def test_bytes_come_after_the_special_tokens():
    found = learn_character_bpe({"abab": 5}, 3 + 256 + 2 + 2, byte_fallback=True)
    assert [piece for piece, _ in found.pieces[:4]] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert found.pieces[259:] == (("ab", 0.0), ("abab", -1.0), ("a", -2.0), ("b", -3.0))
    assert found.encode_piece("ababé") == (260, 3 + 0xC3, 3 + 0xA9)


@pytest.mark.parametrize(
    "size, settings, message",
    [
        (5, {}, "^vocab_size must be at least 6, for 3 characters and 3 special tokens and bytes, got 5"),
        (9, {"special_tokens": ()}, "^special_tokens must name at least the token for what is unknown$"),
        (2_000_000, {}, "^vocab_size can be at most 1,114,112, got 2,000,000$"),
    ],
)
def test_bad_settings(size, settings, message):
    with pytest.raises(ValueError, match=message):
        learn_character_bpe({"abc": 2}, size, **settings)
    with pytest.raises(ValueError, match="^there is no text to learn from: all pieces are empty$"):
        learn_character_bpe({}, 5)


def test_a_long_run_is_learned_in_no_time():
    found = learn_character_bpe({"-" * 100_000: 1}, 3 + 1 + 15, max_piece_length=1 << 15)
    assert found.pieces[3 + 14][0] == "-" * (1 << 15)
