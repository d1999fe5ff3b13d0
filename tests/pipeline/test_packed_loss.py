"""The loss of packed batches is the loss of their documents one by one: from text through the tokenizer, the store,
every packing and the loader to the objective, for every kind of layer that carries something along the text."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxllm import tokenizers
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.documents import Document
from jaxllm.data.loader import TrainLoader, ValidationBatches
from jaxllm.data.token_store import Layout, write_token_store
from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.config import (
    DifferentialAttentionConfig,
    GatedDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MoEConfig,
    RWKVChannelConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.objectives.next_token import next_token
from jaxllm.tokenizers.config import TokenizerConfig

ROWS, LENGTH = 8, 32
MODEL = ModelConfig(
    vocab_size=264,
    context_length=LENGTH,
    d_model=16,
    num_layers=1,
    attention=AttentionConfig(num_heads=2),
    mlp=MLPConfig(d_ff=16),
)
SPARSE = SparseAttentionConfig(
    num_heads=2, compress_block=4, compress_stride=2, select_block=4, num_selected=3, num_local=1, window=6
)
KINDS = {
    "attention": Block(),
    "window": Block(mixer=AttentionConfig(num_heads=2, window=5)),
    "latent": Block(
        mixer=LatentAttentionConfig(num_heads=2, kv_rank=8, nope_dim=4, rope_dim=4, value_dim=4),
    ),
    "differential": Block(mixer=DifferentialAttentionConfig(num_heads=2)),
    "sparse": Block(mixer=SPARSE),
    "experts": Block(channel=MoEConfig(num_experts=4, top_k=2, d_ff=16)),
    "mamba": Block(mixer=MambaConfig(d_state=4, chunk=8)),
    "mamba2": Block(mixer=Mamba2Config(d_state=4, head_dim=8, chunk=8)),
    "gated delta": Block(mixer=GatedDeltaConfig(num_heads=2, num_key_heads=1, key_dim=4, value_dim=4, chunk=8)),
    "rwkv": Block(mixer=RWKVConfig(chunk=8), channel=RWKVChannelConfig(d_ff=16)),
}
TEXTS = ["", *("".join(chr(97 + (3 * i + j * j) % 25) for j in range(1 + 11 * i % 30)) for i in range(14)), "\0\0\0"]
LONG = [*TEXTS, "".join(chr(97 + j * j % 23) for j in range(80))]
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(TokenizerConfig(kind="byte"), [])


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tokenizer):
    def write(name, texts, layout):
        documents = [Document(f"{name}{i}", text) for i, text in enumerate(texts)]
        return write_token_store(tmp_path_factory.mktemp("s") / name, documents, tokenizer, layout=layout)

    return {
        "short": write("short", TEXTS, Layout()),
        "long": write("long", LONG, Layout(compression="zstd", block_tokens=16, shard_tokens=50)),
    }


# Of each two that treat documents alike, one is enough in every run of the suite.
RARELY = ("window", "latent", "differential", "mamba2")
MARKED = [pytest.param(name, marks=pytest.mark.long) if name in RARELY else name for name in KINDS]


@pytest.fixture(scope="module", params=MARKED)
def total_nll(request):
    """(batches) -> (sum of nll, number of targets), by one program a kind of model."""
    config = replace(MODEL, pattern=(KINDS[request.param],))
    random = np.random.default_rng(0)
    spec = decoder_spec(config)
    params = jax.tree.map(lambda p: random.normal(scale=0.4, size=p.shape).astype(np.float32), spec)
    run = jax.jit(lambda params, batch: next_token(config)(params, batch)[1], compiler_options=QUICK)

    def total(batches):
        nll = weight = 0.0
        for batch in batches:
            metrics = run(params, batch)
            nll += float(metrics["nll"] * metrics["weight"])
            weight += float(metrics["weight"])
        return nll, weight

    return total


def alone(pieces, end) -> list[dict]:
    """Each run of ids in a row of its own, with neither store nor packing: inputs all but the last, targets all but the
    first."""
    batches = []
    for first in range(0, len(pieces), ROWS):
        batch = {name: np.zeros((ROWS, LENGTH), np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
        batch["weights"] = np.zeros((ROWS, LENGTH), np.float32)
        for row, ids in enumerate(pieces[first : first + ROWS]):
            used = len(ids) - 1
            batch["tokens"][row, :used], batch["targets"][row, :used] = ids[:-1], ids[1:]
            batch["segment_ids"][row, :used], batch["positions"][row, :used] = 1, np.arange(used)
            batch["weights"][row, :used] = 1
        batches.append(batch)
    return batches


def wrapped(text, tokenizer):
    end = tokenizer.end_of_text
    return [end, *tokenizer.encode(text), end]


def test_every_packing_costs_what_its_documents_cost_alone(total_nll, stores, tokenizer):
    documents = [wrapped(text, tokenizer) for text in TEXTS if text]
    expected, targets = total_nll(alone(documents, tokenizer.end_of_text))
    assert targets == sum(len(ids) - 1 for ids in documents)
    for packing in ("best_fit", "first_fit"):
        packed = ValidationBatches(stores["short"], DataConfig(packing=packing), row_length=LENGTH, batch_size=ROWS)
        assert max(batch["segment_ids"].max() for batch in packed) > 1
        assert total_nll(packed) == pytest.approx((expected, targets), rel=2e-5)
    # What cuts documents costs what the pieces cost alone, for each begins anew.
    for packing in ("best_fit", "first_fit", "concat"):
        packed = ValidationBatches(stores["long"], DataConfig(packing=packing), row_length=LENGTH, batch_size=ROWS)
        texts, plan = [text for text in LONG if text], packed.plan
        pieces = [
            wrapped(texts[document], tokenizer)[start : start + length + 1]
            for document, start, length in zip(plan.document, plan.start, plan.length, strict=True)
        ]
        assert len(pieces) > len(texts)
        assert total_nll(packed) == pytest.approx(total_nll(alone(pieces, tokenizer.end_of_text)), rel=2e-5)


def test_an_epoch_of_a_mixture_and_of_windows_too(total_nll, stores, tokenizer):
    documents = [wrapped(text, tokenizer) for text in TEXTS if text]
    expected, targets = total_nll(alone(documents, tokenizer.end_of_text))
    windows = DataConfig(packing_window=4, packing="first_fit", read_threads=0)
    with TrainLoader(stores["short"], windows, row_length=LENGTH, batch_size=1) as loader:
        (order,) = loader._orders.values()
        rows = [loader.batch_at(i) for i in range(order.rows_per_epoch)]
    assert total_nll(in_eights(rows)) == pytest.approx((expected, targets), rel=2e-5)
    both = DataConfig(sources=(SourceConfig("a", "a", weight=1), SourceConfig("b", "b", weight=1)), read_threads=0)
    pair = {"a": stores["short"], "b": stores["short"]}
    with TrainLoader(pair, both, row_length=LENGTH, batch_size=2) as loader:
        rows = [loader.batch_at(i) for i in range(loader._orders["a"].rows_per_epoch)]
    assert total_nll(in_eights(rows)) == pytest.approx((2 * expected, 2 * targets), rel=2e-5)


def in_eights(batches) -> list[dict]:
    """Batches of ROWS rows; padding fills the last."""
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    rows = len(joined["tokens"])
    padded = {name: np.pad(array, ((0, -rows % ROWS), (0, 0))) for name, array in joined.items()}
    return [
        {name: array[at : at + ROWS] for name, array in padded.items()} for at in range(0, rows + -rows % ROWS, ROWS)
    ]
