import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.vocabularies.byte_alphabet import to_text
from jaxllm.tokenizers.vocabularies.byte_bpe import _FEW, ByteLevelBPE
from jaxllm.tokenizers.vocabularies.merging import merge_slowly

# Text in which merges meet, overlap and compete.
DENSE = st.text(alphabet="ab \n'stхй🦙")
BYTES = {bytes([byte]): byte for byte in range(256)}


def tokens(vocabulary: ByteLevelBPE, piece: bytes) -> list[bytes]:
    of_id = {i: token for token, i in vocabulary.vocabulary.items()}
    return [of_id[i] for i in vocabulary.encode_bytes(piece)]


def slowly(vocabulary: ByteLevelBPE, piece: bytes) -> list[bytes]:
    ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
    return merge_slowly([bytes([byte]) for byte in piece], ranks)


def random_merges(seed: int, count: int, letters: bytes) -> list[tuple[bytes, bytes]]:
    """Merges of tokens that exist, in an order that no training would give."""
    choose = random.Random(seed)
    known, merges = [bytes([letter]) for letter in letters], []
    while len(merges) < count:
        merge = choose.choice(known), choose.choice(known)
        if merge not in merges and len(merge[0] + merge[1]) <= 8:
            merges.append(merge)
            known.append(merge[0] + merge[1])
    choose.shuffle(merges)
    return merges


def pieces_of_letters(longest: int):
    return st.binary(max_size=longest).map(lambda data: bytes(97 + byte % 4 for byte in data))


@given(DENSE)
def test_merging_follows_the_definition(tokenizer, text):
    assert tokens(tokenizer.vocabulary, text.encode()) == slowly(tokenizer.vocabulary, text.encode())


@given(st.integers(0, 200), pieces_of_letters(3 * _FEW))
def test_merging_follows_the_definition_for_merges_in_any_order(seed, piece):
    vocabulary = ByteLevelBPE.from_merges(random_merges(seed, 30, b"abcd"))
    assert tokens(vocabulary, piece) == slowly(vocabulary, piece)


@given(st.integers(0, 200), pieces_of_letters(3 * _FEW))
def test_ranks_of_tokens_follow_their_definition(seed, piece):
    """Any two tokens that make one may merge, the lowest rank and then the leftmost first."""
    made = sorted(
        {left + right for left, right in random_merges(seed, 20, b"abcd")}, key=lambda token: hash((seed, token))
    )
    ranks = BYTES | {token: 256 + i for i, token in enumerate(made)}
    expected = [bytes([byte]) for byte in piece]
    if piece in ranks:
        expected = [piece]
    while found := [
        (ranks[a + b], i) for i, (a, b) in enumerate(zip(expected, expected[1:], strict=False)) if a + b in ranks
    ]:
        _, i = min(found)
        expected[i : i + 2] = [expected[i] + expected[i + 1]]
    assert tokens(ByteLevelBPE.from_ranks(ranks), piece) == expected


@given(st.binary(max_size=300))
def test_bytes_come_back(tokenizer, data):
    assert b"".join(tokens(tokenizer.vocabulary, data)) == data


def test_ranks_and_their_merges_give_the_same_ids(tokenizer, texts):
    trained = tokenizer.vocabulary
    by_ranks = ByteLevelBPE.from_ranks(trained.vocabulary)
    assert by_ranks.merges == trained.merges
    assert by_ranks.is_by_ranks and not trained.is_by_ranks
    for piece in tokenizer.pieces(texts[0]):
        assert by_ranks.encode_piece(piece) == trained.encode_piece(piece)


def test_a_token_that_no_merges_reach_has_no_merge():
    vocabulary = ByteLevelBPE.from_ranks(BYTES | {b"abc": 256})
    assert vocabulary.encode_piece("abc") == (256,)
    assert vocabulary.encode_piece("abcd") == (97, 98, 99, 100)
    message = r"^the token b'abc' of rank 256 is made of 3 tokens of lower rank, so a list of merges can't express it$"
    with pytest.raises(ValueError, match=message):
        _ = vocabulary.merges


def test_a_whole_piece_that_is_a_token():
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]
    assert tokens(ByteLevelBPE.from_merges(merges), b"abc") == [b"a", b"bc"]
    whole = ByteLevelBPE(ByteLevelBPE.from_merges(merges).vocabulary, merges, ignore_merges=True)
    assert tokens(whole, b"abc") == [b"abc"]
    assert tokens(whole, b"abcd") == [b"a", b"bc", b"d"]


