import pickle
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.vocabularies.character_bpe import CharacterBPE
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE

_PIECES = [
    ("<unk>", 0.0),
    ("ab", 0.0),
    ("bc", -1.0),
    ("aa", -1.0),
    ("abc", -2.0),
    ("a", -3.0),
    ("b", -4.0),
    ("c", -5.0),
]


def _slowly(text: str, pieces: list[tuple[str, float]]) -> list[str]:
    """The definition: of the neighbours that make a token, those of the highest score, and of these the leftmost."""
    scores, symbols = dict(pieces), list(text)
    while True:
        joined = [left + right for left, right in zip(symbols, symbols[1:], strict=False)]
        found = [(-scores[token], place) for place, token in enumerate(joined) if token in scores]
        if not found:
            return symbols
        _, place = min(found)
        symbols[place : place + 2] = [joined[place]]


@given(st.text("abcx", max_size=12))
def test_merges_are_those_of_the_definition(text):
    vocabulary = ScoredBPE(_PIECES, 0, fuse_unk=False)
    expected = _slowly(text, _PIECES)
    found = vocabulary.encode_spans(text)
    assert [text[begin:end] for _, (begin, end) in found] == expected
    assert [_PIECES[i][0] for i, _ in found] == [token.replace("x", "<unk>") for token in expected]
    assert vocabulary.encode_piece(text) == vocabulary.sample(text, Random(0), 0.0) == tuple(i for i, _ in found)


def test_unknown_characters():
    assert ScoredBPE(_PIECES, 0).encode_spans("abxyc") == [(1, (0, 2)), (0, (2, 4)), (7, (4, 5))]
    with pytest.raises(ValueError, match="^the vocabulary has no token for 'x', and none for unknown characters$"):
        ScoredBPE(_PIECES).encode_piece("x")


def test_no_merge_crosses_a_user_defined_token():
    pieces = [*_PIECES, ("bca", 0.0)]
    assert ScoredBPE([*pieces, ("c-a", 0.0)], 0, user_defined=[9]).encode_piece("bc-ab") == (6, 9, 6)
    assert ScoredBPE(pieces, 0, user_defined=[8]).encode_spans("abcab") == [(5, (0, 1)), (8, (1, 4)), (6, (4, 5))]


def test_unused_tokens_come_apart():
    assert ScoredBPE(_PIECES, 0).encode_piece("abcab") == (4, 1)
    assert ScoredBPE(_PIECES, 0, unused=[4]).encode_piece("abcab") == (1, 7, 1)
    assert ScoredBPE(_PIECES, 0, unused=[1, 4]).encode_piece("abcab") == (5, 6, 7, 5, 6)


def test_no_text_becomes_an_excluded_token():
    pieces = [("<s>", 0.0), ("<", -1.0), ("s", -2.0), (">", -3.0), ("<s", -4.0)]
    assert ScoredBPE(pieces).encode_piece("<s>") == (0,)
    assert ScoredBPE(pieces, excluded=[0]).encode_piece("<s>") == (4, 3)


@given(st.text("abc", max_size=12))
def test_as_a_list_of_merges(text):
    """Where each token is made by one pair, the list says the same."""
    pieces = [piece for piece in _PIECES if piece[0] != "aa"]
    scored = ScoredBPE(pieces, 0)
    assert scored.merges() == [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    assert CharacterBPE(vocab, scored.merges()).encode_piece(text) == scored.encode_piece(text)


def test_merges_that_are_left_out_are_so_as_often_as_they_should():
    vocabulary, random, draws = ScoredBPE(_PIECES, 0), Random(6), 20_000
    found = Counter(vocabulary.sample("ab", random, 0.25) for _ in range(draws))
    assert abs(found[(5, 6)] / draws - 0.25) < 5 * (0.25 * 0.75 / draws) ** 0.5
    assert found.keys() == {(5, 6), (1,)}


def test_a_long_piece_takes_little_time():
    assert len(ScoredBPE(_PIECES, 0).encode_piece("a" * 100_000)) == 50_000


def test_copies_are_equal():
    vocabulary = ScoredBPE(_PIECES, 0, unused=[4], user_defined=[2])
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode_spans("abcxxabca") == vocabulary.encode_spans("abcxxabca")
    assert list(copy.tokens()) == list(vocabulary.tokens())


@pytest.mark.parametrize(
    "pieces, settings, message",
    [
        ([("a", 0.0), ("a", 0.0)], {}, "^the piece 'a' is there twice, with the ids 0 and 1$"),
        ([("a", float("inf"))], {}, "must be a finite number, got inf$"),
        ([("a", 0.0)], {"unused": [1]}, "^unused names the id 1, but there are 1 pieces"),
        ([("a", 0.0)], {"unk_id": 1}, "^unk_id names the id 1, but there are 1 pieces"),
        ([("a", 0.0)], {"byte_fallback": True}, "but there is no <0x00>$"),
    ],
)
def test_bad_pieces(pieces, settings, message):
    with pytest.raises(ValueError, match=message):
        ScoredBPE(pieces, **settings)
