import itertools
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import numpy as np
import pytest

from jaxllm.data.config import DataConfig
from jaxllm.data.loader import TrainLoader, ValidationBatches
from jaxllm.data.packing import pack_row
from jaxllm.data.row_order import grain_seed

ROW_LENGTH = 16
LENGTHS = [1 + (17 * i * i + 5 * i) % 39 for i in range(60)]


@pytest.fixture
def store(store_of):
    return store_of(LENGTHS)


def loader_of(store, *, batch_size=4, config=None, **options) -> TrainLoader:
    config = config or DataConfig()
    return TrainLoader(store, config, row_length=ROW_LENGTH, batch_size=batch_size, **options)


def take(loader, count) -> list[dict]:
    return list(itertools.islice(loader, count))


def assert_equal(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def joined(parts: list[dict]) -> dict:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def row_keys(batches: list[dict]) -> list[bytes]:
    return [
        row.tobytes()
        for batch in batches
        for row in np.stack([batch["tokens"], batch["targets"], batch["segment_ids"]], 1)
    ]


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_batches_are_rows_of_the_plan_and_each_epoch_has_all_of_them_in_another_order(store, packing):
    with loader_of(store, batch_size=1, config=DataConfig(packing=packing)) as loader:
        rows = loader.plan.num_rows
        keys = row_keys(take(loader, 3 * rows))
        packed = [pack_row(loader.plan, store, row, store.end_of_text) for row in range(rows)]
    expected = row_keys([{name: array[None] for name, array in row.items()} for row in packed])
    epochs = [keys[:rows], keys[rows : 2 * rows], keys[2 * rows :]]
    assert all(Counter(epoch) == Counter(expected) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != expected


def test_shapes_and_types(store):
    with loader_of(store, batch_size=6, process_count=2) as loader:
        batch = next(loader)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "tokens": ((3, ROW_LENGTH), "int32"),
        "targets": ((3, ROW_LENGTH), "int32"),
        "weights": ((3, ROW_LENGTH), "float32"),
        "segment_ids": ((3, ROW_LENGTH), "int32"),
        "positions": ((3, ROW_LENGTH), "int32"),
    }


@pytest.mark.parametrize("process_count", [2, 3, 6])
def test_processes_together_read_the_same_global_batches_as_one(store, process_count):
    with loader_of(store, batch_size=6) as loader:
        whole = take(loader, 12)
    parts = []
    for index in range(process_count):
        with loader_of(store, batch_size=6, process_index=index, process_count=process_count) as loader:
            parts.append(take(loader, 12))
    assert_equal(whole, [joined(list(batch)) for batch in zip(*parts, strict=True)])


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 4), (1, 1), (3, 0), (4, 2), (8, 16)])
def test_threads_change_nothing(store, threads, prefetch):
    with loader_of(store) as loader:
        expected = take(loader, 40)
    with loader_of(store, config=DataConfig(read_threads=threads, prefetch_batches=prefetch)) as loader:
        assert_equal(take(loader, 40), expected)


def test_batches_are_built_ahead_of_their_use(store, monkeypatch):
    built = []
    monkeypatch.setattr("jaxllm.data.row_order.pack_row", lambda *arguments: built.append(1) or pack_row(*arguments))
    with loader_of(store, batch_size=4, config=DataConfig(prefetch_batches=3)) as loader:
        next(loader)
        deadline = time.monotonic() + 10
        while len(built) < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
    assert len(built) == 16  # the batch that was asked for and three more, each of four rows


@pytest.mark.parametrize("taken", [0, 1, 7, 33])
def test_a_loader_set_to_a_saved_state_goes_on_where_it_was(store, taken):
    with loader_of(store) as loader:
        take(loader, taken)
        state = json.loads(json.dumps(loader.get_state()))
        rest = take(loader, 10)
    with loader_of(store, config=DataConfig(read_threads=0)) as fresh:
        take(fresh, 3)
        fresh.set_state(state)
        assert fresh.get_state() == state
        assert_equal(take(fresh, 10), rest)


def test_a_state_may_be_taken_up_by_another_number_of_processes(store):
    with loader_of(store, batch_size=6) as loader:
        whole = take(loader, 20)
    with loader_of(store, batch_size=6, process_index=1, process_count=2) as loader:
        take(loader, 5)
        state = loader.get_state()
    parts = []
    for index in range(3):
        with loader_of(store, batch_size=6, process_index=index, process_count=3) as loader:
            loader.set_state(state)
            parts.append(take(loader, 15))
    assert_equal(whole[5:], [joined(list(batch)) for batch in zip(*parts, strict=True)])


def test_going_back(store):
    with loader_of(store) as loader:
        start = loader.get_state()
        first = take(loader, 9)
        loader.set_state(start)
        assert_equal(take(loader, 9), first)


def test_skipped_batches_are_the_next_ones(store):
    with loader_of(store) as loader:
        expected = take(loader, 30)
    with loader_of(store) as loader:
        take(loader, 4)
        loader.skip(0)
        loader.skip(21)
        assert loader.next_batch == 25
        assert_equal(take(loader, 5), expected[25:])
        with pytest.raises(ValueError, match="can't skip -1 batches"):
            loader.skip(-1)


def test_skipping_a_million_batches_costs_nothing(store):
    with loader_of(store) as loader:
        loader.skip(1_000_000)
        assert loader.epoch == pytest.approx(4_000_000 / loader.plan.num_rows)
        next(loader)


def test_a_batch_larger_than_the_corpus_repeats_rows(store_of):
    store = store_of([5, 6])
    with loader_of(store, batch_size=8) as loader:
        assert loader.plan.num_rows == 1
        batch = next(loader)
    assert batch["tokens"].shape == (8, ROW_LENGTH)
    assert len(set(row_keys([batch]))) == 1


