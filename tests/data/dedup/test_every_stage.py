"""What an engine relies on, of each stage that compares."""

import pickle
import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from jaxllm.data.dedup import ExactDocuments, ExactParagraphs, MinHash, RepeatedSubstrings, Semantic, SimHash
from jaxllm.data.records import SCHEMA

from .small_engine import batch_of, left


@dataclass(frozen=True)
class Letters:
    """How often each letter occurs."""

    def __call__(self, texts):
        return np.array([[1 + text.count(letter) for letter in "abcdefgh"] for text in texts], float)


@pytest.fixture
def stages(tmp_path):
    np.save(tmp_path / "centroids.npy", np.eye(8)[:3])
    semantic = Semantic(Letters(), str(tmp_path / "centroids.npy"), 0.99999)
    return [ExactDocuments(), ExactParagraphs(), MinHash(), RepeatedSubstrings(), SimHash(), semantic]


def texts() -> list[str]:
    chance = random.Random(0)
    lines = ["".join(chance.choices("abcdefgh   ", k=300)) for _ in range(12)]
    return ["\n".join(chance.choices(lines, k=chance.randrange(1, 5))) for _ in range(40)] + ["", "é"]


def test_an_empty_shard_has_rows_of_the_same_kind(stages):
    empty = pa.RecordBatch.from_pylist([], SCHEMA)
    for stage in stages:
        rows, none = stage.keys(batch_of(texts())), stage.keys(empty)
        assert none.schema == rows.schema and len(none) == 0, stage.name
        assert rows.schema.field("key").type == pa.uint64()
        matches, nothing = stage.match(rows), stage.match(none)
        assert nothing.schema == matches.schema and len(nothing) == 0, stage.name
        stage.resolve(nothing)
        assert left(stage, []) == {}


def test_neither_batches_nor_partitions_nor_their_order_change_anything(stages):
    for stage in stages:
        stage = pickle.loads(pickle.dumps(stage))
        expected = left(stage, texts())
        assert 3 < len(expected) < 42 or len("".join(expected.values())) < len("".join(texts())), stage.name
        for rows, partitions in ((5, 1), (1, 4), (41, 13)):
            assert left(stage, texts(), rows, partitions) == expected, stage.name
        rows = stage.keys(batch_of(texts()))
        shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
        first, other = stage.match(rows), stage.match(shuffled)
        sort = [(name, "ascending") for name in first.column_names]
        assert first.sort_by(sort).equals(other.sort_by(sort)), stage.name


def test_stages_have_names_of_their_own_and_say_in_their_repr_what_they_are(stages):
    assert len({stage.name for stage in stages}) == len(stages)
    assert "bands=14" in repr(stages[2]) and " at 0x" not in repr(stages)
