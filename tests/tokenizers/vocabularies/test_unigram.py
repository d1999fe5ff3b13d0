import pickle
from collections import Counter
from math import exp, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.formats.sentencepiece_model import read_sentencepiece
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from tests.tokenizers.library_models import library, train
from tests.tokenizers.mixed_texts import mixed_texts

_PIECES = [("<unk>", 0.0), ("a", -2.0), ("b", -3.0), ("ab", -3.5), ("aba", -4.0), ("c", -2.5), ("bc", -4.5)]
_BYTES = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, texts):
    lines = [line for text in texts for line in text.splitlines()]
    return train(tmp_path_factory.mktemp("unigram"), lines, "unigram", vocab_size=800)


@pytest.mark.parametrize("single", [False, True])
@given(st.text("abcx", max_size=9))
def test_the_best_row_is_that_of_all(single, text):
    vocabulary = Unigram(_PIECES, 0, single_precision=single)
    row, score = max(vocabulary.lattice(text).all_rows(), key=lambda found: found[1])
    lattice_score = {tuple(row): score for row, score in vocabulary.lattice(text).all_rows()}
    assert lattice_score[tuple(vocabulary.segment(text))] == score
    assert vocabulary.n_best(text, 1)[0] == (vocabulary.encode_piece(text), score)
    assert [i for i, _ in vocabulary.encode_spans(text)] == list(vocabulary.encode_piece(text))


def test_of_rows_that_are_as_good_the_longest_last_token_wins():
    # -2 - 1 and -1 - 2 and -3 are equal.
    vocabulary = Unigram([("a", -1.0), ("aa", -2.0), ("aaa", -3.0)])
    assert vocabulary.encode_piece("aaa") == (2,)
    assert Unigram([("a", -1.0), ("aa", -2.0)]).encode_piece("aaa") == (0, 1)


def test_unknown_characters():
    vocabulary = Unigram(_PIECES, 0)
    assert vocabulary.encode_spans("axyb漢") == [(1, (0, 1)), (0, (1, 3)), (2, (3, 4)), (0, (4, 5))]
    apart = Unigram(_PIECES, 0, fuse_unk=False)
    assert apart.encode_spans("axyb") == [(1, (0, 1)), (0, (1, 2)), (0, (2, 3)), (2, (3, 4))]
    in_bytes = Unigram(_PIECES + _BYTES, 0, byte_fallback=True)
    first = len(_PIECES)
    assert in_bytes.encode_spans("aé") == [(1, (0, 1)), (first + 0xC3, (1, 2)), (first + 0xA9, (1, 2))]
    with pytest.raises(ValueError, match="^the vocabulary has no token for 'x', and none for unknown characters$"):
        Unigram(_PIECES).encode_piece("axb")


@pytest.mark.parametrize("score, expected", [(-14.9, (1, 2)), (-15.1, (0, 3))])
def test_what_an_unknown_character_costs(score, expected):
    """It costs 10 more than the least probable token, so here 40."""
    vocabulary = Unigram([("<unk>", 0.0), ("xa", -30.0), ("b", score), ("ab", -5.0)], 0)
    assert vocabulary.encode_piece("xab") == expected


def test_excluded_and_user_defined_tokens():
    vocabulary = Unigram([("<s>", 0.0), ("<", -5.0), ("s", -1.0), (">", -5.0), ("x>s", -9.0)], None, excluded=[0])
    assert vocabulary.encode_piece("<s>") == (1, 2, 3)
    assert Unigram(vocabulary.pieces, None).encode_piece("<s>") == (0,)
    # A user-defined token counts 0.1 for each byte but the first, whatever its own score.
    preferred = [("a", -1.0), ("b", -1.0), ("ab", -0.96), ("ba", -99.0)]
    assert Unigram(preferred, user_defined=[3]).encode_piece("abab") == (0, 3, 1)
    assert Unigram([*preferred[:2], ("ab", -0.94), preferred[3]], user_defined=[3]).encode_piece("abab") == (2, 2)
    one = Unigram([("<unk>", 0.0), ("é", 0.0), ("a", -1.0)], 0, excluded=[0, 1])
    assert one.encode_piece("aé") == (2, 0)