def test_seeds_give_different_orders(store):
    first_rows = set()
    for seed in range(20):
        with loader_of(store, config=DataConfig(shuffle_seed=seed, packing="concat", read_threads=0)) as loader:
            first_rows.add(b"".join(row_keys(take(loader, 3))))
    assert len(first_rows) == 20


def test_neighbouring_seeds_do_not_share_epochs():
    # grain shuffles epoch e of seed s with s + e: seeds that differ by little would meet again within a few epochs.
    seeds = sorted(grain_seed(seed) for seed in range(1000))
    assert seeds[0] >= 0 and seeds[-1] < 2**32
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 1000
    assert 0 <= grain_seed(2**63 - 1) < 2**32


def test_the_order_of_rows_stays_the_same_in_later_versions_of_grain(store):
    # A resumed run goes on in this order; if a new release of grain shuffles otherwise, checkpoints don't fit it.
    with loader_of(store, batch_size=8, config=DataConfig(packing="concat")) as loader:
        packed = [pack_row(loader.plan, store, row, store.end_of_text) for row in range(loader.plan.num_rows)]
        keys = row_keys([{name: array[None] for name, array in row.items()} for row in packed])
        assert [keys.index(key) for key in row_keys([next(loader)])] == [63, 71, 24, 0, 39, 70, 46, 51]


# Validation


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 400])
def test_validation_has_every_pair_once_on_all_processes_together(store, packing, process_count, batch_size):
    parts = []
    for index in range(process_count):
        batches = ValidationBatches(
            store,
            DataConfig(packing=packing),
            row_length=ROW_LENGTH,
            batch_size=batch_size,
            process_index=index,
            process_count=process_count,
        )
        parts.append(list(batches))
        assert len(parts[-1]) == len(batches) == -(-batches.plan.num_rows // batch_size)
        assert_equal(list(batches), parts[-1])
    whole = [joined(list(batch)) for batch in zip(*parts, strict=True)]
    assert all(batch["tokens"].shape == (batch_size, ROW_LENGTH) for batch in whole)
    assert sum(batch["weights"].sum() for batch in whole) == store.num_tokens + store.documents
    rows = [{name: array[i] for name, array in batch.items()} for batch in whole for i in range(batch_size)]
    assert_equal(
        rows[: batches.plan.num_rows], [pack_row(batches.plan, store, r, 256) for r in range(batches.plan.num_rows)]
    )
    for row in rows[batches.plan.num_rows :]:
        assert not row["weights"].any() and not row["segment_ids"].any() and (row["tokens"] == 256).all()


# Bad input


@pytest.mark.parametrize("made", [TrainLoader, ValidationBatches])
@pytest.mark.parametrize(
    ("batch_size", "index", "count", "complaint"),
    [
        (6, 0, 4, "the global batch size 6 can't be divided among 4 processes; make it a positive multiple of 4"),
        (0, 0, 1, "the global batch size 0 can't be divided"),
        (4, 2, 2, "process 2 of 2: expected an index from 0 to below the count"),
        (4, -1, 2, "process -1 of 2"),
        (4, 0, 0, "process 0 of 0"),
    ],
)
def test_impossible_divisions(store, made, batch_size, index, count, complaint):
    with pytest.raises(ValueError, match=complaint):
        made(
            store, DataConfig(), row_length=ROW_LENGTH, batch_size=batch_size, process_index=index, process_count=count
        )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batch_size": 8}, "batch_size was 4, is 8"),
        ({"config": DataConfig(shuffle_seed=1)}, "plan was .*; shuffle_seed was 0, is 1"),
        ({"config": DataConfig(packing="concat")}, "plan was "),
    ],
)
def test_the_state_of_other_batches_is_refused_and_nothing_moves(store, change, complaint):
    with loader_of(store) as loader:
        take(loader, 2)
        state = loader.get_state()
    with loader_of(store, **change) as other:
        with pytest.raises(ValueError, match=complaint):
            other.set_state(state)
        assert other.next_batch == 0


def test_the_state_of_another_corpus_is_refused(store, store_of):
    with loader_of(store) as loader:
        state = loader.get_state()
    with (
        loader_of(store_of([*LENGTHS[:-1], LENGTHS[-1] + 1])) as other,
        pytest.raises(ValueError, match="tokens was .*plan was"),
    ):
        other.set_state(state)


def test_what_is_no_state_is_refused(store):
    with loader_of(store) as loader, pytest.raises(ValueError, match="this is not a loader state: expected the keys"):
        loader.set_state({"next_index": 3})


# Threads and exits


def test_closing_ends_the_threads_and_the_batches(store):
    before = threading.active_count()
    loader = loader_of(store, config=DataConfig(read_threads=4))
    take(loader, 3)
    assert threading.active_count() > before
    loader.close()
    loader.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(loader)


def test_validation_that_is_left_early_ends_its_threads(store):
    before = threading.active_count()
    batches = iter(ValidationBatches(store, DataConfig(), row_length=ROW_LENGTH, batch_size=4))
    next(batches)
    del batches
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("ending", ["", "loader.close()", "raise SystemExit(0)"])
def test_a_program_that_ends_with_a_loader_open_ends_quietly(store, ending):
    program = textwrap.dedent(f"""
        from jaxllm.data import DataConfig, TokenStore, TrainLoader
        store = TokenStore.open({str(store.directory)!r})
        loader = TrainLoader(store, DataConfig(read_threads=4), row_length=16, batch_size=4)
        next(loader)
        print("done")
        {ending}
    """)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
