from collections import Counter

import numpy as np
import pytest

from jaxllm.tokenizers.formats.sentencepiece_model import WordBoundaries, read_sentencepiece
from jaxllm.tokenizers.training.character_coverage import cut_at_others
from jaxllm.tokenizers.training.train_unigram import learn_unigram, log_likelihood
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from tests.tokenizers.library_models import train


def _words(text: str) -> Counter[str]:
    return Counter(WordBoundaries()("▁" + "▁".join(text.split())))


@pytest.fixture(scope="module")
def words(texts):
    return _words(" ".join(texts))


def test_probabilities_sum_to_one(words):
    vocabulary = learn_unigram(words, 500, byte_fallback=True)
    assert len(vocabulary.pieces) == 500
    assert [piece for piece, _ in vocabulary.pieces[:4]] == ["<unk>", "<s>", "</s>", "<0x00>"]
    scores = [score for _, score in vocabulary.pieces[259:]]
    assert sum(np.exp(scores)) == pytest.approx(1) and scores == sorted(scores, reverse=True)
    assert vocabulary.encode_piece("<s>") != (1,)


def test_em_never_loses_likelihood(words):
    steps: list[tuple[int, float]] = []
    vocabulary = learn_unigram(
        words,
        400,
        character_coverage=1.0,
        em_steps=4,
        progress=lambda tokens, likelihood: steps.append((tokens, likelihood)),
    )
    compared = [(before, after) for before, after in zip(steps, steps[1:], strict=False) if before[0] == after[0]]
    assert len(compared) > 20 and len({tokens for tokens, _ in steps}) > 5
    assert all(after[1] >= before[1] * (1 + 1e-12) for before, after in compared)
    # What it reports is the likelihood of the vocabulary that it gives.
    assert log_likelihood(vocabulary, words) == pytest.approx(steps[-1][1], rel=1e-4)


@pytest.mark.parametrize("size", [300, 1000])
def test_the_likelihood_is_not_worse_than_that_of_the_library(size, texts, words, tmp_path):
    lines = [line for text in texts for line in text.splitlines()]
    file = train(tmp_path, lines, "unigram", vocab_size=size, split_by_unicode_script=False, split_by_number=False)
    theirs = read_sentencepiece(file).vocabulary
    ours = learn_unigram(words, size)
    assert len(ours.pieces) == len(theirs.pieces) == size
    both = {piece for piece, _ in ours.pieces if len(piece) == 1} & {piece for piece, _ in theirs.pieces}
    compared = cut_at_others(words, sorted(both))
    assert sum(compared.values()) > 0.99 * sum(words.values())
    assert log_likelihood(ours, compared) > log_likelihood(theirs, compared)
    # Also of the best rows alone, which is what texts are encoded with.
    assert _best(ours, compared) > _best(theirs, compared)


def _best(vocabulary: Unigram, words: Counter[str]) -> float:
    return sum(count * vocabulary.n_best(word, 1)[0][1] for word, count in words.items())


def test_what_is_dropped_is_what_matters_least():
    # "ab" is never apart and often, "cd" is hardly more frequent together than by chance.
    words = Counter({"ab": 50, "xab": 50, "c": 60, "d": 60, "cd": 30, "dc": 28, "x": 40})
    pieces = [piece for piece, _ in learn_unigram(words, 7 + 3, character_coverage=1.0).pieces]
    assert set("abcdx") < set(pieces) and "ab" in pieces and len(pieces) == 10


def test_the_order_of_words_does_not_matter(words):
    backwards = dict(reversed(list(words.items())))
    assert learn_unigram(words, 300).pieces == learn_unigram(backwards, 300).pieces


def test_special_tokens_are_not_learned():
    words = Counter({"<s>": 100, "<s>a": 100, "xx": 9})
    pieces = [piece for piece, _ in learn_unigram(words, 3 + 5 + 2, character_coverage=1.0).pieces]
    assert len(pieces) == len(set(pieces)) == 10


@pytest.mark.parametrize(
    "words, size, settings, message",
    [
        ({}, 5, {}, "^there is no text to learn from: all pieces are empty$"),
        ({"abc": 2}, 5, {}, "^vocab_size must be at least 6, for 3 characters and 3 special tokens and bytes, got 5"),
        (
            {"abc": 2},
            200,
            {"byte_fallback": True},
            "^vocab_size must be at least 262, for 3 characters and 259 special",
        ),
        ({"abab": 2}, 99, {}, r"^the text supports (\d+) tokens, so vocab_size can be at most \d+, but 99 was asked"),
        ({"ab": 2}, 9, {"special_tokens": ()}, "^special_tokens must name at least the token for what is unknown$"),
        ({"ab": 2}, 9, {"shrinking_factor": 1.0}, "^shrinking_factor must lie between 0 and 1"),
        ({"ab": 2}, 9, {"character_coverage": 0.0}, "^shrinking_factor must lie between 0 and 1, and character_cov"),
    ],
)
def test_bad_settings(words, size, settings, message):
    with pytest.raises(ValueError, match=message):
        learn_unigram(words, size, **settings)


def test_as_many_tokens_as_the_text_supports():
    with pytest.raises(ValueError) as error:
        learn_unigram({"abab": 2}, 99)
    most = int(str(error.value).split("at most ")[1].split(",")[0])
    assert len(learn_unigram({"abab": 2}, most).pieces) == most
