import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers import END_OF_TEXT, CharacterTokenizer, load


def test_ids_are_code_points_in_order():
    tokenizer = CharacterTokenizer.train(["hello", "", "wörld\n🦙"])
    assert tokenizer.decode(range(tokenizer.vocab_size)) == "\ndehlorwö🦙"
    assert tokenizer.encode("🦙\n") == [9, 0]
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (11, 10)
    assert [tokenizer.token_bytes(i) for i in (8, 9, 10)] == ["ö".encode(), "🦙".encode(), b""]


def test_tiny_shakespeare_has_its_65_characters(shared):
    text = shared("corpora/tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = CharacterTokenizer.train([text])
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (66, 65)
    # nanoGPT's ids: its list of characters begins with line feed, space and exclamation mark and ends with z.
    assert tokenizer.encode("\n !z") == [0, 1, 2, 64]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # A run trains its tokenizer on the first nine tenths, which must know the rest.
    assert CharacterTokenizer.train([text[: int(0.9 * len(text))]]).fingerprint() == tokenizer.fingerprint()


@given(st.text(min_size=1))
def test_text_comes_back(text):
    tokenizer = CharacterTokenizer.train([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)


def test_a_file_comes_back(tmp_path):
    tokenizer = CharacterTokenizer.train(['"\\\n\x00é\u2028🦙'], special_tokens=(END_OF_TEXT, "<|x|>"))
    tokenizer.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode('🦙"\\') == tokenizer.encode('🦙"\\')
    assert loaded.special_tokens == {END_OF_TEXT: 7, "<|x|>": 8}


def test_special_tokens_only_where_allowed():
    tokenizer = CharacterTokenizer.train([f"a{END_OF_TEXT}"])
    assert tokenizer.end_of_text not in tokenizer.encode(END_OF_TEXT)
    assert tokenizer.encode(f"a{END_OF_TEXT}", allowed_special="all") == [
        tokenizer.encode("a")[0],
        tokenizer.end_of_text,
    ]


def test_a_character_that_was_not_in_the_corpus():
    tokenizer = CharacterTokenizer.train(["abc"])
    with pytest.raises(ValueError) as error:
        tokenizer.encode("ab\x85cd")
    assert str(error.value) == (
        "the character '\\x85' (U+0085) at position 2 is not one of the 3 in the vocabulary; "
        "train on text that has it, or use tokenizer.kind=byte_bpe"
    )


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text(texts):
    with pytest.raises(ValueError, match="^there is no text to take the characters from$"):
        CharacterTokenizer.train(texts)


def test_a_repeated_character():
    with pytest.raises(ValueError, match="^each character may occur only once in the vocabulary$"):
        CharacterTokenizer("aba", {END_OF_TEXT: 3})
