import json

import pytest

from jaxllm.tokenizers.vocabularies.byte_alphabet import BYTE_ORDER, to_bytes, to_text


def test_every_byte_has_its_own_printable_character():
    text = to_text(BYTE_ORDER)
    assert sorted(BYTE_ORDER) == list(range(256))
    assert len(set(text)) == 256 and text.isprintable() and not any(map(str.isspace, text))
    assert list(text) == sorted(text)
    assert to_bytes(text) == BYTE_ORDER


def test_it_is_gpt2s(shared):
    encoder = json.loads(shared("tokenizers/gpt2/encoder.json").read_text(encoding="utf-8"))
    assert [to_bytes(token) for token in list(encoder)[:256]] == [bytes([byte]) for byte in BYTE_ORDER]
    assert to_text(b" the\n") == "ĠtheĊ" and encoder["Ġthe"] == 262


def test_other_characters():
    with pytest.raises(ValueError, match="^'a b' is not written in the byte alphabet: it has the character ' '$"):
        to_bytes("a b")
