import base64

import pytest

from jaxllm.tokenizers import END_OF_TEXT
from jaxllm.tokenizers.formats.tiktoken_files import ENCODINGS, ranks_of, read_ranks, read_tiktoken, write_ranks
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_files_come_back_byte_for_byte(shared, tmp_path, name):
    path = shared(f"tokenizers/tiktoken/{name}.tiktoken")
    ranks = read_ranks(path)
    assert len(ranks) == ENCODINGS[name].ranks
    write_ranks(tmp_path / "ranks", ranks)
    assert (tmp_path / "ranks").read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["ranks"]


def test_what_is_written_is_what_tiktoken_reads(tokenizer, tmp_path):
    load = pytest.importorskip("tiktoken.load", reason="tiktoken is not installed (make parity)")
    write_ranks(tmp_path / "ranks", ranks_of(tokenizer.vocabulary))
    assert load.load_tiktoken_bpe(str(tmp_path / "ranks")) == tokenizer.vocabulary.vocabulary


@pytest.mark.parametrize("name", ENCODINGS)
def test_special_tokens_are_those_of_tiktoken(name, monkeypatch):
    public = pytest.importorskip("tiktoken_ext.openai_public", reason="tiktoken is not installed (make parity)")
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
    monkeypatch.setattr(public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
    theirs = public.ENCODING_CONSTRUCTORS[name]()["special_tokens"]
    # It gives one id two names.
    theirs.pop("<|reserved_200018|>", None)
    assert ENCODINGS[name].special_tokens == theirs


def test_a_trained_vocabulary_has_ranks(tokenizer):
    assert ranks_of(tokenizer.vocabulary) == tokenizer.vocabulary.vocabulary
    by_ranks = ByteLevelBPE.from_ranks(tokenizer.vocabulary.vocabulary)
    assert ranks_of(by_ranks) == by_ranks.vocabulary


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    "vocabulary, merges, message",
    [
        (
            BYTES | {b"ab": 256, b"cd": 257},
            [(b"c", b"d"), (b"a", b"b")],
            "^the merges don't make tokens in the order of their ids",
        ),
        (
            {token: i + 1 for token, i in BYTES.items()} | {b"ab": 0},
            [(b"a", b"b")],
            "^the ids of the bytes are not below those of the merged tokens",
        ),
    ],
)
def test_merges_that_ranks_can_not_express(vocabulary, merges, message):
    with pytest.raises(ValueError, match=message):
        ranks_of(ByteLevelBPE(vocabulary, merges))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "ranks: has no tokens; expected lines of a token in base64 and its rank$"),
        (b"YQ== 0\nYg==\n", r"ranks, line 2: expected a token in base64, a space and its rank, found b'Yg=='$"),
        (b"YQ== 0\n\nYg== one\n", "ranks, line 3: expected a token"),
        (b"YQ== -1\n", "ranks, line 1: expected a token"),
        (b"YQ== 99999999999999999999\n", "ranks, line 1: expected a token"),
        (b"YQ== 0 1\n", "ranks, line 1: expected a token"),
        (b"Y! 0\n", "ranks, line 1: expected a token"),
        (b"Y!Q== 0\n", "ranks, line 1: expected a token"),
        (b"YQ== 0\nYQ== 1\n", "ranks, line 2: the token b'a' is there already, with rank 0$"),
        (b"YQ== 0\nYg== 0\n", "ranks, line 2: the rank 0 is there already, in line 1$"),
        (b"\xff\xfe\x00\x01", "ranks, line 1: expected a token"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "ranks").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_ranks(tmp_path / "ranks")


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"^{path}: there is no rank file here$"):
            read_ranks(path)


def test_an_unknown_encoding_and_one_that_does_not_fit(tmp_path):
    write_ranks(tmp_path / "ranks", BYTES)
    with pytest.raises(ValueError, match="^the encoding 'gpt5' is unknown; known are r50k_base, p50k_base"):
        read_tiktoken(tmp_path / "ranks", "gpt5")
    with pytest.raises(ValueError, match="ranks: has 256 tokens, but cl100k_base has 100,256$"):
        read_tiktoken(tmp_path / "ranks", "cl100k_base")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_ranks(tmp_path / "ranks", BYTES)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_ranks(tmp_path / "ranks", {b"a": 0})
    assert read_ranks(tmp_path / "ranks") == BYTES
    assert len(list(tmp_path.iterdir())) == 1


def test_an_encoding_as_a_whole(shared):
    tokenizer = read_tiktoken(shared("tokenizers/tiktoken/cl100k_base.tiktoken"), "cl100k_base")
    assert tokenizer.encode("hello world") == [15339, 1917]
    assert tokenizer.vocab_size == 100277 and tokenizer.end_of_text == 100257
    assert tokenizer.encode(END_OF_TEXT, allowed_special="all") == [100257]
    assert base64.b64encode(tokenizer.token_bytes(1917)) == b"IHdvcmxk"
