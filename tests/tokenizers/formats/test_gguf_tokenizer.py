import dataclasses

import pytest

from jaxllm.tokenizers.formats.gguf_tokenizer import PRE_TOKENIZERS, fields_of, tokenizer_of
from jaxllm.tokenizers.formats.gguf_vocabulary import GGUFVocabulary, read_gguf_vocabulary, write_gguf_vocabulary
from jaxllm.tokenizers.preparation.cuts import Whitespace
from jaxllm.tokenizers.preparation.normalizers import NFC, BertNormalizer
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.wordpiece import WordLevel
from tests.tokenizers.awkward_texts import awkward_texts

GOLDEN = ["gpt-2", "llama-spm", "bert-bge"]


@pytest.fixture(scope="module", params=GOLDEN)
def golden(request, shared):
    """The fields of a file, texts, and the ids that llama.cpp's authors got from the reference implementations."""
    path = shared(f"tokenizers/llama.cpp-golden/ggml-vocab-{request.param}.gguf")
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[*map(int, line.split())] for line in path.with_suffix(".gguf.out").read_text().splitlines()]
    return read_gguf_vocabulary(path), texts[: len(ids)], ids


def test_ids_are_llama_cpps(golden):
    fields, texts, ids = golden
    tokenizer = tokenizer_of(fields)
    assert len(ids) > 40
    for text, expected in zip(texts, ids, strict=True):
        assert tokenizer.encode(text) == expected, text


def test_a_tokenizer_gives_its_fields_back(golden, tmp_path):
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    fields, texts, _ = golden
    tokenizer = tokenizer_of(fields)
    written = fields_of(tokenizer)
    for name in ("model", "tokens", "scores", "merges"):
        assert getattr(written, name) == getattr(fields, name)
    assert fields.roles.items() <= written.roles.items()
    write_gguf_vocabulary(tmp_path / "again.gguf", written)
    again = tokenizer_of(read_gguf_vocabulary(tmp_path / "again.gguf"))
    assert fields_of(again) == written
    assert again.special_tokens == tokenizer.special_tokens
    assert (again.roles, again.template) == (tokenizer.roles, tokenizer.template)
    for text in [*texts, *awkward_texts(100)]:
        assert again.encode(text) == tokenizer.encode(text)


def test_special_tokens_stand_around_a_text(shared):
    def tokenizer(name):
        path = shared(f"tokenizers/llama.cpp-golden/ggml-vocab-{name}.gguf")
        return tokenizer_of(read_gguf_vocabulary(path))

    llama, bert, gpt2 = map(tokenizer, ("llama-spm", "bert-bge", "gpt-2"))
    assert llama.encode("Hello", add_special_tokens=True) == [1, *llama.encode("Hello")]
    assert bert.encode("hello", add_special_tokens=True) == [101, *bert.encode("hello"), 102]
    assert gpt2.encode("Hello", add_special_tokens=True) == gpt2.encode("Hello")
    assert gpt2.decode(gpt2.encode("Hello 中文")) == "Hello 中文"
    assert llama.decode(llama.encode(" Hello 中文\n")) == " Hello 中文\n"


SMALL = GGUFVocabulary(
    "gpt2", ("a", "b", "ab", "<s>", "[PAD4]"), "gpt-2", None, (1, 1, 1, 3, 5), ("a b",), {"bos_token": 3}
)


def test_unused_tokens_keep_their_ids_but_no_text_becomes_them():
    tokenizer = tokenizer_of(SMALL)
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("abab") == [2, 2]
    assert tokenizer.special_tokens == {"<s>": 3, "[PAD4]": 4}


def test_gaps_between_ids_are_filled():
    tokenizer = tokenizer_of(SMALL).replace(added_tokens=(), roles={})
    with_gap = tokenizer.replace(vocabulary=ByteLevelBPE({b"a": 0, b"b": 1, b"ab": 4}, [(b"a", b"b")]))
    written = fields_of(with_gap)
    assert written.tokens == ("a", "b", "[PAD2]", "[PAD3]", "ab")
    assert written.token_type == (1, 1, 5, 5, 1)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", "x| 1234| y|'|LL"),
        ("smollm", "x| |1|2|3|4| y|'|LL"),
        ("llama-bpe", "x| |123|4| y|'LL"),
        ("qwen2", "x| |1|2|3|4| y|'LL"),
        ("gpt-4o", "x| |123|4| y'LL"),
        ("falcon", "x| |123|4| y|'|LL"),
    ],
)
def test_the_name_of_a_cut_decides_the_pieces(pre, pieces):
    tokenizer = tokenizer_of(dataclasses.replace(SMALL, pre=pre))
    assert tokenizer.pieces("x 1234 y'LL") == pieces.split("|")
    assert tokenizer.vocabulary.ignore_merges == (pre == "llama-bpe")


