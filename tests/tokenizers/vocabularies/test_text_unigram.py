import pickle
from random import Random

import pytest

from jaxllm.tokenizers.vocabularies.text_unigram import TextUnigram
from jaxllm.tokenizers.vocabularies.unigram import Unigram

# The sums of many rows are equal but for rounding, as those of zeros in any order; "ba" and its parts are nearly.
_SCORES = {
    "▁": -1.53,
    "0": -6.459231,
    "00": -6.942412,
    "000": -9.990301,
    "a": -2.1,
    "b": -2.3,
    "ab": -3.7,
    "ba": -4.40001,
}
_PIECES = [("<unk>", 0.0), *_SCORES.items()]


@pytest.mark.parametrize("more", [[], [("0▁", -3.0)], [("▁a", 0.5)]], ids=["words", "across words", "rising sums"])
@pytest.mark.parametrize("single", [True, False])
def test_ids_are_those_of_looking_at_everything_at_once(more, single):
    random = Random(8)
    pieces, settings = _PIECES + more, {"excluded": [0], "single_precision": single}
    quick, careful = TextUnigram(pieces, 0, **settings), Unigram(pieces, 0, **settings)
    for length in [1, 2, 5] * 30 + [1500] * 15:
        words = ["".join(random.choices("0ab漢", (20, 4, 4, 1), k=random.randrange(12))) for _ in range(length)]
        text = "▁" * random.randrange(2) + "▁".join(words) + "0" * random.choice((0, 3, 40))
        assert quick.encode_piece(text) == careful.encode_piece(text)
    assert quick._has_words == (not more)


@pytest.mark.parametrize("number", [10, 5000])
def test_a_small_lead_is_enough_only_at_the_begin(number):
    settings = {"excluded": [0], "single_precision": True}
    quick, careful = TextUnigram(_PIECES, 0, **settings), Unigram(_PIECES, 0, **settings)
    text = "▁ba" * number
    assert quick.encode_piece(text) == careful.encode_piece(text)
    assert ((1, 8) in set(zip(quick.encode_piece(text), quick.encode_piece(text)[1:], strict=False))) == (number > 10)


def test_most_words_are_looked_at_once(monkeypatch):
    vocabulary = TextUnigram(_PIECES, 0, excluded=[0], single_precision=True)
    segmented, segment = [], Unigram.segment
    monkeypatch.setattr(Unigram, "segment", lambda *given: segmented.append(given[1]) or segment(*given))
    vocabulary.encode_piece("▁ab▁aab▁0▁00000" * 50)
    assert set(segmented) == {"▁00000"}


def test_a_word_beyond_measure():
    vocabulary = TextUnigram(_PIECES, 0, excluded=[0], single_precision=True)
    assert vocabulary.encode_piece("▁" + "ab" * 50_000) == (1, *[7] * 50_000)
    assert vocabulary._words == {}


def test_copies_are_equal():
    vocabulary = TextUnigram(_PIECES, 0, excluded=[0], single_precision=True)
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert type(copy) is TextUnigram and copy.encode_piece("▁0000▁ab漢") == vocabulary.encode_piece("▁0000▁ab漢")
