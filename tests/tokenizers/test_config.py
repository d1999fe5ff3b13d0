import pytest

from jaxllm.config import from_json, to_json
from jaxllm.tokenizers import TokenizerConfig
from jaxllm.tokenizers.config import Split
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, SPLIT_SEQUENCES


def test_a_config_goes_to_json_and_back():
    config = TokenizerConfig(kind="character", vocab_size=300, split="gpt2", special_tokens=("<|endoftext|>", "<|x|>"))
    assert from_json(to_json(config), TokenizerConfig) == config


def test_the_names_of_splits_are_those_of_the_patterns():
    assert set(Split.__args__) == {*SPLIT_PATTERNS, *SPLIT_SEQUENCES}


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"kind": "bpe"},
            "tokenizer.kind must be one of byte_bpe, unigram, sentencepiece_bpe, wordpiece, word, character, byte, "
            "got 'bpe'",
        ),
        (
            {"split": "o300k"},
            "tokenizer.split must be one of gpt2, cl100k, llama3, qwen2, o200k, deepseek-llm, deepseek-coder, "
            "deepseek-v3, got 'o300k'",
        ),
        (
            {"normalization": ("nfc", "upper")},
            "tokenizer.normalization must be of nfc, nfd, nfkc, nfkd, lowercase, strip_accents, got 'upper'",
        ),
        (
            {"kind": "unigram", "vocab_size": 257},
            "tokenizer.vocab_size=257 is smaller than the byte alphabet: it must be at least 258 "
            "(256 bytes, <unk> and 1 special tokens)",
        ),
        (
            {"kind": "wordpiece", "vocab_size": 5},
            "tokenizer.vocab_size=5 is smaller than what is always there: it must be at least 6 "
            "([PAD] [UNK] [CLS] [SEP] [MASK] and 1 special tokens)",
        ),
        (
            {"vocab_size": 256},
            "tokenizer.vocab_size=256 is smaller than the byte alphabet: it must be at least 257 "
            "(256 bytes and 1 special tokens)",
        ),
        ({"special_tokens": ("<|x|>",)}, "tokenizer.special_tokens must include '<|endoftext|>', got ('<|x|>',)"),
        (
            {"special_tokens": ("<|endoftext|>", "a", "a")},
            "tokenizer.special_tokens must be distinct and not empty, got ('<|endoftext|>', 'a', 'a')",
        ),
        (
            {"special_tokens": ("<|endoftext|>", "")},
            "tokenizer.special_tokens must be distinct and not empty, got ('<|endoftext|>', '')",
        ),
    ],
)
def test_impossible_values(fields, message):
    with pytest.raises(ValueError) as error:
        TokenizerConfig(**fields)
    assert str(error.value) == message


def test_sizes_only_bind_where_they_mean_something():
    assert TokenizerConfig(vocab_size=257).vocab_size == 257
    assert TokenizerConfig(kind="character", vocab_size=1).kind == "character"
