"""A store of several shards: compressed, resumed after a kill, traced to its documents."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxllm.data.atomic import alone
from jaxllm.data.documents import Document
from jaxllm.data.token_store import (
    Layout,
    TokenStore,
    TokenStoreError,
    join_shards,
    resume_token_store,
    write_shard,
    write_token_store,
)

DOCUMENTS = [Document(f"source/ä{i}.txt", "abcdefghij"[: 1 + i % 10] * (i % 4)) for i in range(60)]
FULL = [document for document in DOCUMENTS if document.text]
PLAIN = Layout(shard_tokens=100)
PACKED = replace(PLAIN, compression="zstd", block_tokens=16)


def tree(directory) -> dict[str, str]:
    """The hash of every file below a directory, hidden ones included."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("layout", [PLAIN, PACKED])
def test_every_document_comes_back_from_its_shard(tmp_path, tokenizer, layout):
    store = write_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=layout)
    assert len(store.manifest.shards) == 5
    assert store.documents == len(FULL) and store.manifest.empty_documents == len(DOCUMENTS) - len(FULL)
    assert [bytes(store.tokens_of(i).tolist()).decode() for i in range(store.documents)] == [d.text for d in FULL]
    assert [store.id_of(i) for i in range(store.documents)] == [d.name for d in FULL]
    assert store.lengths.tolist() == store.document_bytes.tolist() == [len(d.text) for d in FULL]
    assert all(store.lengths_of(a, b).tolist() == store.lengths.tolist()[a:b] for a, b in [(0, 3), (7, 31), (40, 40)])
    assert store.num_tokens == sum(len(d.text) for d in FULL)
    store.verify()


def test_compression_changes_nothing_that_is_read(tmp_path, tokenizer):
    plain, packed = (
        write_token_store(tmp_path / each.compression, DOCUMENTS, tokenizer, layout=each) for each in (PLAIN, PACKED)
    )
    assert plain.fingerprint == packed.fingerprint
    random = np.random.default_rng(0)
    for _ in range(200):
        document = int(random.integers(plain.documents))
        begin, end = np.sort(random.integers(0, 40, 2)).tolist()
        np.testing.assert_array_equal(plain.read(document, begin, end), packed.read(document, begin, end))
    long = [Document("long", "abcd" * 5000)]
    small = write_token_store(tmp_path / "small", long, tokenizer, layout=Layout(compression="zstd"))
    assert (small.directory / "shard-00000" / "tokens.zst").stat().st_size < 1000


def test_a_range_of_tokens_is_traced_to_its_documents(tmp_path, tokenizer):
    lengths = [3, 0, 40, 1, 29, 30, 7, 0, 31]
    documents = [Document(f"d{i}", "x" * n) for i, n in enumerate(lengths)]
    store = write_token_store(tmp_path / "s", documents, tokenizer, layout=Layout(shard_tokens=30))
    owners = [(f"d{i}", at) for i, n in enumerate(lengths) for at in range(n)]
    for begin in range(0, len(owners) + 1, 2):
        for end in range(begin, len(owners) + 1, 5):
            traced = [(name, at) for name, low, high in store.trace(begin, end) for at in range(low, high)]
            assert traced == owners[begin:end]


def test_a_range_that_is_not_there(tmp_path, tokenizer):
    store = write_token_store(tmp_path / "s", DOCUMENTS, tokenizer)
    with pytest.raises(IndexError, match="the store has tokens 0 .. "):
        store.trace(0, store.num_tokens + 1)


# Taking up


class Killed(BaseException):
    pass


def until(count):
    yield from DOCUMENTS[:count]
    raise Killed


