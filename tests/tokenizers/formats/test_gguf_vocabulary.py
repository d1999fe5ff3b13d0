import builtins
import dataclasses

import pytest

from jaxllm.tokenizers.formats.gguf_vocabulary import (
    GGUFVocabulary,
    TokenType,
    read_gguf_vocabulary,
    write_gguf_vocabulary,
)

EVERYTHING = GGUFVocabulary(
    "llama",
    ("<unk>", "<s>", "▁a", "<0x41>"),
    pre="default",
    scores=(0.0, 0.0, -1.5, 0.0),
    token_type=(2, 3, 1, 6),
    merges=("a b", "b c"),
    roles={"bos_token": 1, "unk_token": 0, "sep_token": 2},
    add_bos_token=True,
    add_eos_token=False,
    add_space_prefix=True,
    remove_extra_whitespaces=False,
    precompiled_charsmap=bytes(range(256)),
    chat_template="{{ messages }}",
)


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="the gguf package is not installed")


@pytest.mark.parametrize("vocabulary", [EVERYTHING, GGUFVocabulary("gpt2", ("a", "b"))], ids=["all", "least"])
def test_what_is_written_is_read(gguf, tmp_path, vocabulary):
    write_gguf_vocabulary(tmp_path / "vocabulary.gguf", vocabulary)
    assert read_gguf_vocabulary(tmp_path / "vocabulary.gguf") == vocabulary


def test_the_package_reads_the_fields_under_their_names(gguf, tmp_path):
    write_gguf_vocabulary(tmp_path / "vocabulary.gguf", EVERYTHING)
    fields = gguf.GGUFReader(tmp_path / "vocabulary.gguf").fields
    keys = gguf.Keys.Tokenizer
    assert fields[keys.MODEL].contents() == "llama"
    assert fields[keys.LIST].contents() == list(EVERYTHING.tokens)
    assert fields[keys.TOKEN_TYPE].contents() == [2, 3, 1, 6]
    assert fields[keys.SEP_ID].contents() == 2
    assert fields[keys.BOS_ID].contents() == 1
    assert fields[keys.ADD_BOS].contents() is True
    assert fields[keys.CHAT_TEMPLATE].contents() == "{{ messages }}"
    assert bytes(fields[keys.PRECOMPILED_CHARSMAP].contents()) == bytes(range(256))


def test_bytes_may_be_written_as_signed_numbers(gguf, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_string("tokenizer.ggml.model", "t5")
    writer.add_array("tokenizer.ggml.tokens", ["a"])
    writer.add_array("tokenizer.ggml.precompiled_charsmap", [-1, 5, -128])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_gguf_vocabulary(tmp_path / "x.gguf").precompiled_charsmap == b"\xff\x05\x80"


def test_types_of_tokens_are_numbered_as_in_the_package(gguf):
    assert {kind.name: int(kind) for kind in TokenType} == {kind.name: int(kind) for kind in gguf.TokenType}
    assert GGUFVocabulary("t5", ("a", "b", "c"), token_type=(1, 3, 3)).ids_of(TokenType.CONTROL) == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": (0.0,)}, "there are 4 tokens, but 1 entries of scores"),
        ({"token_type": (1,) * 5}, "there are 4 tokens, but 5 entries of token_type"),
        ({"token_type": (1, 1, 1, 9)}, "there is no type of token 9"),
        ({"roles": {"bos_token": 4}}, "the bos_token has the id 4, but the ids are 0 .. 3"),
        ({"roles": {"end": 1}}, "there is no field for 'end'; the roles are bos_token"),
    ],
)
def test_fields_that_contradict_each_other(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EVERYTHING, **change)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda writer: None, "has no vocabulary: tokenizer.ggml.model or tokenizer.ggml.tokens is not there"),
        (
            lambda writer: writer.add_array("tokenizer.ggml.tokens", [1, 2]),
            "tokenizer.ggml.tokens is not of the expected",
        ),
        (lambda writer: writer.add_string("tokenizer.ggml.bos_token_id", "1"), "bos_token_id is not of the expected"),
    ],
)
def test_files_without_a_vocabulary_or_with_a_wrong_one(gguf, tmp_path, add, message):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    add(writer)
    if len(writer.kv_data[0]) > 1:
        writer.add_string("tokenizer.ggml.model", "gpt2")
    if "tokenizer.ggml.bos_token_id" in writer.kv_data[0]:
        writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=message):
        read_gguf_vocabulary(tmp_path / "x.gguf")


def test_writing_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "gguf":
            raise ImportError("no gguf")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'needs the package gguf: pip install "jaxllm\[gguf\]"'):
        write_gguf_vocabulary(tmp_path / "x.gguf", EVERYTHING)
