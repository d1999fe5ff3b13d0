"""Data sets through the library `datasets`: what comes without it, and with it from files."""

import json
import pickle
import sys

import pytest

from jaxllm.data.documents import DocumentError
from jaxllm.data.sources import HuggingFaceDataset


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = HuggingFaceDataset("HuggingFaceFW/fineweb-edu")
    assert source.name == "HuggingFaceFW/fineweb-edu"
    with pytest.raises(
        DocumentError, match=r"fineweb-edu: needs the library datasets.*pip install 'jaxllm\[datasets\]'"
    ):
        source.shards()


def test_rows_of_files_become_documents(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs the library datasets (make parity)")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for part in range(3):
        rows = [{"text": f"{part} {i}", "url": f"u{i}", "tags": ["a"]} for i in range(4)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = tuple(str(tmp_path / f"{part}.jsonl") for part in range(3))
    source = HuggingFaceDataset("json", name="web", data_files=files)
    shards = pickle.loads(pickle.dumps(source.shards()))
    assert [shard.name for shard in shards] == ["00000-of-00003", "00001-of-00003", "00002-of-00003"]
    documents = [document for shard in reversed(shards) for document in shard.read()]
    assert sorted(d.text for d in documents) == sorted(f"{part} {i}" for part in range(3) for i in range(4))
    assert documents[0].name == "00002-of-00003:1" and documents[0].metadata == {"url": "u0"}
    problems = []
    assert not list(HuggingFaceDataset("json", data_files=files, text_field="body").shards()[0].read(problems.append))
    assert len(problems) == 4 and "the column 'body' must be a string" in problems[0].message
    with pytest.raises(DocumentError, match="can't be opened"):
        HuggingFaceDataset("json", data_files=(str(tmp_path / "missing.jsonl"),)).shards()