@pytest.mark.parametrize("layout", [PLAIN, PACKED])
@pytest.mark.parametrize("killed_at", [0, 1, 17, 30, 59, 60])
def test_a_writer_that_was_ended_anywhere_goes_on_to_the_same_bytes(
    tmp_path, tokenizer, layout, killed_at, monkeypatch
):
    monkeypatch.setattr("jaxllm.data.shard_writer._CHUNK_DOCUMENTS", 4)
    whole = write_token_store(tmp_path / "whole", DOCUMENTS, tokenizer, layout=layout)
    with pytest.raises(Killed):
        resume_token_store(tmp_path / "s", until(killed_at), tokenizer, layout=layout)
    assert not (tmp_path / "s" / "manifest.json").exists()
    finished = {name: path.stat().st_mtime_ns for name in os.listdir(tmp_path / "s") if (path := tmp_path / "s" / name)}
    store = resume_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=layout)
    assert tree(tmp_path / "s") == tree(whole.directory)
    assert all((tmp_path / "s" / name).stat().st_mtime_ns == then for name, then in finished.items())
    assert resume_token_store(tmp_path / "s", iter(()), tokenizer).fingerprint == store.fingerprint, "it is complete"


def test_after_sigkill_the_bytes_are_the_same(tmp_path, tokenizer):
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from conftest import ByteTokenizer
        from jaxllm.data import shard_writer
        from jaxllm.data.token_store import resume_token_store
        from test_token_shards import DOCUMENTS, PACKED
        shard_writer._CHUNK_DOCUMENTS = 2
        def documents():
            for document in DOCUMENTS:
                print(flush=True)
                yield document
        resume_token_store({str(tmp_path / "s")!r}, documents(), ByteTokenizer(), layout=PACKED)
    """)
    writing = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    for _ in range(40):
        assert writing.stdout.readline()
    writing.send_signal(signal.SIGKILL)
    assert writing.wait(timeout=60) == -signal.SIGKILL
    writing.stdout.close()
    (tmp_path / "s" / ".shard-00099-left").mkdir(exist_ok=True)
    resume_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=PACKED)
    write_token_store(tmp_path / "whole", DOCUMENTS, tokenizer, layout=PACKED)
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")
    assert not (tmp_path / "s" / ".shard-00099-left").exists()


def test_other_documents_another_tokenizer_and_another_layout_are_refused(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("jaxllm.data.shard_writer._CHUNK_DOCUMENTS", 4)
    with pytest.raises(Killed):
        resume_token_store(tmp_path / "s", until(50), tokenizer, layout=PLAIN)
    before = tree(tmp_path / "s")
    for documents in (DOCUMENTS[1:], DOCUMENTS[:5]):
        with pytest.raises(TokenStoreError, match="shard-00000: was made from other documents than those given now"):
            resume_token_store(tmp_path / "s", documents, tokenizer, layout=PLAIN)
    other = type(tokenizer)(salt="other")
    with pytest.raises(TokenStoreError, match=f"but the tokenizer in use is {other.fingerprint()}"):
        resume_token_store(tmp_path / "s", DOCUMENTS, other, layout=PLAIN)
    with pytest.raises(TokenStoreError, match=r"shard-00000: was written with compression.*\('none', 0, ''\)"):
        resume_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=PACKED)
    assert tree(tmp_path / "s") == before


def test_one_writer_at_a_time(tmp_path, tokenizer):
    def documents():
        yield from DOCUMENTS
        with pytest.raises(ValueError, match="another process is writing to"):
            resume_token_store(tmp_path / "s", DOCUMENTS, tokenizer)

    assert resume_token_store(tmp_path / "s", documents(), tokenizer).documents == len(FULL)


def test_a_full_disk_ends_a_shard_and_leaves_those_before(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("jaxllm.data.shard_writer._CHUNK_DOCUMENTS", 4)
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 20:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            resume_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=PLAIN)
    assert sorted(os.listdir(tmp_path / "s")) == ["shard-00000", "shard-00001"]
    resume_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=PLAIN)
    assert tree(tmp_path / "s") == tree(write_token_store(tmp_path / "w", DOCUMENTS, tokenizer, layout=PLAIN).directory)


# Shards by any process


def test_shards_written_in_any_order_are_joined(tmp_path, tokenizer):
    parts = {"b": DOCUMENTS[20:40], "a": DOCUMENTS[:20], "empty": [Document("e", "")], "c": DOCUMENTS[40:]}
    for name, documents in parts.items():
        write_shard(tmp_path / name, iter(documents), tokenizer, layout=PACKED)
    store = join_shards(tmp_path, ["a", "empty", "b", "c"], source="four")
    assert [bytes(store.tokens_of(i).tolist()).decode() for i in range(store.documents)] == [d.text for d in FULL]
    assert [store.id_of(i) for i in (0, store.documents - 1)] == [FULL[0].name, FULL[-1].name]
    assert store.manifest.empty_documents == len(DOCUMENTS) - len(FULL) + 1
    store.verify()
    before = tree(tmp_path)
    assert write_shard(tmp_path / "b", None, tokenizer, layout=PACKED).documents == len(
        [d for d in parts["b"] if d.text]
    )
    assert tree(tmp_path) == before


def test_shards_that_do_not_belong_together(tmp_path, tokenizer):
    write_shard(tmp_path / "a", DOCUMENTS, tokenizer)
    write_shard(tmp_path / "b", DOCUMENTS, type(tokenizer)(salt="other"))
    with pytest.raises(TokenStoreError, match="shard b was made otherwise than shard a"):
        join_shards(tmp_path, ["a", "b"])
    with pytest.raises(TokenStoreError, match="c: is not a shard of a token store: it has no manifest.json"):
        join_shards(tmp_path, ["a", "c"])
    with pytest.raises(TokenStoreError, match="there are no shards to join"):
        join_shards(tmp_path, [])
    with pytest.raises(TokenStoreError, match=r"b: was made with tokenizer"):
        write_shard(tmp_path / "b", DOCUMENTS, tokenizer)
    write_shard(tmp_path / "nothing", [], tokenizer)
    with pytest.raises(TokenStoreError, match="there is nothing to store: 0 documents"):
        join_shards(tmp_path, ["nothing"])
    assert not (tmp_path / "manifest.json").exists()


# Damage


def test_damaged_blocks_are_named(tmp_path, tokenizer):
    layout = Layout(compression="zstd", block_tokens=16)
    store = write_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=layout)
    path = tmp_path / "s" / "shard-00000" / "tokens.zst"
    raw = bytearray(path.read_bytes())
    begin = np.fromfile(path.with_name("blocks.bin"), "<i8")[3]
    raw[begin : begin + 8] = b"\0" * 8
    path.write_bytes(raw)
    damaged = TokenStore.open(tmp_path / "s")
    assert damaged.tokens_of(0).tolist() == store.tokens_of(0).tolist()
    with pytest.raises(TokenStoreError, match=r"tokens.zst: block 3 is damaged"):
        for document in range(damaged.documents):
            damaged.tokens_of(document)
    with pytest.raises(TokenStoreError, match="tokens.zst has SHA-256"):
        damaged.verify()
    np.array([0, 9, 3], "<i8").tofile(path.with_name("blocks.bin"))
    with pytest.raises(TokenStoreError, match="blocks.bin: expected"):
        TokenStore.open(tmp_path / "s")


def test_manifests_that_are_damaged(tmp_path, tokenizer):
    write_token_store(tmp_path / "s", DOCUMENTS, tokenizer)
    path = tmp_path / "s" / "manifest.json"
    stated = json.loads(path.read_text())
    del stated["shards"]["shard-00000"]["names"]
    path.write_text(json.dumps(stated))
    with pytest.raises(TokenStoreError, match=r"shard shard-00000: the fields \['names'\] are missing or unknown"):
        TokenStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"compression": "gzip"}, 'compression must be "none" or "zstd"'),
        ({"block_tokens": 0}, "block_tokens=0 and shard_tokens"),
        ({"shard_tokens": 0}, "shard_tokens=0 must be at least 1"),
    ],
)
def test_impossible_layouts(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        Layout(**fields)


def test_a_lock_is_not_that_of_a_file_which_is_gone(tmp_path, monkeypatch):
    real, first = fcntl.flock, alone(tmp_path)
    first.__enter__()

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", real)
        first.__exit__(None, None, None)  # the first writer ends between opening and locking
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with alone(tmp_path), pytest.raises(ValueError, match="another process"), alone(tmp_path):
        pass