def test_words_added_by_hand_are_user_defined():
    fields = dataclasses.replace(SMALL, token_type=(1, 1, 1, 4, 3))
    fields = dataclasses.replace(fields, roles={})
    tokenizer = tokenizer_of(fields)
    assert tokenizer.encode("a<s>b") == [0, 3, 1]
    assert fields_of(tokenizer).token_type == fields.token_type


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_each_name_of_a_cut_is_written_as_one_that_cuts_so(pre):
    tokenizer = tokenizer_of(dataclasses.replace(SMALL, pre=pre))
    written = fields_of(tokenizer).pre
    assert PRE_TOKENIZERS[written] == PRE_TOKENIZERS[pre]
    assert (
        tokenizer_of(dataclasses.replace(SMALL, pre=written)).vocabulary.ignore_merges
        == tokenizer.vocabulary.ignore_merges
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "rwkv"}, "the model 'rwkv' of tokenizer.ggml.model is not supported; gpt2, llama, t5, bert are"),
        (
            {"pre": None},
            "tokenizer.ggml.pre is None, so it is not known how the text is to be cut; supported are gpt-2",
        ),
        ({"pre": "mystery"}, "tokenizer.ggml.pre is 'mystery', so it is not known"),
        ({"tokens": ("a", "b", "a", "<s>", "x")}, "tokenizer.ggml.tokens has a token twice"),
        ({"merges": ("ab",)}, "merge 0 must be two tokens with a space between them, found 'ab'"),
        ({"merges": ("a c",)}, "c"),
        ({"add_eos_token": True}, "asks for a token around the text, but names neither eos_token nor sep_token"),
        ({"model": "llama"}, "a vocabulary of the model 'llama' needs the lists scores and token_type"),
        ({"model": "bert", "tokens": ("▁a", "b", "c", "a", "x")}, "has the token 'a' twice, as 0 and 3"),
    ],
)
def test_fields_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_of(dataclasses.replace(SMALL, **change))


def test_tokenizers_that_the_format_can_not_hold():
    tokenizer = tokenizer_of(SMALL)
    for changes in ({"normalizer": (NFC(),)}, {"pre_tokenizer": (Whitespace(),)}):
        with pytest.raises(
            ValueError, match="GGUF has no name for the way in which this tokenizer normalizes and cuts"
        ):
            fields_of(tokenizer.replace(**changes))
    with pytest.raises(ValueError, match="can't hold a vocabulary of the class WordLevel"):
        fields_of(tokenizer.replace(vocabulary=WordLevel({"a": 0, "b": 1, "ab": 2})))
    words = tokenizer_of(GGUFVocabulary("bert", ("[CLS]", "[SEP]", "▁a"), roles={"cls_token": 0, "sep_token": 1}))
    with pytest.raises(
        ValueError, match=r"can only hold a WordPiece vocabulary of text normalized by BertNormalizer\(\)"
    ):
        fields_of(words.replace(normalizer=(BertNormalizer(lowercase=False),)))


def test_words_of_a_sentencepiece_vocabulary_are_as_they_stand_in_the_text():
    """Gemma's files have runs of white space as user-defined tokens, and the unknown token as a control token."""
    tokens = ("<pad>", "<eos>", "<bos>", "<unk>", "  ", "\n\n", "▁", "a", "b", "▁b")
    kinds = (3, 3, 3, 3, 4, 4, 1, 1, 1, 1)
    fields = GGUFVocabulary(
        "llama",
        tokens,
        scores=tuple(-float(i) for i in range(len(tokens))),
        token_type=kinds,
        roles={"unk_token": 3, "bos_token": 2, "eos_token": 1},
        add_bos_token=True,
        add_space_prefix=False,
    )
    tokenizer = tokenizer_of(fields)
    assert tokenizer.encode("a  b\n\nb b", add_special_tokens=True) == [2, 7, 4, 8, 5, 8, 9]
    assert tokenizer.encode("aé") == [7, 3]
    assert tokenizer.decode([7, 4, 8, 5]) == "a  b\n\n"
    again = fields_of(tokenizer)
    assert again.tokens == tokens
    assert tokenizer_of(again).encode("a  b") == [7, 4, 8]
