"""Stages for the documents of some sources."""

import pyarrow as pa
import pytest

from jaxllm.data.only import Only
from jaxllm.data.records import make_batch, texts_of
from jaxllm.data.stages import Outcome
from tests.data.preparation.small import SameText, Short, Upper


def a_batch():
    sources = ["code", "prose", "code", "prose", "prose"]
    texts = ["a b c", "one", "d", "two three four", "five"]
    return make_batch([f"{s}/{i}" for i, s in enumerate(sources)], sources, texts, [{}] * 5)


def test_the_others_pass_by_in_their_places():
    outcome = Only(("prose",), Upper())(a_batch())
    assert texts_of(outcome.kept) == ["a b c", "ONE", "d", "TWO THREE FOUR", "FIVE"]
    outcome = Only(("prose",), Short())(a_batch())
    assert texts_of(outcome.kept) == ["a b c", "d", "two three four"]
    assert texts_of(outcome.dropped) == ["one", "five"]
    assert Only(("prose",), Short()).name == "short texts"


@pytest.mark.parametrize("sources, kept", [(("none",), 5), (("code", "prose"), 2)])
def test_none_and_all(sources, kept):
    assert len(Only(sources, Short())(a_batch()).kept) == kept
    empty = a_batch().slice(0, 0)
    assert len(Only(sources, Short())(empty).kept) == 0


def test_pieces_stay_where_their_document_was():
    class Halves:
        name = "halves"

        def __call__(self, batch):
            ids = [f"{i}#{n}" for i in batch.column("id").to_pylist() for n in (1, 2)]
            kept = batch.take(pa.array([row for row in range(len(batch)) for _ in (1, 2)]))
            return Outcome(kept.set_column(0, "id", pa.array(ids)), Short()(batch.slice(0, 0)).dropped)

    outcome = Only(("code",), Halves())(a_batch())
    ids = outcome.kept.column("id").to_pylist()
    assert ids == ["code/0#1", "code/0#2", "prose/1", "code/2#1", "code/2#2", "prose/3", "prose/4"]


def test_a_stage_that_compares_is_refused():
    with pytest.raises(ValueError, match="stage same compares documents: it must see them all, or none"):
        Only(("prose",), SameText())
