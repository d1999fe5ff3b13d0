"""Rows reach their receivers: each once, equal keys together, in the senders' order."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.data.preparation.exchange import one_batch, receive, receivers_of, send


@settings(max_examples=30)
@given(
    senders=st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=20), min_size=1, max_size=4),
    count=st.integers(1, 5),
)
def test_every_row_arrives_once_and_equal_keys_arrive_together(tmp_path_factory, senders, count):
    folder = tmp_path_factory.mktemp("exchange")
    paths = []
    for sender, keys in enumerate(senders):
        names = pa.array([f"{sender}-{i}" for i in range(len(keys))], pa.string())
        rows = pa.table({"key": pa.array(keys, pa.uint64()), "from": names})
        paths.append(folder / f"{sender}.arrow")
        size = send(paths[-1], rows, receivers_of(rows.column("key"), count), count)
        assert size == paths[-1].stat().st_size
    received = [receive(paths, receiver).to_pylist() for receiver in range(count)]
    order = [f"{sender}-{i}" for sender, keys in enumerate(senders) for i in range(len(keys))]
    for rows in received:
        places = [order.index(row["from"]) for row in rows]
        assert places == sorted(places)
    everything = sorted((row["from"], row["key"]) for rows in received for row in rows)
    assert everything == sorted((f"{s}-{i}", key) for s, keys in enumerate(senders) for i, key in enumerate(keys))
    homes = {}
    for receiver, rows in enumerate(received):
        for row in rows:
            assert homes.setdefault(row["key"], receiver) == receiver


@pytest.mark.parametrize("keys", [np.arange(20_000), np.arange(20_000) * 16, np.arange(20_000) << 40])
def test_keys_that_are_not_hashes_are_spread_evenly(keys):
    counts = np.bincount(receivers_of(pa.chunked_array([keys.astype(np.uint64)]), 16), minlength=16)
    assert counts.min() > 0.8 * 20_000 / 16


def test_what_does_not_fit_into_one_batch_is_not_lost():
    rows = pa.table({"key": pa.chunked_array([pa.array([1, 2], pa.uint64()), pa.array([3], pa.uint64())])})
    with pytest.raises(ValueError, match="too large for one partition"):
        one_batch(rows)  # as columns of more than two gigabytes of text are
