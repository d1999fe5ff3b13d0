import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.vocabularies import byte_bpe
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.merging import merge_slowly


def random_vocabulary(choose: random.Random, count: int) -> ByteLevelBPE:
    """Merges in an order that no training would give, and ids in no order at all."""
    known, merges = [bytes([letter]) for letter in b"abcd \xc3\xa9"], []
    while len(merges) < count:
        merge = choose.choice(known), choose.choice(known)
        if merge not in merges and len(merge[0] + merge[1]) <= 8:
            merges.append(merge)
            known.append(merge[0] + merge[1])
    choose.shuffle(merges)
    tokens = list(dict.fromkeys([bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]))
    ids = choose.sample([0, 0xD800, 0xFFFF, *range(0x10FE00, 0x110000)], len(tokens))
    return ByteLevelBPE(dict(zip(tokens, ids, strict=True)), merges)


@given(st.integers(0, 10_000), st.lists(st.text(alphabet="abcd é", min_size=1, max_size=40), min_size=1))
def test_merging_together_follows_the_definition(seed, pieces):
    choose = random.Random(seed)
    vocabulary = random_vocabulary(choose, 30)
    ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
    pieces = sorted(map(str.encode, pieces), key=len)
    expected = [merge_slowly([bytes([byte]) for byte in piece], ranks) for piece in pieces]
    found = list(vocabulary._merger(pieces))
    assert found == [tuple(map(vocabulary.vocabulary.__getitem__, tokens)) for tokens in expected]


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_pieces_together_are_what_they_are_alone(tokenizer, texts, monkeypatch, ignore_merges):
    merges = tokenizer.vocabulary.merges
    # A token that no merges make, and one that they make only as a part of others.
    extra = {b" other": 5000, b"ions of": 5001}
    vocabulary = ByteLevelBPE(tokenizer.vocabulary.vocabulary | extra, merges, ignore_merges=ignore_merges)
    pieces = [piece for text in texts for piece in text.split("e")]  # long and short, the same again, and empty ones
    pieces += ["", " other", "ions of", "é", "漢字🦙", "x" * 31, "x" * 32, "x" * 33, "\0", *map(chr, range(300))]
    alone = list(map(vocabulary.encode_piece, pieces))
    assert vocabulary.encode_pieces(pieces) == alone
    monkeypatch.setattr(byte_bpe, "_MANY", 10**9)
    assert vocabulary.encode_pieces(pieces) == alone


def test_no_merges_and_no_pieces():
    vocabulary = ByteLevelBPE.from_merges([])
    pieces = [f"a{i}" for i in range(200)]
    assert vocabulary.encode_pieces(pieces) == list(map(vocabulary.encode_piece, pieces))
    assert vocabulary.encode_pieces([]) == []
    assert vocabulary.encode_pieces([""] * 200) == [()] * 200


def test_what_can_not_be_encoded_is_refused_together_too():
    letters = {bytes([byte]): byte for byte in range(256) if byte != 0x78}
    with pytest.raises(ValueError, match="^the byte 0x78 of b'x' is no token"):
        ByteLevelBPE(letters, []).encode_pieces([*"abc" * 50, "x"])
    with pytest.raises(UnicodeEncodeError):
        ByteLevelBPE.from_merges([]).encode_pieces([*map(chr, range(200)), "\ud800"])
