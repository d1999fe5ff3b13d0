import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import initialize
from jaxllm.objectives.next_token import next_token

CONFIG = ModelConfig(
    vocab_size=64,
    context_length=16,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=2),
    mlp=MLPConfig(d_ff=32, activation="silu", gated=True),
)


@pytest.fixture(scope="module")
def params():
    return initialize(decoder_spec(CONFIG), jax.random.key(0))


def batch_of(pieces, length=16):
    """One row holding these documents, padded."""
    row = {name: np.zeros((1, length), np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
    row["weights"] = np.zeros((1, length), np.float32)
    start = 0
    for number, piece in enumerate(pieces, start=1):
        stop = start + len(piece) - 1
        row["tokens"][0, start:stop], row["targets"][0, start:stop] = piece[:-1], piece[1:]
        row["segment_ids"][0, start:stop], row["positions"][0, start:stop] = number, np.arange(stop - start)
        row["weights"][0, start:stop] = 1
        start = stop
    return row


def test_a_packed_row_costs_what_its_documents_cost_alone(params):
    objective = jax.jit(next_token(CONFIG))
    pieces = [np.array([0, 5, 9, 5, 0]), np.array([0, 60, 61, 62, 63, 0]), np.array([0, 7, 0])]
    together, metrics = objective(params, batch_of(pieces))
    alone = [objective(params, batch_of([piece])) for piece in pieces]
    total = sum(float(loss * m["weight"]) for loss, m in alone)
    assert float(metrics["weight"]) == sum(len(piece) - 1 for piece in pieces)
    assert float(together * metrics["weight"]) == pytest.approx(total, rel=1e-5)


def test_padding_counts_for_nothing(params):
    loss, metrics = next_token(CONFIG)(params, batch_of([]))
    assert float(loss) == 0 and float(metrics["weight"]) == 0


def test_a_fresh_model_knows_nothing(params):
    random = np.random.default_rng(0)
    loss, _ = next_token(CONFIG)(params, batch_of([random.integers(0, 64, 17)]))
    assert float(loss) == pytest.approx(np.log(64), rel=0.02)


def test_a_key_turns_dropout_on(params):
    from dataclasses import replace

    objective = next_token(replace(CONFIG, dropout=0.5))
    batch = batch_of([np.arange(12)])
    quiet, again = objective(params, batch)[0], objective(params, batch, None)[0]
    assert quiet == again != objective(params, batch, jax.random.key(0))[0]
    assert jnp.isfinite(quiet)
