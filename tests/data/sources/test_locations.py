"""Sources at addresses that fsspec knows: the same documents as from the disk, and errors that say what is missing."""

import gzip
import json
import pickle
import sys

import fsspec
import pytest
from etils import epath

from jaxllm.data.documents import DocumentError, read_documents
from jaxllm.data.sources import Files

CONTENT = {
    "a.txt": b"text",
    "deep/b.jsonl.gz": gzip.compress(b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(3))),
    "deep/c.md": b"# title",
    ".hidden/d.txt": b"never",
    "e.bin": b"never",
}


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    store.store.clear()
    for name, content in CONTENT.items():
        store.pipe(f"/corpus/{name}", content)
    yield "memory://corpus"
    store.store.clear()


def test_a_store_reads_as_a_folder_does(tmp_path, memory):
    for name, content in CONTENT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    here = list(read_documents(str(tmp_path)))
    assert [document.name for document in here] == ["a.txt", *(f"deep/b.jsonl.gz:{i}" for i in (1, 2, 3)), "deep/c.md"]
    assert list(read_documents(memory)) == here
    assert list(read_documents(f"file://{tmp_path}")) == here
    assert list(read_documents(epath.Path(tmp_path))) == here
    assert [document.name for document in read_documents(f"{memory}/deep/*.gz")] == [
        f"b.jsonl.gz:{i}" for i in (1, 2, 3)
    ]
    assert [document.name for document in read_documents(f"{memory}/de*")] == [d.name for d in here[1:]]
    assert [document.name for document in read_documents(f"{memory}/a.txt")] == ["a.txt"]


def test_shards_of_a_store(memory):
    shards = Files(memory, shard_bytes=1).shards()
    assert [shard.name for shard in shards] == ["a.txt", "deep/b.jsonl.gz", "deep/c.md"]
    assert pickle.loads(pickle.dumps(shards)) == shards
    before = shards[0].version
    fsspec.filesystem("memory").pipe("/corpus/a.txt", b"other text")
    assert Files(memory, shard_bytes=1).shards()[0].version != before


def test_large_files_of_a_store_are_cut_too(memory):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fsspec.open("memory://tables/a.parquet", "wb") as file:
        pq.write_table(pa.table({"text": [f"row {i}" for i in range(1000)]}), file, row_group_size=100)
    shards = Files("memory://tables", shard_bytes=1000).shards()
    assert len(shards) > 3
    assert [d.text for shard in shards for d in shard.read()] == [f"row {i}" for i in range(1000)]


def test_addresses_that_lead_nowhere(memory, monkeypatch):
    for path, message in (
        ("memory://nothing", "no such file or folder"),
        (f"{memory}/*.pdf", "no file matches this pattern"),
        (f"{memory}/e.bin", "is of no supported kind"),
        ("nosuch://bucket/a.txt", "nosuch"),
    ):
        with pytest.raises(DocumentError, match=message):
            list(read_documents(path))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DocumentError, match="gcsfs"):
        list(read_documents("gs://bucket/a.txt"))


def test_a_file_that_is_gone_when_it_is_read(memory):
    [shard] = Files(memory).shards()
    fsspec.filesystem("memory").rm("/corpus/a.txt")
    problems = []
    assert [document.name for document in shard.read(problems.append)][-1] == "deep/c.md"
    assert "can't be read" in problems[0].message
