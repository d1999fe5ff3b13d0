import json

import pytest

from jaxllm.tokenizers import (
    END_OF_TEXT,
    ByteBPE,
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    TokenizerConfig,
    load,
    train,
)
from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS

KINDS = {"byte_bpe": ByteBPE, "character": CharacterTokenizer, "byte": ByteTokenizer}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_trained_saved_and_loaded(kind, texts, tmp_path):
    tokenizer = train(TokenizerConfig(kind=kind, vocab_size=400), iter(texts))
    assert type(tokenizer) is KINDS[kind] and isinstance(tokenizer, Tokenizer)
    assert tokenizer.end_of_text == tokenizer.special_tokens[END_OF_TEXT] == tokenizer.vocab_size - 1
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]
    assert sum(len(tokenizer.token_bytes(token)) for token in tokenizer.encode(texts[0])) == len(texts[0].encode())
    tokenizer.save(tmp_path / "t")
    loaded = load(tmp_path / "t")
    assert type(loaded) is KINDS[kind] and loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)


def test_kinds_differ_in_their_fingerprints(texts):
    made = [train(TokenizerConfig(kind=kind, vocab_size=400), texts).fingerprint() for kind in KINDS]
    assert len(set(made)) == 3


def test_the_config_is_followed(texts):
    config = TokenizerConfig(vocab_size=300, split="gpt2", special_tokens=("<|user|>", END_OF_TEXT))
    tokenizer = train(config, texts)
    assert tokenizer.vocab_size == 300
    assert tokenizer.split_pattern == SPLIT_PATTERNS["gpt2"]
    assert tokenizer.special_tokens == {"<|user|>": 298, END_OF_TEXT: 299}
    characters = train(TokenizerConfig(kind="character", special_tokens=("<|user|>", END_OF_TEXT)), ["ab"])
    assert characters.special_tokens == {"<|user|>": 2, END_OF_TEXT: 3}


def test_a_path_is_loaded_in_place_of_training(tokenizer, tmp_path):
    tokenizer.save(tmp_path)

    def no_texts():
        raise AssertionError("the texts are not needed")
        yield

    assert train(TokenizerConfig(path=str(tmp_path)), no_texts()).fingerprint() == tokenizer.fingerprint()
    with pytest.raises(ValueError, match="nowhere: there is no tokenizer here"):
        train(TokenizerConfig(path=str(tmp_path / "nowhere")), no_texts())


@pytest.mark.parametrize(
    "description, message",
    [
        ({}, "the tokenizer type None is unknown; supported are 'character', 'byte', and byte-level BPE"),
        ({"type": "wordpiece"}, "the tokenizer type 'wordpiece' is unknown; supported are"),
        ({"type": ["byte"]}, r"the tokenizer type \['byte'\] is unknown; supported are"),
        ({"type": "byte", "format": 2}, "is written in format 2 of 'byte'; this version reads 1"),
        ({"type": "character"}, "is written in format None of 'character'; this version reads 1"),
        ({"type": "byte", "format": 1}, "expected the field special_tokens, a list of names"),
        ({"type": "byte", "format": 1, "special_tokens": [1]}, "expected the field special_tokens, a list of names"),
        ({"type": "byte", "format": 1, "special_tokens": []}, "the special tokens must include"),
        ({"type": "character", "format": 1, "characters": 5}, "expected the fields characters, a string, and special"),
        (
            {"type": "character", "format": 1, "characters": "ab", "special_tokens": {END_OF_TEXT: "2"}},
            "expected the fields characters, a string, and special",
        ),
        (
            {"type": "character", "format": 1, "characters": "ab", "special_tokens": {END_OF_TEXT: 3}},
            "3 tokens must have the ids 0 .. 2, each once, but none has 2",
        ),
    ],
)
def test_files_of_another_make_are_refused(tmp_path, description, message):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=f"^{file}: {message}"):
        load(tmp_path)
