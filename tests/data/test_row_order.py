"""Any batch from its number alone: for any number of processes, after any resume, for windows and for mixtures."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxllm.data.config import DataConfig, SourceConfig, StageConfig
from jaxllm.data.loader import TrainLoader, ValidationBatches
from jaxllm.data.packing import plan_packing

LENGTH, BATCH, STEPS = 16, 24, 50
SOURCES = (SourceConfig("web", "a", weight=2), SourceConfig("code", "b", weight=1), SourceConfig("law", "c", weight=1))
MIXED = DataConfig(sources=SOURCES, stages=(StageConfig(0.5, (1, 1, 0)), StageConfig(0.9, (0, 0, 1))), read_threads=0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    from jaxllm.data.documents import Document
    from jaxllm.data.token_store import write_token_store
    from tests.data.conftest import ByteTokenizer

    def make(name, seed, count):
        # The first byte of each document tells its source.
        sizes = np.random.default_rng(seed).integers(1, 40, count)
        documents = [Document(f"{name}{i}", name[0] * int(size)) for i, size in enumerate(sizes)]
        return write_token_store(tmp_path_factory.mktemp("s") / name, documents, ByteTokenizer())

    return {name: make(name, seed, 40 + 30 * seed) for seed, name in enumerate(("web", "code", "law"))}


def loader_of(stores, config=MIXED, **options):
    options = {"row_length": LENGTH, "batch_size": BATCH, "steps": STEPS, **options}
    return TrainLoader(stores if config.sources else stores["web"], config, **options)


CONFIGS = {
    "whole": DataConfig(read_threads=0),
    "first fit": DataConfig(packing="first_fit", read_threads=0),
    "windows": DataConfig(packing_window=7, read_threads=0),
    "mixture": MIXED,
    "mixture of windows": DataConfig(sources=SOURCES, packing_window=16, packing="concat", read_threads=0),
}


@pytest.fixture(scope="module")
def expected(stores):
    """The first batches of each config, read in a row by one process."""
    found = {}
    for name, config in CONFIGS.items():
        with loader_of(stores, config) as loader:
            found[name] = [next(loader) for _ in range(STEPS)]
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    name=st.sampled_from(list(CONFIGS)),
    counts=st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=2, max_size=3),
    steps=st.lists(st.integers(0, STEPS - 3), min_size=2, max_size=3),
)
def test_any_batch_is_the_same_for_any_processes_after_any_resume(stores, expected, name, counts, steps):
    state, position = None, 0
    for count, step in zip(counts, steps, strict=False):
        parts = []
        for index in range(count):
            with loader_of(stores, CONFIGS[name], process_index=index, process_count=count) as loader:
                if state is not None:
                    loader.set_state(json.loads(json.dumps(state)))
                    assert loader.next_batch == position
                at_once = loader.batch_at(step)
                loader.skip(0)
                loader.set_state({**loader.get_state(), "next_batch": step})
                read = [next(loader) for _ in range(2)]
                parts.append([at_once, *read])
                kept = loader.get_state()
        state, position = kept, step + 2
        for at, number in ((0, step), (1, step), (2, step + 1)):
            for field, whole in expected[name][number].items():
                np.testing.assert_array_equal(np.concatenate([part[at][field] for part in parts]), whole)


def test_batch_at_leaves_the_iterator_where_it_is(stores, expected):
    with loader_of(stores) as loader:
        next(loader)
        loader.batch_at(40)
        np.testing.assert_array_equal(next(loader)["tokens"], expected["mixture"][1]["tokens"])
        assert loader.next_batch == 2
        with pytest.raises(ValueError, match="there is no batch -1: the first is 0"):
            loader.batch_at(-1)


# Windows


def rows_of(batches):
    return [row.tobytes() for batch in batches for row in np.stack([batch["tokens"], batch["segment_ids"]], 1)]


@pytest.mark.parametrize("packing", ["best_fit", "first_fit", "concat"])
def test_windows_hold_every_document_once_an_epoch(stores, packing):
    store, config = stores["law"], DataConfig(packing=packing, packing_window=9, read_threads=0)
    with TrainLoader(store, config, row_length=LENGTH, batch_size=1) as loader:
        (order,) = loader._orders.values()
        rows = order.rows_per_epoch
        epochs = [[loader.batch_at(epoch * rows + i) for i in range(rows)] for epoch in range(3)]
        assert loader.epoch == 0
        loader.skip(2 * rows)
        assert loader.epoch == 2
        assert loader.utilization[""] == pytest.approx((store.num_tokens + store.documents) / rows / LENGTH)
    for epoch in epochs:
        assert sum(batch["weights"].sum() for batch in epoch) == store.num_tokens + store.documents
    first, second, third = (rows_of(epoch) for epoch in epochs)
    assert Counter(first) == Counter(second) == Counter(third) and first != second != third


def test_windows_cost_little_utilization(stores):
    store = stores["law"]
    with TrainLoader(store, DataConfig(packing_window=50), row_length=64, batch_size=1) as loader:
        (order,) = loader._orders.values()
        order.rows_per_epoch  # noqa: B018 - plans all windows
        whole = plan_packing(store.lengths, 64, packing="best_fit", seed=0).utilization
        assert whole - 0.05 < loader.utilization[""] <= whole


def test_a_window_reads_the_lengths_of_its_own_documents_alone(stores, monkeypatch):
    store, asked = stores["law"], []
    read = type(store).lengths_of
    monkeypatch.setattr(type(store), "lengths_of", lambda self, a, b: asked.append((a, b)) or read(self, a, b))
    with TrainLoader(store, DataConfig(packing_window=10, read_threads=0), row_length=LENGTH, batch_size=1) as loader:
        next(loader)
    assert len(asked) == 1 and asked[0][1] - asked[0][0] == 10


# Mixtures


def sources_in(batch) -> list[str]:
    """Which source each row is from, by its first letters."""
    letters = {ord("w"): "web", ord("c"): "code", ord("l"): "law"}
    return [letters[int(row[row != 256][0])] for row in batch["targets"]]


def test_the_mixture_has_exact_counts_in_every_stage(stores, expected):
    batches = expected["mixture"]
    counts = [Counter(sources_in(batch)) for batch in batches]
    assert all(count == {"web": 12, "code": 6, "law": 6} for count in counts[:25])
    assert all(count == {"web": 12, "code": 12} for count in counts[25:45])
    assert all(count == {"law": 24} for count in counts[45:])
    with loader_of(stores) as loader:
        for step in (0, 1, 25, 45, 50):
            total = sum(counts[:step], Counter())
            assert loader.rows(step) == {name: total[name] for name in stores}
            report = loader.source_report(step)
            assert {name: report[f"tokens/{name}"] for name in stores} == {n: total[n] * LENGTH for n in stores}
            assert report["epochs/law"] == pytest.approx(total["law"] / loader._orders["law"].rows_per_epoch, abs=1e-4)


def test_each_source_of_a_mixture_is_gone_through_row_by_row(stores):
    config = DataConfig(sources=SOURCES, read_threads=0)
    with loader_of(stores, config, batch_size=4) as loader:
        for name, order in loader._orders.items():
            rows, drawn = order.rows_per_epoch, []
            step = 0
            while len(drawn) < rows:
                batch = loader.batch_at(step)
                drawn += [k for k, source in zip(rows_of([batch]), sources_in(batch), strict=True) if source == name]
                step += 1
            assert Counter(drawn[:rows]) == Counter(
                rows_of([{k: v[None] for k, v in order[i].items()} for i in range(rows)])
            )


def test_sources_are_weighed_by_their_tokens_where_no_weight_is_given(stores):
    sources = tuple(SourceConfig(name, "x", upsampling=3 if name == "web" else 1) for name in stores)
    with loader_of(stores, DataConfig(sources=sources, temperature=2)) as loader:
        rows = loader.rows(10_000)
    expected = np.array([3 if name == "web" else 1 for name in stores]) * np.sqrt(
        [s.num_tokens for s in stores.values()]
    )
    np.testing.assert_allclose(list(rows.values()), expected / expected.sum() * 240_000, atol=3)


def test_no_source_is_read_more_often_than_it_may(stores):
    sources = tuple(SourceConfig(name, "x", weight=1, max_epochs=1.5 if name == "web" else 0) for name in stores)
    with loader_of(stores, DataConfig(sources=sources), steps=200) as loader:
        limit = int(1.5 * loader._orders["web"].rows_per_epoch)
        assert loader.rows(200)["web"] == limit < 200 * BATCH / 3
        assert abs(loader.rows(100)["web"] - limit / 2) < 2, "and it lasts to the end"
        assert abs(loader.rows(200)["code"] - loader.rows(200)["law"]) <= 1


def test_a_state_of_another_mixture_is_refused(stores):
    with loader_of(stores) as loader:
        state = loader.get_state()
    with (
        loader_of(stores, steps=60) as other,
        pytest.raises(ValueError, match="mixture was .*the same number of steps"),
    ):
        other.set_state(state)
    plain = DataConfig(sources=SOURCES)
    with loader_of(stores, plain) as loader:
        state = loader.get_state()
    with loader_of(stores, plain, steps=60) as other:
        other.set_state(state)  # nothing of it depends on the length of the run


def test_validation_of_a_mixture_has_every_pair_of_every_source(stores):
    batches = ValidationBatches(stores, MIXED, row_length=LENGTH, batch_size=8)
    whole = list(batches)
    assert len(whole) == len(batches) and all(len(batch["tokens"]) == 8 for batch in whole)
    pairs = sum(store.num_tokens + store.documents for store in stores.values())
    assert sum(batch["weights"].sum() for batch in whole) == pairs
    assert set(sources_in(whole[0])) == {"web", "code", "law"}, "a short evaluation sees every source"


@pytest.mark.parametrize(
    "config, steps, complaint",
    [
        (MIXED, 0, "stages and max_epochs of a mixture refer to the number of steps"),
        (DataConfig(sources=SOURCES[:2]), 9, r"the stores \['web', 'code', 'law'\] are not those of data.sources"),
        (
            DataConfig(sources=tuple(SourceConfig(name, "x", max_epochs=0.1) for name in ("web", "code", "law"))),
            1000,
            "the mixture of web, code, law over 1000 steps can't be had: the sources may give .* the run takes 24,000",
        ),
    ],
)
def test_mixtures_that_can_not_be(stores, config, steps, complaint):
    with pytest.raises(ValueError, match=complaint):
        loader_of(stores, config, steps=steps)


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: SourceConfig("a b", "x"), "the name of a source must be of letters"),
        (lambda: SourceConfig("", "x"), "the name of a source must be of letters"),
        (lambda: SourceConfig("a", ""), "data.sources: 'a' has no path"),
        (lambda: SourceConfig("a", "x", weight=-1), "of 'a', weight and max_epochs must not be negative"),
        (lambda: SourceConfig("a", "x", upsampling=0), "upsampling must be above 0"),
        (lambda: SourceConfig("a", "x", weight=float("nan")), "got nan"),
        (lambda: StageConfig(1.0, (1.0,)), "the start of a stage must lie between 0 and 1, got 1.0"),
        (lambda: StageConfig(0.5, (0.0,)), "the weights of a stage must be at least 0 and one above it"),
        (lambda: DataConfig(sources=SOURCES, path="x"), "data.path='x' is not read where there are data.sources"),
        (lambda: DataConfig(sources=SOURCES[:1] * 2), r"names of their own, got \['web', 'web'\]"),
        (lambda: DataConfig(sources=(*SOURCES, SourceConfig("d", "d"))), "give all of them a weight, or none"),
        (
            lambda: DataConfig(sources=SOURCES, stages=(StageConfig(0.5, (1,)),)),
            "one weight a source, 3 of them; got 1",
        ),
        (lambda: DataConfig(stages=(StageConfig(0.5, (1,)),)), "one weight a source, 0 of them; got 1"),
        (lambda: DataConfig(sources=SOURCES, stages=MIXED.stages[::-1]), "data.stages must follow each other"),
        (lambda: DataConfig(temperature=0), "data.temperature must be above 0"),
    ],
)
def test_configs_that_can_not_be(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
