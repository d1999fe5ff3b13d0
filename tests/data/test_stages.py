"""Batches of documents and what a stage may do with them."""

import json

from jaxllm.data.documents import Document
from jaxllm.data.records import SCHEMA, records, texts_of
from jaxllm.data.stages import DROPPED_SCHEMA, judged, rewritten


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
