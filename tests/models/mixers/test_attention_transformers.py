"""One layer of attention as transformers has it for each dial, with random weights; needs requirements/parity.txt."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.visibility import Places, Reach, visible
from jaxllm.models import AttentionConfig, NormConfig, RopeConfig
from jaxllm.models.mixers.attention import Attention
from jaxllm.models.norm import Norm
from tests.models.mixers.attention_variants import whole

torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
masking = pytest.importorskip("transformers.masking_utils", reason="the parity tests need requirements/parity.txt")

from tests.models.mixers.transformers_layer import (  # noqa: E402 - it imports torch
    CAUSAL,
    MODEL,
    OURS,
    POSITIONS,
    SIZES,
    B,
    D,
    G,
    H,
    K,
    T,
    X,
    additive,
    compare,
    grid,
    inward,
    randomized,
    run,
)


def mapped(weights, heads=H, groups=G, width=K, **more):
    """The parameters that most families name alike."""
    bias = lambda name, n: weights[name].reshape(n, width) if name in weights else None  # noqa: E731
    fields = {
        "query": lambda: inward(weights["q_proj.weight"], heads, width),
        "key": lambda: inward(weights["k_proj.weight"], groups, width),
        "value": lambda: inward(weights["v_proj.weight"], groups, width),
        "out": lambda: weights["o_proj.weight"].T.reshape(heads, width, D),
        "query_bias": lambda: bias("q_proj.bias", heads),
        "key_bias": lambda: bias("k_proj.bias", groups),
        "value_bias": lambda: bias("v_proj.bias", groups),
        "out_bias": lambda: weights.get("o_proj.bias"),
        "query_norm": lambda: None,
        "key_norm": lambda: None,
    }
    made = {name: more.pop(name) if name in more else make() for name, make in fields.items()}
    return Attention(**made, **more)


@pytest.mark.parametrize(
    ("rope", "parameters"),
    [
        (RopeConfig(theta=500.0), {"rope_type": "default"}),
        (RopeConfig(scaling="linear", factor=3.0), {"rope_type": "linear", "factor": 3.0}),
        (
            RopeConfig(scaling="dynamic_ntk", factor=3.0, original_context=9),
            {"rope_type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 9},
        ),
        (
            RopeConfig(scaling="yarn", factor=4.0, original_context=16, beta_fast=2.0, beta_slow=0.2),
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.2},
        ),
        (
            RopeConfig(scaling="longrope", original_context=9, short_factor=(1,) * 4, long_factor=(1, 2, 3, 4)),
            {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
        ),
        (
            RopeConfig(theta=5000.0, scaling="llama3", factor=8.0, original_context=16),
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        ),
    ],
    ids=lambda value: getattr(value, "scaling", ""),
)
def test_llama_with_each_rope_scaling(rope, parameters):
    from transformers.models.llama import modeling_llama as llama

    # Theirs takes dynamic NTK's original length from the model's own.
    sizes = SIZES | ({"max_position_embeddings": 9} if rope.scaling == "dynamic_ntk" else {})
    parameters = {"rope_theta": rope.theta, "original_max_position_embeddings": rope.original_context} | parameters
    theirs = llama.LlamaConfig(**sizes, rope_parameters=parameters, attention_bias=True)
    module = llama.LlamaAttention(theirs, 0)
    weights = randomized(module)
    embeddings = llama.LlamaRotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    config = replace(OURS, qkv_bias=True, out_bias=True, rope=rope)
    compare(run(module, embeddings, CAUSAL), mapped(weights), MODEL, config)


def test_gemma2_soft_cap_window_and_scale():
    from transformers.models.gemma2 import modeling_gemma2 as gemma

    theirs = gemma.Gemma2Config(**SIZES, query_pre_attn_scalar=11, attn_logit_softcapping=1.3, sliding_window=5)
    module = gemma.Gemma2Attention(theirs, 0)
    assert module.sliding_window == 5
    weights = randomized(module)
    embeddings = gemma.Gemma2RotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    expected = run(module, embeddings, grid(masking.sliding_window_causal_mask_function(5)))
    compare(expected, mapped(weights), MODEL, replace(OURS, softcap=1.3, window=5, scale=11**-0.5))


def test_gemma3_one_scale_of_qk_norm():
    from transformers.models.gemma3 import modeling_gemma3 as gemma

    theirs = gemma.Gemma3TextConfig(
        **SIZES, query_pre_attn_scalar=11, sliding_window=5, layer_types=["sliding_attention"], rms_norm_eps=1e-3
    )
    module = gemma.Gemma3Attention(theirs, 0)
    weights = randomized(module)
    rotary = gemma.Gemma3RotaryEmbedding(theirs)
    embeddings = rotary(torch.tensor(X), torch.tensor(POSITIONS), layer_type="sliding_attention")
    expected = run(module, embeddings, grid(masking.sliding_window_causal_mask_function(5)))
    p = mapped(weights, query_norm=Norm(weights["q_norm.weight"], None), key_norm=Norm(weights["k_norm.weight"], None))
    model = replace(MODEL, norm=NormConfig(unit_offset=True, epsilon=1e-3))
    compare(expected, p, model, replace(OURS, qk_norm="shared", window=5, scale=11**-0.5))


def test_olmo2_qk_norm_over_all_heads():
    from transformers.models.olmo2 import modeling_olmo2 as olmo

    theirs = olmo.Olmo2Config(**SIZES, rms_norm_eps=1e-3)
    module = olmo.Olmo2Attention(theirs, 0)
    weights = randomized(module)
    embeddings = olmo.Olmo2RotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    norm = lambda name, heads: Norm(weights[f"{name}.weight"].reshape(heads, K), None)  # noqa: E731
    p = mapped(weights, query_norm=norm("q_norm", H), key_norm=norm("k_norm", G))
    model = replace(MODEL, norm=NormConfig(epsilon=1e-3))
    compare(run(module, embeddings, CAUSAL), p, model, replace(OURS, qk_norm="whole"))


def test_stablelm_a_layer_norm_for_each_head():
    from transformers.models.stablelm import modeling_stablelm as stablelm

    width = D // H
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.7}
    theirs = stablelm.StableLmConfig(
        **sizes, qk_layernorm=True, use_qkv_bias=True, layer_norm_eps=1e-3, rope_parameters=parameters
    )
    module = stablelm.StableLmAttention(theirs, 0)
    weights = randomized(module)
    embeddings = stablelm.StableLmRotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    norm = lambda name, n: Norm(np.stack([weights[f"{name}.norms.{i}.weight"] for i in range(n)]), None)  # noqa: E731
    p = mapped(weights, width=width, query_norm=norm("q_layernorm", H), key_norm=norm("k_layernorm", G))
    model = replace(MODEL, norm=NormConfig(kind="layernorm", bias=True, epsilon=1e-3))
    config = replace(OURS, head_dim=0, qkv_bias=True, qk_norm="per_head", rope=RopeConfig(fraction=0.7))
    compare(run(module, embeddings, CAUSAL), p, model, config)


def test_gpt_oss_sinks():
    from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss

    parameters = {
        "rope_type": "yarn",
        "rope_theta": 1e3,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "truncate": False,
        "beta_fast": 3.0,
        "beta_slow": 0.2,
    }
    theirs = gpt_oss.GptOssConfig(**SIZES, rope_parameters=parameters, attention_bias=True)
    module = gpt_oss.GptOssAttention(theirs, 0)
    weights = randomized(module)
    embeddings = gpt_oss.GptOssRotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    rope = RopeConfig(
        theta=1e3, scaling="yarn", factor=4.0, original_context=16, truncate=False, beta_fast=3.0, beta_slow=0.2
    )
    config = replace(OURS, qkv_bias=True, out_bias=True, sinks=True, rope=rope)
    compare(run(module, embeddings, CAUSAL), mapped(weights, sinks=weights["sinks"]), MODEL, config)


def test_qwen3_next_gate():
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    theirs = qwen.Qwen3NextConfig(**SIZES, rope_parameters=parameters, attention_bias=True, rms_norm_eps=1e-3)
    module = qwen.Qwen3NextAttention(theirs, 0)
    weights = randomized(module)
    embeddings = qwen.Qwen3NextRotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    query, gate = np.split(inward(weights["q_proj.weight"], H, 2 * K), 2, axis=-1)
    query_bias, gate_bias = np.split(weights["q_proj.bias"].reshape(H, 2 * K), 2, axis=-1)
    norm = lambda name: Norm(weights[f"{name}.weight"], None)  # noqa: E731
    p = mapped(
        weights,
        query=query,
        query_bias=query_bias,
        gate=gate,
        gate_bias=gate_bias,
        query_norm=norm("q_norm"),
        key_norm=norm("k_norm"),
    )
    model = replace(MODEL, norm=NormConfig(unit_offset=True, epsilon=1e-3))
    config = replace(OURS, qkv_bias=True, out_bias=True, gate=True, qk_norm="shared", rope=RopeConfig(fraction=0.25))
    compare(run(module, embeddings, CAUSAL), p, model, config)


@pytest.mark.parametrize("heads", [4, 6])
def test_bloom_alibi(heads):
    """Head counts that are a power of two and not."""
    from transformers.models.bloom import modeling_bloom as bloom

    width = D // heads
    module = bloom.BloomAttention(bloom.BloomConfig(hidden_size=D, n_head=heads, hidden_dropout=0.0), 0)
    weights = randomized(module)
    alibi = bloom.build_alibi_tensor(torch.ones(B, T), heads, torch.float32)
    with torch.no_grad():
        expected = module(torch.tensor(X), torch.zeros(B, T, D), alibi, additive(CAUSAL))[0]
    model, config = alibi_layer(heads)
    compare(expected, fused(weights, heads, width), model, config)


@pytest.mark.parametrize("heads", [4, 6])
def test_falcon_alibi(heads, monkeypatch):
    from transformers.models.falcon import modeling_falcon as falcon

    # Theirs rounds slopes and distances to bfloat16, which is a limit of the code, not of the model.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    sizes = {"hidden_size": D, "num_attention_heads": heads, "attn_implementation": "eager", "hidden_dropout": 0.0}
    theirs = falcon.FalconConfig(**sizes, alibi=True, multi_query=False, new_decoder_architecture=False, bias=True)
    module = falcon.FalconAttention(theirs, 0)
    weights = randomized(module)
    alibi = falcon.build_alibi_tensor(torch.ones(B, T), heads, torch.float32)
    with torch.no_grad():
        expected = module(torch.tensor(X), alibi, additive(CAUSAL))[0]
    model, config = alibi_layer(heads)
    compare(expected, fused(weights, heads, D // heads), model, replace(config, alibi_scaled=True))


def alibi_layer(heads):
    config = AttentionConfig(num_heads=heads, qkv_bias=True, out_bias=True)
    return replace(MODEL, positions="alibi", attention=config), config


def fused(weights, heads, width):
    """Queries, keys and values of a head side by side."""
    query, key, value = np.moveaxis(weights["query_key_value.weight"].reshape(heads, 3, width, D), 1, 0)
    biases = np.moveaxis(weights["query_key_value.bias"].reshape(heads, 3, width), 1, 0)
    return mapped(
        {"o_proj.weight": weights["dense.weight"], "o_proj.bias": weights["dense.bias"]},
        heads=heads,
        width=width,
        **{name: np.moveaxis(w, 2, 0) for name, w in zip(("query", "key", "value"), (query, key, value), strict=True)},
        **dict(zip(("query_bias", "key_bias", "value_bias"), biases, strict=True)),
    )


@pytest.mark.parametrize("use_rope", [True, False])
def test_llama4_chunks(use_rope):
    from transformers.models.llama4 import modeling_llama4 as llama

    sizes = SIZES | {"intermediate_size": 8}
    theirs = llama.Llama4TextConfig(
        **sizes, use_qk_norm=False, attn_temperature_tuning=False, no_rope_layers=[int(use_rope)]
    )
    module = llama.Llama4TextAttention(theirs, 0)
    weights = randomized(module)
    turns = llama.Llama4TextRotaryEmbedding(theirs)(torch.tensor(X), torch.tensor(POSITIONS))
    expected = run(module, turns, grid(masking.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long))))
    rope = RopeConfig(theta=theirs.rope_parameters["rope_theta"], interleaved=True)
    compare(expected, mapped(weights), MODEL, replace(OURS, chunk=4, rope=rope, no_positions=not use_rope))


def test_modernbert_window_to_both_sides_and_padding():
    from transformers.models.modernbert import modeling_modernbert as modernbert

    width = D // H
    theirs = modernbert.ModernBertConfig(
        hidden_size=D, num_attention_heads=H, num_hidden_layers=3, local_attention=6, attn_implementation="eager"
    )
    layer = theirs.layer_types.index("sliding_attention")
    module = modernbert.ModernBertAttention(theirs, layer)
    weights = randomized(module)
    rotary = modernbert.ModernBertRotaryEmbedding(theirs)
    embeddings = rotary(torch.tensor(X), torch.tensor(POSITIONS), layer_type="sliding_attention")
    valid = np.arange(T) < 10
    mask = grid(masking.sliding_window_bidirectional_mask_function(theirs.sliding_window)) & valid[None]
    query, key, value = weights["Wqkv.weight"].reshape(3, H, width, D).transpose(0, 3, 1, 2)
    p = mapped({"o_proj.weight": weights["Wo.weight"]}, width=width, query=query, key=key, value=value)
    theta = theirs.rope_parameters["sliding_attention"]["rope_theta"]
    config = AttentionConfig(num_heads=H, causal=False, window=6, rope=RopeConfig(theta=theta))
    ours = whole(p, MODEL, config, X, POSITIONS, None, np.broadcast_to(valid, (B, T)))
    np.testing.assert_allclose(ours[:, :10], run(module, embeddings, mask)[:, :10], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dials", "theirs"),
    [
        ({}, lambda: masking.causal_mask_function),
        ({"window": 3}, lambda: masking.sliding_window_causal_mask_function(3)),
        ({"window": 1}, lambda: masking.sliding_window_causal_mask_function(1)),
        ({"chunk": 5}, lambda: masking.chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long))),
        ({"causal": False, "window": 6}, lambda: masking.sliding_window_bidirectional_mask_function(3)),
    ],
    ids=["causal", "window of 3", "window of 1", "chunk", "both sides"],
)
def test_masks(dials, theirs):
    places = Places(jnp.arange(T)[None], None)
    np.testing.assert_array_equal(visible(places, places, Reach(**dials))[0], grid(theirs()))


def test_t5_bias_on_unscaled_scores():
    from transformers.models.t5 import modeling_t5 as t5

    theirs = t5.T5Config(d_model=D, d_kv=K, num_heads=H, attn_implementation="eager")
    module = t5.T5Attention(theirs, has_relative_attention_bias=True)
    weights = randomized(module)
    rename = {"q.weight": "q_proj.weight", "k.weight": "k_proj.weight", "v.weight": "v_proj.weight"}
    p = mapped({rename.get(name, "o_proj.weight"): w for name, w in weights.items() if "bias" not in name}, groups=H)
    with torch.no_grad():
        expected = module(torch.tensor(X), mask=additive(np.ones((T, T), bool)))[0]
        bias = module.compute_bias(T, T)
    model = replace(MODEL, positions="none")
    config = replace(OURS, num_kv_heads=H, scale=1.0, causal=False)
    ours = whole(p, model, config, X, POSITIONS, bias=bias.numpy())
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
