"""Batches of documents and what a stage may do with them."""

import json

import pyarrow as pa

from jaxllm.data.documents import Document
from jaxllm.data.records import SCHEMA, make_batch, records, texts_of
from jaxllm.data.stages import DROPPED_SCHEMA, judged, removed, rewritten


def a_batch():
    documents = [
        Document("a", "one"),
        Document("b", "zwei – ü", {"url": "https://b", "year": 2024}),
        Document("c", "  "),
    ]
    [batch] = records(documents, "web")
    return batch


def test_documents_keep_id_source_and_metadata():
    batch = a_batch()
    assert batch.schema == SCHEMA
    assert batch.column("id").to_pylist() == ["web/a", "web/b", "web/c"]
    assert texts_of(batch) == ["one", "zwei – ü", "  "]
    assert json.loads(batch.column("metadata")[1].as_py()) == {"url": "https://b", "year": 2024}


def test_batches_end_by_rows_or_by_bytes():
    documents = [Document(str(i), "x" * 10) for i in range(7)]
    assert [len(b) for b in records(documents, "s", rows=3)] == [3, 3, 1]
    assert [len(b) for b in records(documents, "s", num_bytes=20)] == [2, 2, 2, 1]


def test_what_is_judged_is_split_and_nothing_is_lost():
    batch = a_batch()
    outcome = judged(batch, "quality", [None, "too short", None])
    assert outcome.kept.column("id").to_pylist() == ["web/a", "web/c"]
    assert outcome.dropped.schema == DROPPED_SCHEMA
    [gone] = outcome.dropped.to_pylist()
    assert (gone["id"], gone["text"], gone["stage"], gone["reason"]) == ("web/b", "zwei – ü", "quality", "too short")


def test_what_is_rewritten_to_nothing_is_dropped_as_it_was():
    outcome = rewritten(a_batch(), "clean", ["ONE", " \n", "c"], {"changes": 2})
    assert texts_of(outcome.kept) == ["ONE", "c"]
    assert texts_of(outcome.dropped) == ["zwei – ü"]
    assert outcome.dropped.column("reason").to_pylist() == ["nothing left"]
    assert outcome.counts == {"changes": 2}


def batch_of(texts: dict[str, str]):
    return make_batch(list(texts), ["web"] * len(texts), list(texts.values()), [{}] * len(texts))


def test_documents_that_a_cross_stage_found_are_dropped():
    found = pa.table({"id": ["b", "elsewhere"], "reason": ["twin", "twin"]})
    outcome = removed(batch_of({"a": "x", "b": "y"}), "twins", found)
    assert outcome.kept["id"].to_pylist() == ["a"]
    assert outcome.dropped.select(["id", "stage", "reason"]).to_pylist() == [
        {"id": "b", "stage": "twins", "reason": "twin"}
    ]


def test_parts_that_a_cross_stage_found_are_cut_and_counted():
    texts = {"a": "éàü-abc", "b": "gone", "c": "stays"}
    # Bytes 1 to 4 are the second half of é, à, and the first half of ü; the parts overlap.
    parts = [("a", 1, 5), ("a", 2, 4), ("a", 7, 9), ("b", 0, 4), ("elsewhere", 0, 9)]
    found = pa.table(
        {
            "id": [part[0] for part in parts],
            "reason": ["said before"] * 5,
            "start": [part[1] for part in parts],
            "end": [part[2] for part in parts],
        }
    )
    outcome = removed(batch_of(texts), "repeats", found)
    assert outcome.kept["text"].to_pylist() == ["éü-c", "stays"]
    assert outcome.dropped.select(["id", "text", "reason"]).to_pylist() == [
        {"id": "b", "text": "gone", "reason": "nothing left"}
    ]
    assert outcome.counts == {"said before": 4, "said before, bytes": 12}
