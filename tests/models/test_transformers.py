"""The same model in transformers and here, with random weights; needs requirements/parity.txt."""

from dataclasses import replace

import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, RopeConfig, forward
from tests.models.hugging_face import gpt2_parameters, llama_parameters
from tests.models.test_golden import GPT2, LLAMA

pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")

TOKENS = np.random.default_rng(1).integers(0, 120, (3, 48))


@pytest.fixture(scope="module")
def theirs():
    from tests.models.golden import make_golden

    return make_golden


def test_gpt2_logits(theirs):
    model = theirs.gpt2(seed=1, vocab_size=120, n_positions=64, n_embd=48, n_layer=5, n_head=3)
    config = replace(
        GPT2,
        vocab_size=120,
        context_length=64,
        d_model=48,
        num_layers=5,
        attention=replace(GPT2.attention, num_heads=3),
        mlp=replace(GPT2.mlp, d_ff=192),
    )
    compare(theirs, model, config, gpt2_parameters)


@pytest.mark.parametrize(("heads", "groups", "head_dim", "theta"), [(6, 2, 0, 1e4), (4, 1, 16, 5e5), (4, 4, 0, 1e4)])
def test_llama_logits(theirs, heads, groups, head_dim, theta):
    sizes = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": head_dim or 48 // heads}
    model = theirs.llama(
        seed=2,
        vocab_size=120,
        max_position_embeddings=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        rope_theta=theta,
        **sizes,
    )
    config = replace(
        LLAMA,
        vocab_size=120,
        context_length=64,
        d_model=48,
        num_layers=3,
        attention=AttentionConfig(
            num_heads=heads, num_kv_heads=groups, head_dim=head_dim, rope=RopeConfig(theta=theta)
        ),
        mlp=MLPConfig(d_ff=80, activation="silu", gated=True),
    )
    compare(theirs, model, config, llama_parameters)


def compare(theirs, model, config, parameters):
    expected = theirs.logits(model, TOKENS)
    # Of float32 logits, next to their spread: rounding differs with the order of sums.
    close = 1e-4 * np.std(expected)
    np.testing.assert_allclose(
        forward(parameters(theirs.weights(model), config), config, TOKENS), expected, rtol=1e-4, atol=close
    )
