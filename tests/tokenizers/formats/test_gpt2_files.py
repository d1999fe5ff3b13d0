import json

import pytest

from jaxllm.tokenizers import END_OF_TEXT, TokenizerConfig, train
from jaxllm.tokenizers.formats.gpt2_files import read_gpt2, read_merges, write_gpt2
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS


def test_gpt2_as_it_was_released(shared):
    tokenizer = read_gpt2(shared("tokenizers/gpt2/vocab.bpe").parent)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)
    assert tokenizer.encode("Hello, world!") == [15496, 11, 995, 0]


def test_files_come_back(shared, tmp_path):
    directory = shared("tokenizers/gpt2/vocab.bpe").parent
    write_gpt2(tmp_path, read_gpt2(directory))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    assert (tmp_path / "merges.txt").read_bytes() == (directory / "vocab.bpe").read_bytes()
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads((directory / "encoder.json").read_text())


def test_the_tokenizers_library_reads_what_is_written(tokenizer, texts, tmp_path):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    gpt2 = train(TokenizerConfig(vocab_size=700, split="gpt2"), texts)
    write_gpt2(tmp_path, gpt2)
    theirs = library.ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    for text in texts:
        assert gpt2.encode(text) == theirs.encode(text).ids


def test_another_pattern_and_special_tokens(tokenizer, texts, tmp_path):
    write_gpt2(tmp_path, tokenizer)
    again = read_gpt2(tmp_path, split=SPLIT_PATTERNS["cl100k"])
    assert again.fingerprint() == tokenizer.fingerprint()
    ids = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(ids | {"<|pad|>": 1000}))
    more = read_gpt2(tmp_path, special_tokens=(END_OF_TEXT, "<|pad|>"))
    assert more.special_tokens == {END_OF_TEXT: 999, "<|pad|>": 1000}
    assert more.end_of_text == 999


def test_line_ends_of_windows_and_a_first_line_without_a_version(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\r\na Ĭ\r\nà Ń\r\n", encoding="utf-8", newline="")
    assert read_merges(tmp_path / "merges.txt") == [(b"a", b"\x8a"), (b"\xe0", b"\xad")]
    (tmp_path / "merges.txt").write_text("# #\n#version :", encoding="utf-8")
    assert read_merges(tmp_path / "merges.txt") == [(b"#", b"#"), (b"#version", b":")]


@pytest.mark.parametrize(
    "merges, message",
    [
        ("a\n", r"merges.txt, line 1: expected two tokens and a space between, found 'a'$"),
        ("#version: 0.2\na b c\n", "merges.txt, line 2: expected two tokens"),
        ("a b\n c\n", "merges.txt, line 2: expected two tokens"),
        ("a 日\n", "merges.txt, line 1: '日' is not written in the byte alphabet: it has the character '日'$"),
        ("a b\n", "vocab.json and merges.txt: merge 0, of b'a' and b'b': b'ab' is not in the vocabulary$"),
    ],
)
def test_damaged_merges(tokenizer, tmp_path, merges, message):
    write_gpt2(tmp_path, train(TokenizerConfig(kind="byte"), []))
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_gpt2(tmp_path)


@pytest.mark.parametrize(
    "vocabulary, message",
    [
        ("[]", "vocab.json: expected a JSON object, found list$"),
        ('{"a": 0, "a": 1}', "vocab.json: is not a readable JSON file: the key 'a' occurs twice"),
        ('{"a": "0"}', "vocab.json: the id of 'a' is '0', not an integer$"),
        ('{"a": 0}', r"vocab.json: the special tokens \['<\|endoftext\|>'\] have no id; name those that the vocab"),
        ('{"日": 0, "<|endoftext|>": 1}', "vocab.json: '日' is not written in the byte alphabet"),
        (
            '{"a": 0, "b": 0, "<|endoftext|>": 1}',
            "vocab.json and merges.txt: the tokens b'a' and b'b' have the same id 0$",
        ),
    ],
)
def test_damaged_vocabularies(tmp_path, vocabulary, message):
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "vocab.json").write_text(vocabulary, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_gpt2(tmp_path)


def test_files_that_are_not_there(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="has neither vocab.json nor encoder.json; a byte-level BPE of GPT-2's kind"):
        read_gpt2(tmp_path)
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(ValueError, match="has neither merges.txt nor vocab.bpe"):
        read_gpt2(tmp_path)
    (tmp_path / "vocab.bpe").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="vocab.bpe: is not UTF-8 text"):
        read_merges(tmp_path / "vocab.bpe")


def test_what_these_files_can_not_hold(shared, texts, tmp_path):
    with pytest.raises(ValueError, match="^vocab.json and merges.txt hold a byte-level BPE, not a WordLevel$"):
        write_gpt2(tmp_path, train(TokenizerConfig(kind="word", vocab_size=100), texts))
    by_ranks = train(TokenizerConfig(vocab_size=300), texts)
    by_ranks = by_ranks.replace(vocabulary=type(by_ranks.vocabulary).from_ranks(by_ranks.vocabulary.vocabulary))
    with pytest.raises(ValueError, match=r"can't say that a whole piece .* \(ignore_merges\); write tokenizer.json"):
        write_gpt2(tmp_path, by_ranks)
    assert not list(tmp_path.iterdir())
