"""Logits that transformers computed, from files (golden/make_golden.py makes them): no PyTorch, no download."""

from pathlib import Path

import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, decoder_spec, forward
from jaxllm.models.declare import count
from tests.models.hugging_face import gpt2_parameters, llama_parameters

GPT2 = ModelConfig(
    vocab_size=40,
    context_length=16,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, qkv_bias=True, out_bias=True),
    mlp=MLPConfig(d_ff=64, activation="gelu_tanh", bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    positions="learned",
)
LLAMA = ModelConfig(
    vocab_size=40,
    context_length=16,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, rope=RopeConfig(theta=500.0)),
    mlp=MLPConfig(d_ff=24, activation="silu", gated=True),
    tie_embeddings=False,
)


@pytest.mark.parametrize(
    ("name", "config", "parameters"),
    [("gpt2", GPT2, gpt2_parameters), ("llama", LLAMA, llama_parameters)],
    ids=["gpt2", "llama"],
)
def test_logits_are_those_of_transformers(name, config, parameters):
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        golden = dict(file)
    tokens, logits = golden.pop("tokens"), golden.pop("logits")
    assert count(decoder_spec(config)) == sum(array.size for array in golden.values())
    assert np.std(logits) > 1, "logits that differ clearly"
    np.testing.assert_allclose(forward(parameters(golden, config), config, tokens), logits, rtol=1e-4, atol=1e-4)
