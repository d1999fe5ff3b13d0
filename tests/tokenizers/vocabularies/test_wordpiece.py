import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.formats.bert_vocab import read_vocab
from jaxllm.tokenizers.preparation.cuts import BertPreTokenizer
from jaxllm.tokenizers.preparation.normalizers import BertNormalizer
from jaxllm.tokenizers.vocabularies.wordpiece import WordLevel, WordPiece
from tests.tokenizers.awkward_texts import awkward_texts

SMALL = {"[UNK]": 7, "un": 0, "##aff": 1, "##able": 2, "una": 3, "##b": 4, "a": 5, "##": 6}


@pytest.fixture(scope="module")
def bert(shared) -> WordPiece:
    return WordPiece(read_vocab(shared("tokenizers/bert/vocab.txt")))


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")


def test_ids_and_offsets_of_berts_vocabulary_are_those_of_the_tokenizers_library(bert, library):
    other = library.Tokenizer(
        library.models.WordPiece(dict(bert.vocab), unk_token="[UNK]", max_input_chars_per_word=100)
    )
    other.normalizer = library.normalizers.BertNormalizer()
    other.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    normalize, cut = BertNormalizer(), BertPreTokenizer()
    words = ["unaffable", "embeddings", "Führer", "x" * 100, "x" * 101, "internationalization", "!!", "naïve中文ab"]
    for text in [*awkward_texts(1000, longest=40), " ".join(words)]:
        pieces = cut(normalize(text))
        assert [i for piece in pieces for i in bert.encode_piece(piece)] == other.encode(text).ids, ascii(text)
    for word in words[:6]:
        expected = other.encode(word)
        assert bert.encode_spans(normalize(word)) == list(zip(expected.ids, expected.offsets, strict=True))


def test_ids_are_those_of_the_transformers_library(bert, shared):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (make parity)")
    other = transformers.BertTokenizerFast(str(shared("tokenizers/bert/vocab.txt")))
    normalize, cut = BertNormalizer(), BertPreTokenizer()
    for text in awkward_texts(200, longest=60, seed=5):
        ids = [i for piece in cut(normalize(text)) for i in bert.encode_piece(piece)]
        assert ids == other.encode(text, add_special_tokens=False), ascii(text)


@given(st.dictionaries(st.text("ab#", min_size=1, max_size=4), st.none(), max_size=12), st.text("ab#", max_size=8))
def test_ids_of_any_vocabulary_are_those_of_the_tokenizers_library(names, word):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    vocab = {token: i for i, token in enumerate([*names, "[UNK]"])}
    other = library.Tokenizer(library.models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=6))
    expected = other.encode(word)
    found = WordPiece(vocab, max_input_chars_per_word=6)
    assert found.encode_piece(word) == tuple(expected.ids)
    assert found.encode_spans(word) == list(zip(expected.ids, expected.offsets, strict=True))


def test_the_longest_token_is_taken_though_a_shorter_one_would_fit():
    wordpiece = WordPiece(SMALL)
    assert wordpiece.encode_spans("unaffable") == [(7, (0, 9))]  # "una" leaves "ffable"
    assert wordpiece.encode_spans("unb") == [(0, (0, 2)), (4, (2, 3))]
    assert wordpiece.encode_spans("") == []
    assert dict(wordpiece.tokens()) == {i: token for token, i in SMALL.items()}


def test_another_prefix_and_none():
    assert WordPiece({"a": 0, "@b": 1}, continuing_subword_prefix="@").encode_piece("ab") == (0, 1)
    assert WordPiece({"a": 0, "b": 1}, continuing_subword_prefix="").encode_piece("abba") == (0, 1, 1, 0)


def test_a_word_level_vocabulary(library):
    vocab = {"the": 0, "<unk>": 1, " ": 2}
    other = library.Tokenizer(library.models.WordLevel(vocab, unk_token="<unk>"))
    for piece in ["the", "cat", " ", "", "The"]:
        expected = other.encode(piece)
        assert WordLevel(vocab).encode_piece(piece) == tuple(expected.ids)
        assert WordLevel(vocab).encode_spans(piece) == list(zip(expected.ids, expected.offsets, strict=True))


@pytest.mark.parametrize("kind", [WordPiece, WordLevel])
@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ({"a": 0, "b": 0}, "the tokens 'a' and 'b' have the same id 0"),
        ({"a": -1}, "the id of 'a' is -1; an id is an integer, 0 or greater"),
        ({"a": True}, "the id of 'a' is True; an id is an integer"),
    ],
)
def test_vocabularies_that_are_refused(kind, vocab, message):
    with pytest.raises(ValueError, match=message):
        kind(vocab)


@pytest.mark.parametrize("vocabulary", [WordPiece({"a": 0}), WordLevel({"a": 0}, unk_token="[UNK]")])
def test_what_is_unknown_where_no_token_is_for_it(vocabulary):
    assert vocabulary.encode_piece("a") == (0,)
    with pytest.raises(ValueError, match=r"'b' can't be made of the vocabulary's 1 tokens, .* '\[UNK\]' is not one"):
        vocabulary.encode_piece("b")


def test_words_may_not_have_to_be_shorter_than_one_character():
    with pytest.raises(ValueError, match="max_input_chars_per_word must be at least 1, got 0"):
        WordPiece(SMALL, max_input_chars_per_word=0)
