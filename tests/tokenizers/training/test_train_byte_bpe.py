import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers import END_OF_TEXT, train_byte_bpe
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, SPLIT_SEQUENCES, splitter
from jaxllm.tokenizers.training.counting import count_pieces
from jaxllm.tokenizers.training.train_byte_bpe import learn_merges, learn_merges_slowly
from jaxllm.tokenizers.vocabularies.byte_alphabet import to_text


def test_merges_are_those_of_counting_everything_anew(texts):
    pieces = count_pieces([texts[0]], splitter(SPLIT_PATTERNS["cl100k"]))
    learned, merges = learn_merges(pieces, 250)
    assert learned == len(merges) == 250
    assert merges == learn_merges_slowly(pieces, 250)


# Few letters and long words: pairs overlap with themselves, tie, and make one token in two ways.
@given(st.dictionaries(st.text("ab", min_size=1, max_size=24), st.integers(1, 3), max_size=8), st.integers(0, 30))
def test_merges_are_those_of_counting_everything_anew_on_awkward_words(pieces, count):
    learned, merges = learn_merges(Counter(pieces), count)
    assert merges == learn_merges_slowly(Counter(pieces), count)
    assert learned == len({left + right for left, right in merges}) <= count


@pytest.mark.parametrize("split", [*SPLIT_PATTERNS, *SPLIT_SEQUENCES])
def test_merges_are_those_of_the_tokenizers_library(texts, split):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    patterns = SPLIT_SEQUENCES.get(split) or (SPLIT_PATTERNS[split],)
    pre = library.pre_tokenizers
    theirs = library.Tokenizer(library.models.BPE())
    cuts = [pre.Split(library.Regex(pattern), "isolated") for pattern in patterns]
    theirs.pre_tokenizer = pre.Sequence([*cuts, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = library.trainers.BpeTrainer(
        vocab_size=1999, min_frequency=2, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    expected = json.loads(theirs.to_str())["model"]
    found = train_byte_bpe(texts, 2000, split_pattern=patterns)
    assert [[to_text(left), to_text(right)] for left, right in found.vocabulary.merges] == expected["merges"]
    assert {token: i for i, token in found.vocabulary.tokens()} == expected["vocab"]
    assert found.special_tokens == {END_OF_TEXT: 1999}


def test_any_number_of_processes_gives_the_same_tokenizer(tokenizer, texts):
    assert train_byte_bpe(texts, 1000, processes=2).fingerprint() == tokenizer.fingerprint()


def test_the_order_of_texts_does_not_matter(tokenizer, texts):
    again = train_byte_bpe(iter(texts[::-1]), 1000)
    assert again.fingerprint() == tokenizer.fingerprint()


def test_special_tokens_come_last(texts):
    tokenizer = train_byte_bpe(texts, 300, special_tokens=(END_OF_TEXT, "<|user|>"))
    assert tokenizer.special_tokens == {END_OF_TEXT: 298, "<|user|>": 299}
    assert (tokenizer.vocab_size, tokenizer.end_of_text, len(tokenizer.vocabulary.merges)) == (300, 298, 42)


def test_a_vocabulary_larger_than_the_text_supports():
    texts = ["banana bandana"] * 2
    with pytest.raises(ValueError) as error:
        train_byte_bpe(texts, 4096)
    message = str(error.value)
    found = re.match(
        r"the text supports (\d+) merges, so tokenizer.vocab_size can be at most (\d+) and the spec", message
    )
    merges, size = map(int, found.groups())
    assert size == 256 + merges
    assert "but 4,095 and these were asked for; lower it, or give more text" in message
    size += 1
    # The number is right: so many can be had, and not one more.
    tokenizer = train_byte_bpe(texts, size)
    assert tokenizer.vocab_size == size
    assert len(tokenizer.encode("banana")) == len(tokenizer.encode(" bandana")) == 1
    with pytest.raises(ValueError, match=f"supports {merges} merges"):
        train_byte_bpe(texts, size + 1)


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["abcdefg"]])
def test_text_without_a_pair_that_occurs_twice(texts):
    with pytest.raises(ValueError, match="^the text supports 0 merges, so tokenizer.vocab_size can be at most 256"):
        train_byte_bpe(texts, 258)
    assert train_byte_bpe(texts, 257).vocabulary.merges == ()


def test_a_vocabulary_smaller_than_the_bytes():
    with pytest.raises(
        ValueError, match="^vocab_size must be at least 257, for all bytes and special tokens, got 256$"
    ):
        train_byte_bpe(["text"], 256)


def test_a_long_run_is_learned_in_no_time():
    tokenizer = train_byte_bpe(["-" * 200_000], 272)
    assert tokenizer.token_bytes(270) == b"-" * 2**15
    assert len(tokenizer.encode("-" * 2**17)) == 4