def test_ids_of_characters(tokenizer):
    vocabulary = ByteLevelBPE.from_merges([(b"a", b"b"), ("é".encode()[:1], "é".encode()[1:])])
    assert [span for _, span in vocabulary.encode_spans("abé🦙a")] == [(0, 2), (2, 3), *[(3, 4)] * 4, (4, 5)]


@given(DENSE)
def test_spans_cover_the_piece_and_have_its_ids(tokenizer, text):
    found = tokenizer.vocabulary.encode_spans(text)
    assert tuple(i for i, _ in found) == tokenizer.vocabulary.encode_piece(text)
    # Each token begins where the one before it ended, or in the character that it ended in.
    place = 0
    for _, (begin, end) in found:
        assert begin in (place, place - 1) and end >= place and begin < end
        place = end
    assert place == len(text)


def test_a_long_piece_takes_no_time(tokenizer):
    letters = "".join(random.Random(0).choices("etaoinsh", k=50_000)).encode()  # quadratic work would take minutes
    assert b"".join(tokens(tokenizer.vocabulary, letters)) == letters
    by_ranks = ByteLevelBPE.from_ranks(tokenizer.vocabulary.vocabulary)
    assert by_ranks.encode_bytes(letters) == tokenizer.vocabulary.encode_bytes(letters)


def test_tokens_are_written_in_the_byte_alphabet(tokenizer):
    written = dict(tokenizer.vocabulary.tokens())
    assert {to_text(token): i for token, i in tokenizer.vocabulary.vocabulary.items()} == {
        t: i for i, t in written.items()
    }
    assert "Ġthe" in written.values()


def test_copies(tokenizer):
    by_ranks = ByteLevelBPE.from_ranks(tokenizer.vocabulary.vocabulary)
    whole = ByteLevelBPE(tokenizer.vocabulary.vocabulary, tokenizer.vocabulary.merges, ignore_merges=True)
    for vocabulary in (tokenizer.vocabulary, by_ranks, whole):
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert (copy.vocabulary, copy.merges) == (vocabulary.vocabulary, vocabulary.merges)
        assert (copy.ignore_merges, copy.is_by_ranks) == (vocabulary.ignore_merges, vocabulary.is_by_ranks)
        assert copy.encode_piece(" function") == vocabulary.encode_piece(" function")


def test_two_merges_may_make_one_token():
    vocabulary = ByteLevelBPE.from_merges([(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")])
    assert len(vocabulary.vocabulary) == 256 + 2
    assert vocabulary.vocabulary[b"aaa"] == 257


def test_bytes_that_are_no_tokens():
    letters = {bytes([byte]): i for i, byte in enumerate(b"abc")}
    for vocabulary in (
        ByteLevelBPE(letters | {b"ab": 3}, [(b"a", b"b")]),
        ByteLevelBPE.from_ranks(letters | {b"ab": 3}),
    ):
        assert len(vocabulary.missing_bytes) == 253
        assert vocabulary.encode_piece("abc") == (3, 2)
        with pytest.raises(
            ValueError, match=r"^the byte 0xc3 of b'a\\xc3\\xa9' is no token .* lacks 253 of the 256 bytes"
        ):
            vocabulary.encode_piece("aé")


@pytest.mark.parametrize(
    "vocabulary, merges, message",
    [
        (BYTES, [(b"a", b"b")], r"^merge 0, of b'a' and b'b': b'ab' is not in the vocabulary$"),
        (BYTES | {b"xyz": 256}, [(b"x", b"yz")], r"^merge 0, of b'x' and b'yz': b'yz' is not in the vocabulary$"),
        (BYTES | {b"ab": 256}, [(b"a", b"b")] * 2, "^merge 1, of b'a' and b'b', is there already, as merge 0$"),
        (BYTES | {b"ab": 97}, [], "^the tokens b'a' and b'ab' have the same id 97$"),
        (BYTES | {b"": 256}, [], "^the token of id 256 is empty; a token must have at least one byte$"),
        (BYTES | {b"ab": -1}, [], r"^the id of b'ab' is -1; ids must be 0 .. 1,114,111$"),
        (BYTES | {b"ab": 2**40}, [], r"^the id of b'ab' is 1099511627776; ids must be 0 .. 1,114,111$"),
    ],
)
def test_vocabularies_that_do_not_fit_together(vocabulary, merges, message):
    with pytest.raises(ValueError, match=message):
        ByteLevelBPE(vocabulary, merges)
    if not merges:
        with pytest.raises(ValueError, match=message):
            ByteLevelBPE.from_ranks(vocabulary)