def test_ids_and_places_are_those_of_the_tokenizers_library(model, texts):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    found = read_sentencepiece(model)
    pieces = [(piece.text, piece.score) for piece in found.pieces]
    theirs, ours = hf.Tokenizer(hf.models.Unigram(pieces, found.unk_id, False)), Unigram(pieces, found.unk_id)
    for text in map(found.normalizer, mixed_texts(2000, texts)):
        expected = theirs.encode(text)
        assert ours.encode_spans(text) == list(zip(expected.ids, expected.offsets, strict=True))


def test_the_best_rows_are_the_librarys(model):
    theirs, ours = library().SentencePieceProcessor(model_file=str(model)), read_sentencepiece(model)
    for word in ("definition", "statements", "unhappiness", "x y z"):
        rows = theirs.nbest_encode(word, nbest_size=8, return_type=int)
        found = ours.vocabulary.n_best(ours.normalizer(word), 8)
        assert [list(row) for row, _ in found] == rows


@pytest.mark.parametrize("nbest_size", [-1, 5])
def test_rows_are_drawn_as_often_as_the_library_draws_them(model, nbest_size):
    theirs, ours = library().SentencePieceProcessor(model_file=str(model)), read_sentencepiece(model)
    library().set_random_generator_seed(7)
    random, draws, alpha, word = Random(7), 10_000, 0.3, "definition"
    text, vocabulary = ours.normalizer(word), ours.vocabulary
    library_rows = Counter(
        tuple(theirs.encode(word, enable_sampling=True, nbest_size=nbest_size, alpha=alpha)) for _ in range(draws)
    )
    rows = Counter(
        vocabulary.sample(text, random, alpha)
        if nbest_size < 0
        else vocabulary.sample_n_best(text, nbest_size, random, alpha)
        for _ in range(draws)
    )
    weights = dict(vocabulary.n_best(text, 10_000 if nbest_size < 0 else nbest_size))
    total = sum(exp(alpha * score) for score in weights.values())
    assert rows.keys() | library_rows.keys() <= weights.keys()
    for row, score in weights.items():
        share = exp(alpha * score) / total
        if draws * share < 10:
            continue  # too rare to tell
        # Five standard deviations: over some hundred rows that is exceeded once in ten thousand runs.
        allowed = 5 * (share * (1 - share) / draws) ** 0.5
        assert abs(rows[row] / draws - share) < allowed and abs(library_rows[row] / draws - share) < allowed


def test_a_probability():
    vocabulary = Unigram(_PIECES, 0)
    # "ab" as one token, or as two.
    assert vocabulary.log_probability("ab") == pytest.approx(log(exp(-3.5) + exp(-5.0)))


def test_copies_are_equal():
    vocabulary = Unigram(_PIECES + _BYTES, 0, True, excluded=range(7, 263), user_defined=[4], single_precision=True)
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode_spans("abacaé") == vocabulary.encode_spans("abacaé")
    assert list(copy.tokens()) == list(vocabulary.tokens()) and copy.excluded == vocabulary.excluded


@pytest.mark.parametrize(
    "pieces, settings, message",
    [
        ([("a", 0.0), ("", 0.0)], {}, "^the piece of id 1 is empty$"),
        ([("a", 0.0), ("b", 0.0), ("a", -1.0)], {}, "^the piece 'a' is there twice, with the ids 0 and 2$"),
        ([("a", float("nan"))], {}, "^the score of the piece 'a' must be a finite number, got nan$"),
        ([("a", 0.0)], {"unk_id": 1}, "^unk_id names the id 1, but there are 1 pieces"),
        ([("a", 0.0)], {"excluded": [-1]}, "^excluded names the id -1, but there are 1 pieces"),
        ([("a", 0.0)], {"user_defined": [5]}, "^user_defined names the id 5, but there are 1 pieces"),
        ([*_BYTES[:9], *_BYTES[10:]], {"byte_fallback": True}, "each of the 256 bytes, but there is no <0x09>$"),
        ([("a" * 60_000, 0.0)], {}, "^the pieces are too long to look up, the longest has 60,000 characters"),
    ],
)
def test_bad_pieces(pieces, settings, message):
    with pytest.raises(ValueError, match=message):
        Unigram(pieces, **settings)
