import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers import StreamingDecoder, TokenizerConfig, train

BYTES = train(TokenizerConfig(kind="byte"), [])


@given(st.text())
def test_characters_come_whole_and_as_soon_as_they_can(text):
    decoder = StreamingDecoder(BYTES)
    for character in text:
        *first, last = character.encode()
        assert [decoder.push(byte) for byte in first] == [""] * len(first)
        assert decoder.push(last) == character
    assert decoder.flush() == ""


@given(st.binary(max_size=40))
def test_the_parts_joined_are_the_text_whatever_the_bytes(data):
    decoder = StreamingDecoder(BYTES)
    assert "".join([*map(decoder.push, data), decoder.flush()]) == BYTES.decode(data)


def test_tokens_of_several_bytes(tokenizer):
    text = "The class statement 🦙 日本"
    decoder = StreamingDecoder(tokenizer)
    parts = [decoder.push(token) for token in tokenizer.encode(text)]
    assert "".join(parts) == text and parts[0] == "The"
    assert all("\ufffd" not in part for part in parts)


def test_an_unfinished_character_is_replaced_at_the_end_and_a_new_text_can_begin():
    decoder = StreamingDecoder(BYTES)
    assert decoder.push(0xF0) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(ord("a")) == "a"
    assert decoder.flush() == ""


def test_special_tokens_are_no_text_and_break_no_character():
    decoder = StreamingDecoder(BYTES)
    assert decoder.push(BYTES.end_of_text) == ""
    assert [decoder.push(token) for token in (0xC3, BYTES.end_of_text, 0xA9)] == ["", "", "é"]


def test_an_id_out_of_range_changes_nothing():
    decoder = StreamingDecoder(BYTES)
    decoder.push(0xC3)
    with pytest.raises(ValueError, match="^id 300 is not in the vocabulary"):
        decoder.push(300)
    assert decoder.push(0xA9) == "é"
