import pytest

from jaxllm.tokenizers.formats.bert_vocab import read_vocab, write_vocab


def test_berts_own_file_comes_back_byte_for_byte(shared, tmp_path):
    path = shared("tokenizers/bert/vocab.txt")
    vocab = read_vocab(path)
    assert len(vocab) == 30522
    assert (vocab["[PAD]"], vocab["[UNK]"], vocab["the"], vocab["##s"]) == (0, 100, 1996, 2015)
    write_vocab(tmp_path / "vocab.txt", vocab)
    assert (tmp_path / "vocab.txt").read_bytes().rstrip(b"\n") == path.read_bytes().rstrip(b"\n")


def test_the_transformers_library_reads_what_is_written(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (make parity)")
    vocab = {"[UNK]": 0, "[SEP]": 1, "[PAD]": 2, "[CLS]": 3, "[MASK]": 4, "über": 5, "##\u2028x": 6, "a": 7}
    write_vocab(tmp_path / "vocab.txt", vocab)
    assert transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).get_vocab() == vocab
    assert read_vocab(tmp_path / "vocab.txt") == vocab


def test_line_ends_of_windows_and_no_end_at_the_end(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\r\na\r\n\x85".encode())
    assert read_vocab(path) == {"[UNK]": 0, "a": 1, "\x85": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no tokens; expected a token on each line"),
        (b"a\nb\na\n", "line 3 has the token 'a', which line 1 has too"),
        (b"a\n\xff\n", "is not UTF-8: invalid start byte at byte 2"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_vocab(path)


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ({"a": 0, "b": 2}, "the ids of a vocab.txt are 0 .. 1, each once, but none of the tokens has 1"),
        ({"a\nb": 0}, r"the token 'a\\nb' can't be a line of a vocab.txt"),
        ({"": 0}, "the token '' can't be a line of a vocab.txt"),
        ({"a\r": 0}, r"the token 'a\\r' can't be a line of a vocab.txt"),
    ],
)
def test_vocabularies_that_are_refused_leave_the_file_alone(tmp_path, vocab, message):
    path = tmp_path / "vocab.txt"
    path.write_text("old\n")
    with pytest.raises(ValueError, match=message):
        write_vocab(path, vocab)
    assert path.read_text() == "old\n"
