"""One layer of latent attention as transformers has it, with random weights; needs requirements/parity.txt."""

import numpy as np
import pytest

from jaxllm.models import RopeConfig
from jaxllm.models.config import LatentAttentionConfig
from jaxllm.models.mixers.latent_attention import LatentAttention
from jaxllm.models.norm import Norm

torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")

from tests.models.mixers.transformers_layer import (  # noqa: E402 - it imports torch
    CAUSAL,
    CONTEXT,
    MODEL,
    POSITIONS,
    D,
    H,
    X,
    compare,
    inward,
    randomized,
    run,
)

LATENT_SIZES = {
    "hidden_size": D,
    "num_attention_heads": H,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "max_position_embeddings": CONTEXT,
    "attn_implementation": "eager",
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e3,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 3.0,
    "beta_slow": 0.2,
    "mscale": 0.7,
    "mscale_all_dim": 1.2,
}


def latent_mapped(weights, q_rank):
    """DeepSeek's names. Up-projections hold, for each head, the width without position and the rotary or value one."""
    latent, rope_key = np.split(weights["kv_a_proj_with_mqa.weight"].T, [10], axis=1)
    latent_bias, rope_key_bias = np.split(weights.get("kv_a_proj_with_mqa.bias", np.zeros(0)), [10])
    key, value = np.split(inward(weights["kv_b_proj.weight"], H, 11), [6], axis=-1)
    has_bias = "o_proj.bias" in weights
    return LatentAttention(
        query_down=weights["q_a_proj.weight"].T if q_rank else None,
        query_down_bias=weights["q_a_proj.bias"] if q_rank and has_bias else None,
        query_norm=Norm(weights["q_a_layernorm.weight"], None) if q_rank else None,
        query=inward(weights["q_b_proj.weight" if q_rank else "q_proj.weight"], H, 10),
        latent=latent,
        latent_bias=latent_bias if has_bias else None,
        latent_norm=Norm(weights["kv_a_layernorm.weight"], None),
        rope_key=rope_key,
        rope_key_bias=rope_key_bias if has_bias else None,
        key=key,
        value=value,
        out=weights["o_proj.weight"].T.reshape(H, 5, D),
        out_bias=weights.get("o_proj.bias"),
    )


def latent_config(q_rank, bias, interleaved=True):
    rope = RopeConfig(
        theta=1e3,
        scaling="yarn",
        factor=4.0,
        original_context=16,
        beta_fast=3.0,
        beta_slow=0.2,
        mscale=0.7,
        mscale_all_dim=1.2,
        interleaved=interleaved,
    )
    return LatentAttentionConfig(
        num_heads=H, q_rank=q_rank, kv_rank=10, nope_dim=6, rope_dim=4, value_dim=5, rope=rope, bias=bias
    )


@pytest.mark.parametrize(("q_rank", "bias", "interleaved"), [(7, False, True), (0, True, True), (7, True, False)])
def test_deepseek_v3(q_rank, bias, interleaved):
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    theirs = deepseek.DeepseekV3Config(
        **LATENT_SIZES,
        num_key_value_heads=H,
        q_lora_rank=q_rank or None,
        attention_bias=bias,
        rope_interleave=interleaved,
        rope_parameters=dict(YARN),
    )
    module = deepseek.DeepseekV3Attention(theirs, 0)
    weights = randomized(module)
    embeddings = deepseek.DeepseekV3RotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    expected = run(module, embeddings, CAUSAL)
    compare(expected, latent_mapped(weights, q_rank), MODEL, latent_config(q_rank, bias, interleaved))


@pytest.mark.parametrize("q_rank", [7, 0])
def test_deepseek_v2(q_rank):
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek

    theirs = deepseek.DeepseekV2Config(**LATENT_SIZES, q_lora_rank=q_rank or None, rope_parameters=dict(YARN))
    module = deepseek.DeepseekV2Attention(theirs, 0)
    weights = randomized(module)
    turns = deepseek.DeepseekV2RotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    expected = run(module, turns, CAUSAL)
    compare(expected, latent_mapped(weights, q_rank), MODEL, latent_config(q_rank, bias=False))
