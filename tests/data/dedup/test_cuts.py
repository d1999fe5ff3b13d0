import pyarrow as pa

from jaxllm.data.dedup.cuts import Cuts

from .small_engine import batch_of


def test_parts_are_cut_and_counted():
    batch = batch_of(["éàü-abc", "gone", "stays"], ["a", "b", "c"])
    # Bytes 1 to 5 are the second half of é, à, and the first half of ü; the parts overlap.
    parts = [("a", 1, 5), ("a", 2, 4), ("a", 7, 9), ("b", 0, 4), ("elsewhere", 0, 9)]
    table = pa.table(dict(zip(("id", "start", "end"), map(list, zip(*parts, strict=True)), strict=True)))
    outcome = Cuts("repeats", table)(batch)
    assert outcome.kept["text"].to_pylist() == ["éü-c", "stays"]
    assert outcome.dropped.select(["id", "text", "stage", "reason"]).to_pylist() == [
        {"id": "b", "text": "gone", "stage": "repeats", "reason": "nothing left"}
    ]
    assert outcome.counts == {"repeats: parts": 4, "repeats: bytes": 12}


def test_nothing_found_changes_nothing():
    table = pa.table(
        {"id": pa.array([], pa.string()), "start": pa.array([], pa.int64()), "end": pa.array([], pa.int64())}
    )
    assert Cuts("repeats", table)(batch_of(["a", "b"])).kept["text"].to_pylist() == ["a", "b"]
