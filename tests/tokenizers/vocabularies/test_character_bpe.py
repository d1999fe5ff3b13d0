import json
import pickle
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.vocabularies.character_bpe import CharacterBPE
from jaxllm.tokenizers.vocabularies.merging import merge_slowly
from jaxllm.tokenizers.vocabularies.watched_merging import merge_watched
from tests.tokenizers.mixed_texts import mixed_texts

_TOKENS = ["<unk>", "a", "b", "c", "ab", "abc", "bc", "aa"]
_VOCAB = {token: i for i, token in enumerate(_TOKENS)}
_MERGES = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"), ("a", "a")]
_BYTES = {f"<0x{byte:02X}>": len(_VOCAB) + byte for byte in range(256)}


@given(st.text("abc", max_size=12))
def test_merges_are_those_of_the_definition(text):
    expected = merge_slowly(text, {pair: rank for rank, pair in enumerate(_MERGES)})
    found = CharacterBPE(_VOCAB, _MERGES).encode_spans(text)
    assert [_TOKENS[i] for i, _ in found] == [text[begin:end] for _, (begin, end) in found] == expected
    assert CharacterBPE(_VOCAB, _MERGES).encode_piece(text) == tuple(i for i, _ in found)
    assert CharacterBPE(_VOCAB, _MERGES).sample(text, Random(0), 0.0) == tuple(i for i, _ in found)


def test_unknown_characters():
    fused = CharacterBPE(_VOCAB, _MERGES, unk_token="<unk>", fuse_unk=True)
    assert fused.encode_spans("abxyc") == [(4, (0, 2)), (0, (2, 4)), (3, (4, 5))]
    assert CharacterBPE(_VOCAB, _MERGES, unk_token="<unk>").encode_piece("xy") == (0, 0)
    in_bytes = CharacterBPE(_VOCAB | _BYTES, _MERGES, byte_fallback=True)
    assert in_bytes.encode_spans("abé") == [(4, (0, 2)), (8 + 0xC3, (2, 3)), (8 + 0xA9, (2, 3))]
    with pytest.raises(ValueError, match="^the vocabulary has no token for 'x', and none for unknown characters$"):
        CharacterBPE(_VOCAB, _MERGES).encode_piece("ax")


def test_a_whole_piece_may_win_at_once():
    vocab = _VOCAB | {"cab": 8}
    assert CharacterBPE(vocab, _MERGES).encode_piece("cab") == (3, 4)
    whole = CharacterBPE(vocab, _MERGES, ignore_merges=True)
    assert whole.encode_piece("cab") == (8,) and whole.encode_spans("cab") == [(8, (0, 3))]


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize(
    "fallback, marks", [(False, ("", "")), (True, ("", "")), (False, ("##", "")), (False, ("", "</w>"))]
)
def test_ids_and_places_are_those_of_the_tokenizers_library(texts, fuse, fallback, marks):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    prefix, suffix = marks
    tokenizer = hf.Tokenizer(hf.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", *(_BYTES if fallback else ())],
        continuing_subword_prefix=prefix,
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    settings = {
        "unk_token": "<unk>",
        "fuse_unk": fuse,
        "byte_fallback": fallback,
        "continuing_subword_prefix": prefix,
        "end_of_word_suffix": suffix,
    }
    merges = [tuple(merge) for merge in model["merges"]]
    theirs = hf.Tokenizer(hf.models.BPE(model["vocab"], merges, **settings))
    ours = CharacterBPE(model["vocab"], merges, **settings)
    for text in mixed_texts(500, texts):
        expected = theirs.encode(text)
        assert ours.encode_piece(text) == tuple(expected.ids)
        found = ours.encode_spans(text)
        assert [i for i, _ in found] == expected.ids
        if not fallback:  # there each byte has a place of its own
            assert [span for _, span in found] == expected.offsets


def test_merges_that_are_left_out_are_so_as_often_as_they_should():
    # With probability 0.3 each of two merges in turn is not made: abc stays apart only if both are left out.
    vocabulary, random, draws = CharacterBPE(_VOCAB, _MERGES), Random(5), 20_000
    found = Counter(vocabulary.sample("abc", random, 0.3) for _ in range(draws))
    expected = {(5,): 0.7 * 0.7 + 0.3 * 0.7 * 0.7, (1, 6): 0.7 * 0.3, (4, 3): 0.3 * 0.7 * 0.3, (1, 2, 3): 0.3 * 0.3}
    for ids, share in expected.items():
        assert abs(found[ids] / draws - share) < 5 * (share * (1 - share) / draws) ** 0.5
    assert vocabulary.sample("abc", random, 1.0) == (1, 2, 3)
    with pytest.raises(ValueError, match="^dropout must be a probability, from 0 to 1, got 1.5$"):
        vocabulary.sample("abc", random, 1.5)


@given(st.text("ab", max_size=14), st.dictionaries(st.text("ab", min_size=2, max_size=2), st.integers(0, 3)))
def test_watched_merging_is_the_same_merging(text, ranks):
    pairs = {(pair[0], pair[1]): rank for pair, rank in ranks.items()}
    seen = []
    found = merge_watched(
        text,
        lambda left, right: pairs.get((left, right)),
        str.__add__,
        considered=lambda left, right: seen.append((left, right)),
    )
    assert found == merge_slowly(text, pairs)
    assert set(seen) <= set(pairs)


def test_a_long_piece_takes_little_time():
    assert len(CharacterBPE(_VOCAB, _MERGES).encode_piece("a" * 200_000)) == 100_000


def test_copies_are_equal():
    vocabulary = CharacterBPE(_VOCAB, _MERGES, unk_token="<unk>", fuse_unk=True)
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode_spans("abxxc") == vocabulary.encode_spans("abxxc")
    assert dict(copy.tokens()) == {i: token for token, i in _VOCAB.items()}


@pytest.mark.parametrize(
    "vocab, merges, settings, message",
    [
        ({"a": 0, "b": 0}, [], {}, "^the tokens 'a' and 'b' have the same id 0$"),
        ({"a": -1}, [], {}, "^the token 'a' has the id -1, which is not in 0 .. 1114111$"),
        ({"": 0}, [], {}, "^the token of id 0 is empty$"),
        ({"a": 0, "b": 1}, [("a", "b")], {}, "^merge 0, of 'a' and 'b': 'ab' is not in the vocabulary$"),
        (_VOCAB, [("a", "b"), ("a", "b")], {}, "^merge 1, of 'a' and 'b', is there already, as merge 0$"),
        (
            _VOCAB,
            [],
            {"unk_token": "[UNK]"},
            r"^the token for unknown characters, '\[UNK\]', is not in the vocabulary$",
        ),
        (_VOCAB, [], {"byte_fallback": True, "end_of_word_suffix": "</w>"}, "^byte_fallback is not supported together"),
        (_VOCAB, [], {"byte_fallback": True}, "each of the 256 bytes, but there is no <0x00>$"),
    ],
)
def test_a_bad_vocabulary(vocab, merges, settings, message):
    with pytest.raises(ValueError, match=message):
        CharacterBPE(vocab, merges, **settings)
