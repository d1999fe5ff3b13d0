import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers import END_OF_TEXT, ByteTokenizer, load


@given(st.text())
def test_ids_are_the_bytes(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary())
def test_bytes_come_back(data):
    assert ByteTokenizer().decode_bytes(ByteTokenizer().encode_bytes(data)) == data


def test_vocabulary():
    tokenizer = ByteTokenizer()
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (257, 256)
    assert b"".join(map(tokenizer.token_bytes, range(257))) == bytes(range(256))
    assert tokenizer.encode(f"a{END_OF_TEXT}", allowed_special={END_OF_TEXT}) == [97, 256]
    with pytest.raises(ValueError, match=r"^id 257 is not in the vocabulary, whose ids are 0 .. 256$"):
        tokenizer.decode([257])


def test_a_file_comes_back(tmp_path):
    tokenizer = ByteTokenizer((END_OF_TEXT, "<|x|>"))
    tokenizer.save(tmp_path)
    assert load(tmp_path).fingerprint() == tokenizer.fingerprint() != ByteTokenizer().fingerprint()
    assert load(tmp_path).special_tokens == {END_OF_TEXT: 256, "<|x|>": 257}
