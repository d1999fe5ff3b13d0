import hashlib
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxllm.data.atomic import new_directory
from jaxllm.data.documents import Document
from jaxllm.data.token_store import TokenStore, TokenStoreError, create_token_store, write_token_store

TEXTS = ["hello", "", "zwölf 🙂", "x"]


def documents(texts=TEXTS):
    return [Document(f"d{i}", text) for i, text in enumerate(texts)]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "made" / "store"


def left_behind(directory) -> list[str]:
    return os.listdir(directory.parent) if directory.parent.exists() else []


def test_what_was_written_is_read(directory, tokenizer):
    store = write_token_store(directory, documents(), tokenizer, source="a test")
    assert store.documents == 3 and store.manifest.empty_documents == 1
    assert [bytes(store.tokens_of(i).tolist()).decode() for i in range(3)] == ["hello", "zwölf 🙂", "x"]
    assert store.num_tokens == store.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert store.lengths.tolist() == store.document_bytes.tolist() == [5, 11, 1]
    assert store.end_of_text == 256 and store.manifest.source == "a test"
    store.verify()
    assert left_behind(directory) == ["store"]


SHARD = ["bytes.bin", "id_offsets.bin", "ids.bin", "manifest.json", "offsets.bin", "tokens.bin"]


def test_the_files_are_what_the_description_says(directory, tokenizer):
    write_token_store(directory, documents(), tokenizer)
    assert sorted(os.listdir(directory)) == ["manifest.json", "shard-00000"]
    shard = directory / "shard-00000"
    assert sorted(os.listdir(shard)) == SHARD
    raw = (shard / "tokens.bin").read_bytes()
    assert raw == b"".join(bytes([byte, 0]) for byte in "".join(TEXTS).encode())
    assert (shard / "offsets.bin").read_bytes() == b"".join(n.to_bytes(8, "little") for n in (0, 5, 16, 17))
    assert (shard / "ids.bin").read_bytes() == b"d0d2d3"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(raw).hexdigest()
    assert manifest["tokenizer"] == tokenizer.fingerprint()
    assert manifest["shards"]["shard-00000"] == json.loads((shard / "manifest.json").read_text())


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "<u2"), (65_537, "<u4")])
def test_ids_are_as_wide_as_the_vocabulary_needs(directory, tokenizer, vocab_size, dtype):
    largest = type(tokenizer)(vocab_size=vocab_size)
    largest.encode_batch = lambda texts: [[vocab_size - 1, 0] for _ in texts]
    store = write_token_store(directory, documents(["x"]), largest)
    assert store.manifest.dtype == dtype and store.tokens_of(0).tolist() == [vocab_size - 1, 0]


def test_documents_are_encoded_in_chunks_and_stay_in_order(directory, tokenizer):
    sizes = []
    encode = tokenizer.encode_batch
    tokenizer.encode_batch = lambda texts: sizes.append(len(texts)) or encode(texts)
    store = write_token_store(directory, (Document(str(i), str(i)) for i in range(2500)), tokenizer)
    assert sizes == [1024, 1024, 452]
    assert [bytes(store.tokens_of(i).tolist()).decode() for i in range(2500)] == [str(i) for i in range(2500)]


def test_the_map_is_read_only(directory, tokenizer):
    store = write_token_store(directory, documents(), tokenizer)
    with pytest.raises(ValueError, match="read-only"):
        store.tokens_of(0)[0] = 1


def test_an_error_while_writing_leaves_nothing(directory, tokenizer):
    def failing():
        yield from documents()
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_token_store(directory, failing(), tokenizer)
    assert left_behind(directory) == []


def test_a_full_disk_leaves_nothing(directory, tokenizer, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_token_store(directory, documents(), tokenizer)
    assert left_behind(directory) == []


def test_a_store_comes_complete_by_one_rename(directory, tokenizer, monkeypatch):
    renamed = []
    rename = os.rename

    def watched(staged, target):
        renamed.append((sorted(os.listdir(staged)), os.path.exists(target)))
        rename(staged, target)

    monkeypatch.setattr(os, "rename", watched)
    write_token_store(directory, documents(), tokenizer)
    assert renamed == [(SHARD, False), (["manifest.json", "shard-00000"], False)]


def test_a_killed_writer_leaves_no_store_and_the_next_one_succeeds(directory, tokenizer):
    program = textwrap.dedent(f"""
        import itertools, types
        from jaxllm.data import Document, write_token_store
        tokenizer = types.SimpleNamespace(
            vocab_size=9, end_of_text=8, fingerprint=str,
            encode_batch=lambda texts: print(flush=True) or [[1] * 99] * len(texts),
        )
        write_token_store({str(directory)!r}, (Document(str(i), "text") for i in itertools.count()), tokenizer)
    """)
    writing = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    for _ in range(5):
        assert writing.stdout.readline()
    writing.kill()
    writing.wait(timeout=30)
    writing.stdout.close()
    assert not directory.exists()
    assert write_token_store(directory, documents(), tokenizer).documents == 3


def test_a_store_that_is_there_is_not_touched(directory, tokenizer):
    write_token_store(directory, documents(), tokenizer)
    before = (directory / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="already exists; open it, name another directory, or remove it"):
        write_token_store(directory, documents(["other"]), tokenizer)
    assert (directory / "manifest.json").read_bytes() == before
    assert left_behind(directory) == ["store"]


def test_nothing_is_there_before_the_end(directory, tokenizer):
    with create_token_store(directory, tokenizer) as writer:
        writer.add(Document("a", "text"))
        assert not directory.exists()
    assert TokenStore.open(directory).documents == 1


def test_an_empty_directory_is_filled(directory, tokenizer):
    directory.mkdir(parents=True)
    assert write_token_store(directory, documents(), tokenizer).documents == 3


def test_new_directory_keeps_subfolders_and_refuses_a_file(tmp_path):
    with new_directory(tmp_path / "new") as staged:
        (staged / "a").mkdir()
        (staged / "a" / "b").write_text("x")
    assert (tmp_path / "new" / "a" / "b").read_text() == "x"
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="already exists"), new_directory(tmp_path / "file"):
        pass


