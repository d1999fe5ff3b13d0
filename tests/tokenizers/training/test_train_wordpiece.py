from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.training.train_wordpiece import (
    SPECIAL_TOKENS,
    learn_tokens,
    learn_tokens_slowly,
    split_words,
    train_wordpiece,
)


@pytest.fixture(scope="module")
def words(texts) -> Counter[str]:
    return Counter(word for text in texts for word in text.lower().split())


def test_tokens_are_those_of_counting_everything_anew(words):
    split = split_words(dict(words.most_common(300)), "##", None, 100)
    assert learn_tokens(split, 100, "##", 2) == list(learn_tokens_slowly(split, 100, "##", 2))


# Few letters and long words: pairs overlap with themselves, tie, and make one token in two ways.
@given(st.dictionaries(st.text("ab", min_size=1, max_size=16), st.integers(1, 4), max_size=8), st.integers(1, 3))
def test_tokens_are_those_of_counting_everything_anew_on_awkward_words(words, least):
    split = split_words(words, "##", None, 100)
    assert learn_tokens(split, 25, "##", least) == list(learn_tokens_slowly(split, 25, "##", least))


def test_the_pair_of_the_highest_ratio_is_joined_not_the_most_frequent():
    words = {"low": 5, "lowest": 2, "newest": 6, "widest": 3}
    split = split_words(words, "##", None, 100)
    # w##i: 3/(3*3), ##i##d: 3/(3*3): the same score and count, so the first by code points, which "#" begins.
    assert learn_tokens(split, 2, "##", 1) == ["##id", "wid"]
    assert learn_tokens(split, 1, "##", 4) == ["lo"]  # 7/(7*7), though ##s##t occurs more: 11/(11*11)


def test_a_worked_example():
    """That of Hugging Face's course: ("##g", "##s") has 5/(20*5), the frequent ("##u", "##g") only 20/(36*20)."""
    words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    # Then a letter before "##u" has 1/36 whichever it is, and the most frequent one is "p".
    assert learn_tokens(split_words(words, "##", None, 100), 3, "##", 1) == ["##gs", "pu", "hu"]


def test_the_vocabulary_is_complete_and_encodes_every_word_it_was_learned_from(words):
    wordpiece = train_wordpiece(words, 900)
    tokens = sorted(wordpiece.vocab, key=wordpiece.vocab.get)
    assert sorted(wordpiece.vocab.values()) == list(range(900))
    assert tuple(tokens[:5]) == SPECIAL_TOKENS
    alphabet = [token for token in tokens[5:] if len(token.removeprefix("##") or token) == 1]
    assert alphabet == sorted(alphabet) == tokens[5 : 5 + len(alphabet)]
    unknown = wordpiece.vocab["[UNK]"]
    assert not any(unknown in wordpiece.encode_piece(word) for word in words if len(word) <= 100)


def test_the_order_of_words_does_not_matter(words):
    again = Counter(dict(sorted(words.items(), reverse=True)))
    assert train_wordpiece(again, 700).vocab == train_wordpiece(words, 700).vocab


def test_rare_characters_are_left_out():
    wordpiece = train_wordpiece({"ab": 3, "ba": 3, "c": 1}, 10, limit_alphabet=2)
    assert "c" not in wordpiece.vocab
    assert wordpiece.encode_piece("c") == (wordpiece.vocab["[UNK]"],)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, 100), "there are no words to learn a vocabulary from"),
        (({"": 4}, 100), "there are no words to learn a vocabulary from"),
        (({"ab": 4}, 6), "vocab_size must be at least 7, for 2 characters .* and 5 special tokens, got 6"),
        (({"ab": 4}, 9), "the words support 1 joined tokens, so vocab_size can be at most 8, but 9 was asked for"),
    ],
)
def test_what_can_not_be_learned(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_wordpiece(*arguments)


def test_the_size_that_the_message_names_can_be_had():
    assert len(train_wordpiece({"ab": 4}, 8).vocab) == len(train_wordpiece({"ab": 4}, 7).vocab) + 1 == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_frequency": 0}, "min_frequency and limit_alphabet must be at least 1, got 0, 1000"),
        ({"limit_alphabet": 0}, "min_frequency and limit_alphabet must be at least 1, got 2, 0"),
        ({"special_tokens": ("[PAD]",)}, r"the special tokens must differ and include '\[UNK\]'"),
        ({"special_tokens": ("[UNK]", "[UNK]")}, r"the special tokens must differ and include '\[UNK\]'"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        train_wordpiece({"ab": 4}, 8, **settings)
