import json
import os

import pytest

from jaxllm.tokenizers.formats import storage


def write(directory, description) -> None:
    storage.write(directory, {storage.FILE_NAME: storage.dump(description).encode()})


def files(directory) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def test_the_directory_is_made_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "a" / "tokenizer", {"type": "x", "text": "é\u2028\n"})
    assert files(tmp_path) == ["a", "a/tokenizer", "a/tokenizer/tokenizer.json"]
    expected = tmp_path / "a" / "tokenizer" / "tokenizer.json", {"type": "x", "text": "é\u2028\n"}
    assert storage.read(tmp_path / "a" / "tokenizer") == expected
    assert storage.read(tmp_path / "a" / "tokenizer" / "tokenizer.json") == expected


def test_other_files_in_the_directory_stay(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    write(tmp_path, {"n": 1})
    write(tmp_path, {"n": 2})
    assert files(tmp_path) == ["note.txt", "tokenizer.json"]
    assert storage.read(tmp_path)[1] == {"n": 2}


@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, existing):
    directory = tmp_path / "tokenizer"
    if existing:
        write(directory, {"n": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(directory, {"n": 2})
    assert files(tmp_path) == (["tokenizer", "tokenizer/tokenizer.json"] if existing else [])
    if existing:
        assert storage.read(directory)[1] == {"n": 1}


def test_a_new_directory_appears_with_its_file(tmp_path, monkeypatch):
    """Whoever takes a directory for a finished tokenizer is right, even if this process is stopped before the end."""

    def stop(*_):
        raise OSError(5, "stopped")

    monkeypatch.setattr(os, "replace", stop)
    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(OSError, match="stopped"):
        write(tmp_path / "tokenizer", {})
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no tokenizer here; name the directory of a tokenizer.json"),
        ("", "is not a readable JSON file: Expecting value"),
        ('{"a": 1', "is not a readable JSON file: Expecting ',' delimiter"),
        ("[" * 100_000, "is not a readable JSON file: maximum recursion depth"),
        ("[1]", "expected a JSON object, found list"),
        ('{"vocab": {"a": 1, "b": 2, "a": 3}}', "is not a readable JSON file: the key 'a' occurs twice in one object"),
        (b"\xff{}", "is not a readable JSON file: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path, content, message):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"^{file}: {message}"):
        storage.read(tmp_path)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path / 'x'}: there is no tokenizer here"):
        storage.read(tmp_path / "x")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ValueError, match="there is no tokenizer here"):
        storage.read(tmp_path / "file" / "below")


def test_what_is_written_is_plain_json(tmp_path):
    write(tmp_path, {"vocab": {"Ġthe": 1}})
    assert "Ġthe" in (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "tokenizer.json").read_bytes()) == {"vocab": {"Ġthe": 1}}