def test_no_text_is_an_error(directory, tokenizer):
    with pytest.raises(TokenStoreError, match="nothing to store: 2 documents, none of them with text"):
        write_token_store(directory, documents(["", ""]), tokenizer)
    assert left_behind(directory) == []


def test_an_id_outside_the_vocabulary_is_an_error(directory, tokenizer):
    for wrong in (257, -1):
        tokenizer.encode_batch = lambda texts, wrong=wrong: [[1, wrong] for _ in texts]
        with pytest.raises(
            TokenStoreError, match=f"document 'd0': the tokenizer gave id {wrong}, outside its vocabulary of 257"
        ):
            write_token_store(directory, documents(["x"]), tokenizer)
    assert left_behind(directory) == []


def test_another_tokenizer_is_refused_by_name(directory, tokenizer):
    write_token_store(directory, documents(), tokenizer)
    TokenStore.open(directory, tokenizer=tokenizer)
    other = type(tokenizer)(salt="other")
    with pytest.raises(TokenStoreError) as caught:
        TokenStore.open(directory, tokenizer=other)
    assert tokenizer.fingerprint() in str(caught.value) and other.fingerprint() in str(caught.value)


def test_documents_that_are_not_there(directory, tokenizer):
    store = write_token_store(directory, documents(), tokenizer)
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match=f"documents 0 .. 2, asked for {wrong}"):
            store.tokens_of(wrong)


@pytest.mark.parametrize("name", [name for name in SHARD if name != "manifest.json"])
def test_missing_short_and_long_files_are_refused(directory, tokenizer, name):
    write_token_store(directory, documents(), tokenizer)
    directory = directory / "shard-00000"
    whole = (directory / name).read_bytes()
    for content in (whole[:-1], whole + b"x"):
        (directory / name).write_bytes(content)
        with pytest.raises(TokenStoreError, match=f"{name}: expected {len(whole)} bytes, found {len(content)}"):
            TokenStore.open(directory.parent)
    (directory / name).unlink()
    with pytest.raises(TokenStoreError, match=f"{name}: expected {len(whole)} bytes, found no file"):
        TokenStore.open(directory.parent)


@pytest.mark.parametrize("name", ["tokens.bin", "bytes.bin", "ids.bin"])
def test_changed_bytes_are_found_by_verify(directory, tokenizer, name):
    write_token_store(directory, documents(), tokenizer)
    raw = bytearray((directory / "shard-00000" / name).read_bytes())
    raw[4] ^= 1
    (directory / "shard-00000" / name).write_bytes(raw)
    with pytest.raises(TokenStoreError, match=f"{name} has SHA-256"):
        TokenStore.open(directory).verify()


def test_changed_offsets_are_refused(directory, tokenizer):
    write_token_store(directory, documents(), tokenizer)
    for wrong in ([0, 5, 16, 18], [1, 5, 16, 17], [0, 20, 16, 17]):
        np.array(wrong, "<i8").tofile(directory / "shard-00000" / "offsets.bin")
        with pytest.raises(TokenStoreError, match="offsets.bin is damaged"):
            _ = TokenStore.open(directory).lengths


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: m.update(format=3), "has format 3, this version reads formats 1 and 2"),
        (lambda m: m.pop("tokens"), r"the fields \['tokens'\] are missing or unknown"),
        (lambda m: m.update(more=1), r"the fields \['more'\] are missing or unknown"),
        (lambda m: m.update(dtype="object"), "dtype must be"),
    ],
)
def test_other_manifests_are_refused(directory, tokenizer, change, complaint):
    write_token_store(directory, documents(), tokenizer)
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TokenStoreError, match=complaint):
        TokenStore.open(directory)


def test_the_first_format_is_still_read(tmp_path, tokenizer):
    np.array([104, 105, 120], "<u2").tofile(tmp_path / "tokens.bin")
    np.array([0, 2, 3], "<i8").tofile(tmp_path / "offsets.bin")
    np.array([2, 1], "<i8").tofile(tmp_path / "bytes.bin")
    manifest = {
        "format": 1, "documents": 2, "empty_documents": 1, "tokens": 3, "bytes": 3, "dtype": "<u2", "vocab_size": 257,
        "end_of_text": 256, "tokenizer": tokenizer.fingerprint(), "source": "once",
        "sha256": hashlib.sha256((tmp_path / "tokens.bin").read_bytes()).hexdigest(),
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    store = TokenStore.open(tmp_path, tokenizer=tokenizer)
    assert [store.tokens_of(i).tolist() for i in range(2)] == [[104, 105], [120]]
    assert store.lengths.tolist() == store.document_bytes.tolist() == [2, 1] and store.num_bytes == 3
    assert store.id_of(1) == "1" and store.fingerprint == manifest["sha256"]
    store.verify()
    (tmp_path / "bytes.bin").write_bytes(b"")
    with pytest.raises(TokenStoreError, match="bytes.bin: expected 16 bytes, found 0"):
        TokenStore.open(tmp_path)


def test_what_is_no_store_is_refused(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TokenStoreError, match="is not a token store: it has no manifest.json"):
            TokenStore.open(directory)
    for content in ("{", "[]"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(TokenStoreError, match="is not readable|has format None"):
            TokenStore.open(tmp_path)
