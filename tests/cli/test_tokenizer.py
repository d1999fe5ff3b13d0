"""`jaxllm tokenizer` from the command line, on real text."""

import io
from pydoc_data.topics import topics

import pytest

from jaxllm import tokenizers
from jaxllm.cli.main import main


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "topics.txt"
    file.write_text("\n".join(topics[name] for name in ("class", "for", "import")), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trained(text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "bpe"
    assert main(["tokenizer", "train", "--data", str(text_file), "--out", str(out), "--vocab_size=500"]) == 0
    return out


def run(capsys, *arguments) -> str:
    assert main(["tokenizer", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_training_says_what_was_made(text_file, tmp_path, capsys):
    out = run(capsys, "train", "--data", text_file, "--out", tmp_path / "t", "--kind=unigram", "--vocab_size", "600")
    assert out == f"{tmp_path / 't'}: unigram, 600 tokens, from {text_file.stat().st_size:,} bytes of text\n"
    assert tokenizers.load(tmp_path / "t").vocab_size == 600


def test_training_in_processes_gives_the_same(text_file, trained, tmp_path, capsys):
    run(capsys, "train", "--data", text_file, "--out", tmp_path / "t", "--vocab_size=500", "--processes", "2")
    assert (tmp_path / "t" / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_ids_and_back(trained, capsys, monkeypatch):
    tokenizer = tokenizers.load(trained)
    text = "class Path: naïve <|endoftext|>"
    assert run(capsys, "encode", trained, text).split() == list(map(str, tokenizer.encode(text)))
    special = run(capsys, "encode", trained, text, "--allow-special").split()
    assert special[-1] == str(tokenizer.end_of_text)
    assert run(capsys, "decode", trained, *special) == "class Path: naïve \n"
    assert run(capsys, "decode", trained, ",".join(special), "--show-special") == text + "\n"
    assert run(capsys, "encode", trained, "é x", "--offsets").splitlines()[0].endswith("\t0\t1\t'é'")


def test_standard_input(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("for é\n".encode())))
    ids = run(capsys, "encode", trained)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ids.encode())))
    assert run(capsys, "decode", trained) == "for é\n\n"


def test_looking_into_one(trained, text_file, capsys):
    shown = run(capsys, "inspect", trained)
    assert "500 ids, ByteLevelBPE" in shown and "special tokens: <|endoftext|> 499" in shown
    shown = run(capsys, "inspect", trained, "--text", "the class", "--word", " the")
    assert "2 tokens, 9 characters, 9 bytes: 4.50 bytes per token" in shown
    assert "' the' begins as Ġ t h e" in shown and "->  Ġthe" in shown
    shown = run(capsys, "inspect", trained, "--data", text_file, "--unreachable", "--limit", "3")
    assert "most common: " in shown and "unused: " in shown and "are out of reach: none" in shown


def test_comparing(trained, text_file, tmp_path, capsys):
    plot = tmp_path / "p.png"
    shown = run(capsys, "compare", trained, f"same={trained}", "--data", f"topics={text_file}", "--plot", plot)
    rows = [line.split() for line in shown.splitlines() if line.startswith("topics")]
    assert [row[1] for row in rows] == ["bpe", "same"] and rows[0][2:] == rows[1][2:]
    assert plot.read_bytes().startswith(b"\x89PNG")
    own = run(capsys, "compare", trained, "--reference", "English")
    assert {"Arabic", "Chinese", "Korean", "code", "documentation"} <= {line.split()[0] for line in own.splitlines()}


def test_converting(trained, tmp_path, capsys):
    run(capsys, "convert", trained, tmp_path / "gpt2", "--to", "gpt2")
    assert tokenizers.load(tmp_path / "gpt2").encode("a class") == tokenizers.load(trained).encode("a class")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "nowhere", "x"], "error: nowhere: there is no tokenizer here"),
        (["decode", "{trained}", "5", "x"], "error: ids are whole numbers with spaces or commas between them"),
        (["decode", "{trained}", "500"], "error: id 500 is not in the vocabulary, whose ids are 0 .. 499"),
        (["train", "--data", "nowhere.txt", "--out", "{new}"], "nowhere.txt"),
        (["train", "--data", "{text}", "--out", "{trained}"], "exists already; name another place, or remove it first"),
        (
            ["train", "--data", "{text}", "--out", "{new}", "--vocab_size=90000"],
            "vocab_size can be at most",
        ),
        (
            ["convert", "{trained}", "{new}", "--to", "bert"],
            "error: the format bert is for WordPiece",
        ),
        (["compare", "{trained}", "{trained}"], "error: two are named 'bpe'; give them names: NAME="),
        (["compare", "{trained}", "--reference", "Klingon"], "error: there is no text 'Klingon'; there are English"),
        (["compare", "{trained}", "--data", "t={text}", "--plot", "p.gif"], "its name must end in .png, .svg, .pdf"),
        (["inspect", "{trained}", "--limit", "0"], "error: --limit must be at least 1, got 0"),
    ],
)
def test_bad_input(arguments, message, trained, text_file, tmp_path, capsys):
    places = {"trained": trained, "text": text_file, "new": tmp_path / "new"}
    assert main(["tokenizer", *(argument.format(**places) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err, captured.err
    assert not (tmp_path / "new").exists()


def test_a_vocabulary_smaller_than_the_bytes(text_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tokenizer", "train", "--data", str(text_file), "--out", str(tmp_path / "new"), "--vocab_size=200"])
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    assert "smaller than the byte alphabet" in " ".join(capsys.readouterr().err.replace("│", " ").split())
