"""Whole tokenizers of bytes, against tiktoken and the tokenizers library.

Set JAXLLM_FUZZ to the number of texts for a longer comparison, such as 1000000.
"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers import END_OF_TEXT, TokenizerConfig, load, train
from jaxllm.tokenizers.formats.gpt2_files import read_gpt2
from jaxllm.tokenizers.formats.tiktoken_files import read_ranks, read_tiktoken
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, SPLIT_SEQUENCES
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.byte_level import byte_level_tokenizer, encode_byte_string
from tests.tokenizers.fuzz_texts import fuzz_bytes, fuzz_texts

FUZZ = int(os.environ.get("JAXLLM_FUZZ", "20000"))


@pytest.fixture
def tiktoken_encoding(monkeypatch):
    """Makes an encoding with the pattern and the special tokens that tiktoken has for it."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed (make parity)")
    from tiktoken_ext import openai_public

    def make(name: str, ranks: dict[bytes, int]):
        monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
        return tiktoken.Encoding(**openai_public.ENCODING_CONSTRUCTORS[name]())

    return make


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_ids_are_those_of_tiktoken(shared, tiktoken_encoding, name):
    path = shared(f"tokenizers/tiktoken/{name}.tiktoken")
    ours, theirs = read_tiktoken(path, name), tiktoken_encoding(name, read_ranks(path))
    assert ours.vocab_size == theirs.n_vocab
    for text in fuzz_texts(FUZZ // 4, seed=len(name)):
        assert ours.encode(text) == theirs.encode_ordinary(text), text
        if "<|" in text:
            assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all"), text
            assert ours.decode_bytes(ours.encode(text)) == text.encode()


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base", "o200k_base"])
def test_ids_of_any_bytes_are_those_of_tiktoken(shared, tiktoken_encoding, name):
    path = shared(f"tokenizers/tiktoken/{name}.tiktoken")
    ours, theirs = read_tiktoken(path, name), tiktoken_encoding(name, read_ranks(path))
    for data in fuzz_bytes(FUZZ // 10, seed=len(name)):
        assert list(ours.vocabulary.encode_bytes(data)) == theirs._encode_single_piece(data), data
        assert ours.decode_bytes(encode_byte_string(ours, data)) == data


@pytest.mark.parametrize("split", [*SPLIT_PATTERNS, *SPLIT_SEQUENCES])
def test_ids_are_those_of_the_tokenizers_library(texts, tmp_path, split):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    ours = train(TokenizerConfig(vocab_size=800, split=split), texts)
    ours.save(tmp_path)
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in fuzz_texts(FUZZ // 40, seed=1):
        # The library makes special tokens of text that looks like them.
        if END_OF_TEXT not in text:
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


def test_gpt2s_merges_and_ranks_give_the_same_ids(shared):
    gpt2 = read_gpt2(shared("tokenizers/gpt2/vocab.bpe").parent)
    r50k = read_tiktoken(shared("tokenizers/tiktoken/r50k_base.tiktoken"), "r50k_base")
    assert gpt2.vocabulary.vocabulary == r50k.vocabulary.vocabulary
    assert gpt2.vocabulary.merges == r50k.vocabulary.merges
    texts = list(fuzz_texts(FUZZ // 10, seed=2))
    together = gpt2.encode_batch(texts)  # what is new in many texts is merged together
    for text, ids in zip(texts, together, strict=True):
        assert ids == r50k.encode(text) == gpt2.encode(text), text


@pytest.mark.parametrize(
    "file, golden",
    [("gpt2/encoder.json", "gpt-2"), ("qwen/qwen2_5_tokenizer.json", "qwen2")],
)
def test_golden_ids(shared, file, golden):
    """The ids that llama.cpp publishes for awkward strings."""
    tokenizer = load(shared(f"tokenizers/{file}"))
    strings = shared(f"tokenizers/llama.cpp-golden/ggml-vocab-{golden}.gguf.inp").read_text(encoding="utf-8")
    expected = shared(f"tokenizers/llama.cpp-golden/ggml-vocab-{golden}.gguf.out").read_text().splitlines()
    strings = strings.split("\n__ggml_vocab_test__\n")
    assert len(strings) >= len(expected) >= 46
    for text, line in zip(strings, expected, strict=False):
        assert tokenizer.encode(text) == list(map(int, line.split())), text


@given(st.text() | st.text(alphabet="ab \n'stхй🦙"))
def test_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.end_of_text for token in ids)


@given(st.binary() | st.lists(st.binary(max_size=4) | st.text().map(str.encode)).map(b"".join))
def test_bytes_come_back(tokenizer, data):
    assert tokenizer.decode_bytes(encode_byte_string(tokenizer, data)) == data


def test_all_beginnings_of_characters_come_back(tokenizer):
    """Among them overlong forms, encoded surrogates and code points beyond U+10FFFF, which no decoder may accept."""
    for lead in range(0xC0, 0x100):
        for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
            for data in (bytes([lead, second]), bytes([lead, second, 0x80]), bytes([lead, second, 0xBF, 0x80])):
                assert tokenizer.decode_bytes(encode_byte_string(tokenizer, data)) == data


@pytest.mark.parametrize("start", [0x0, 0x80, 0x800, 0xD7F0, 0xE000, 0xFFF0, 0x10FFF0])
def test_bytes_that_are_text_are_encoded_as_text(tokenizer, texts, start):
    text = texts[0][:3000] + "".join(map(chr, range(start, start + 16)))
    assert encode_byte_string(tokenizer, text.encode()) == tokenizer.encode(text)


def test_bytes_that_are_no_text_are_merged_too():
    # A truncated character between two texts: its two bytes are one piece.
    merges = [(b"\xf0", b"\x9f"), (b"\x9f", b"a"), (b"o", b"k")]
    tokenizer = byte_level_tokenizer(ByteLevelBPE.from_merges(merges), SPLIT_PATTERNS["gpt2"], {END_OF_TEXT: 259})
    ids = encode_byte_string(tokenizer, b"ok\xf0\x9fa")
    assert [tokenizer.token_bytes(token) for token in ids] == [b"ok", b"\xf0\x9f", b"a"]


def test_bytes_need_a_vocabulary_of_bytes(texts):
    words = train(TokenizerConfig(kind="word", vocab_size=100), texts)
    with pytest.raises(ValueError, match="^bytes that are no text need a byte-level BPE, got WordLevel$"):
        encode_byte_string(words, b"\xff")


def test_an_end_of_text_that_is_not_there():
    with pytest.raises(ValueError, match="^the eos_token is '<end>', but the vocabulary has no such token$"):
        byte_level_tokenizer(ByteLevelBPE.from_merges([]), "x", {END_OF_TEXT: 256}, "<end>")
