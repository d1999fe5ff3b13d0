"""Filters as stages, and many of them as one."""

import json
import pickle
import random

import pyarrow as pa
import pytest

from jaxllm.data.documents import Document
from jaxllm.data.quality import CODE, C4Paragraphs, C4Quality, Chain, FineWeb, GopherQuality, GopherRepetition, Length
from jaxllm.data.quality.chain import Filter, Screening
from jaxllm.data.records import SCHEMA, records, texts_of
from jaxllm.data.stages import DROPPED_SCHEMA
from tests.data.quality.verdict_corpus import SENTENCES, documents, own_texts

FILTERS = (Length(), GopherQuality(), C4Quality(min_sentences=2), GopherRepetition(), FineWeb())


def batch_of(texts):
    [batch] = records([Document(str(i), text, {"n": i}) for i, text in enumerate(texts)], "s", rows=10**6)
    return batch


def test_a_chain_is_its_filters_one_after_another():
    batch = batch_of(["", *documents(own_texts(), 5)])
    outcome = Chain(FILTERS)(batch)
    left, gone, counts = batch, [], {}
    for one in FILTERS:
        counts[f"{one.name}: documents"] = len(left)
        alone = one(left)
        left = alone.kept
        gone += alone.dropped.to_pylist()
        counts |= {f"{one.name}: {what}": number for what, number in alone.counts.items()}
    assert outcome.kept.equals(left)
    assert outcome.dropped.to_pylist() == sorted(gone, key=lambda row: int(row["id"].removeprefix("s/")))
    assert outcome.counts == counts
    assert len({row["stage"] for row in gone}) == 5
    assert len(outcome.kept) > 10
    assert outcome.kept.schema == SCHEMA and outcome.dropped.schema == DROPPED_SCHEMA


def test_how_documents_are_batched_changes_nothing():
    texts = list(documents(own_texts(), 2))
    whole = Chain(FILTERS)(batch_of(texts))
    batch = batch_of(texts)
    parts = [Chain(FILTERS)(batch.slice(i, 17)) for i in range(0, len(batch), 17)]
    assert pa.Table.from_batches([part.kept for part in parts]).to_pylist() == whole.kept.to_pylist()
    assert pa.Table.from_batches([part.dropped for part in parts]).to_pylist() == whole.dropped.to_pylist()


def test_what_is_rewritten_is_what_later_filters_see_and_report():
    text = "\n".join(["Menu", *SENTENCES[:4]])
    outcome = Chain((C4Quality(min_sentences=1), C4Paragraphs()))(batch_of([text]))
    [gone] = outcome.dropped.to_pylist()
    assert (gone["stage"], gone["reason"]) == ("c4 paragraphs", "fewer than 3 paragraphs of 200 characters")
    assert gone["text"] == "\n".join(SENTENCES[:4]) and json.loads(gone["metadata"]) == {"n": 0}
    assert outcome.counts["c4 quality: lines removed, no punctuation at its end"] == 1
    assert outcome.counts["c4 paragraphs: documents"] == 1


class Noting(Filter):
    name = "noting"

    def screen(self, texts):
        return Screening([None] * len(texts), notes=[{"letters": len(text.text), "n": "ä"} for text in texts])


def test_notes_go_into_metadata():
    outcome = Noting()(batch_of(["one", "three"]))
    assert [json.loads(text) for text in outcome.kept.column("metadata").to_pylist()] == [
        {"letters": 3, "n": "ä"},
        {"letters": 5, "n": "ä"},
    ]


def test_an_empty_batch_and_one_that_loses_all():
    chain = Chain((*FILTERS, C4Paragraphs(), *CODE))
    empty = chain(batch_of(["x"]).slice(0, 0))
    assert len(empty.kept) == len(empty.dropped) == 0
    lost = chain(batch_of(["x", "y"]))
    assert len(lost.kept) == 0 and texts_of(lost.dropped) == ["x", "y"]
    assert lost.kept.schema == SCHEMA and lost.dropped.schema == DROPPED_SCHEMA


def test_filters_are_told_apart_and_travel():
    with pytest.raises(ValueError, match="different names, to be told apart.*'length', 'length'"):
        Chain((Length(), Length()))
    with pytest.raises(ValueError, match="needs filters"):
        Chain(())
    Chain((Length(), Length(max_characters=5, name="short")))
    chain = Chain(FILTERS)
    again = pickle.loads(pickle.dumps(chain))
    assert again == chain and repr(again) == repr(chain) and "max_words=100000" in repr(chain)
    assert repr(chain) != repr(Chain((Length(), GopherQuality(max_words=5))))


def test_a_text_too_long_is_dropped_before_it_is_split(monkeypatch):
    monkeypatch.setattr("jaxllm.data.quality.text_statistics.split_words", lambda *_: pytest.fail("it was split"))
    outcome = Chain((Length(max_characters=1000), *FILTERS[1:]))(batch_of(["word " * 1000]))
    assert outcome.dropped.column("reason").to_pylist() == ["more than 1000 characters"]


def test_no_text_breaks_a_filter():
    """Whatever its characters: each filter keeps it or says why not."""
    chosen = random.Random(0)
    alphabet = "aA1 \n\t.,#-•…'\"{}[]<>\\/@\x00\x1c\x85\u2028é中अ😀\u200d\ufeff\U0010ffff"
    texts = ["".join(chosen.choices(alphabet, k=chosen.randrange(60))) for _ in range(300)]
    batch = batch_of(texts)
    for one in (*FILTERS, C4Paragraphs(), *CODE):
        outcome = one(batch)
        assert len(outcome.kept) + len(outcome.dropped) == len(batch)
    loose = GopherQuality(min_words=None, min_mean_length=None, min_stop_words=None, min_alphabetic_words=None)
    assert len(loose(batch).kept) > 0
