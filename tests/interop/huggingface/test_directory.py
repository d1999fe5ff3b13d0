"""Directories without transformers: what is read is what was written, sharded or not, and damage is named."""

import json
import tracemalloc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.interop.huggingface import load_huggingface, read_config, save_huggingface
from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.equivalence import difference
from jaxllm.interop.huggingface.families import FAMILIES
from jaxllm.interop.huggingface.family import expressing
from jaxllm.interop.huggingface.safetensors_files import read_directory
from jaxllm.interop.huggingface.weight_map import leaves_of
from jaxllm.models import PRESETS, Block, MLPConfig, decoder_spec, forward
from jaxllm.models.config import LatentAttentionConfig, MoEConfig, MultiTokenConfig, MuPConfig, RopeConfig
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, param_shardings
from tests.interop.huggingface.small_directory import CONFIG, edit_config, edit_tensors, params_of, write_model

HEAD, UP = "lm_head.weight", "model.layers.2.mlp.up_proj.weight"


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("max_file_bytes", [10**9, 3000], ids=["one file", "several"])
def test_what_was_written_is_read(tmp_path, max_file_bytes):
    params = params_of(CONFIG)
    save_huggingface(tmp_path / "m", CONFIG, params, max_file_bytes=max_file_bytes)
    read = load_huggingface(tmp_path / "m")
    assert difference(CONFIG, read.config) == ""
    assert (read.family, read.tokenizer, read.stop_tokens) == ("llama", None, ())
    same(read.params, params)
    assert (len(list((tmp_path / "m").glob("*.safetensors"))) > 1) == (max_file_bytes == 3000)


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2, "tensor": 2}, {"tensor": 2}])
def test_onto_a_mesh(tmp_path, axes):
    layout = Layout(make_mesh(MeshConfig(**{"data": -1, **axes})))
    write_model(tmp_path / "m")
    plain, sharded = load_huggingface(tmp_path / "m"), load_huggingface(tmp_path / "m", layout=layout)
    same(sharded.params, plain.params)
    wanted = param_shardings(decoder_spec(plain.config), layout)
    assert jax.tree.map(lambda array: array.sharding, sharded.params) == wanted


def test_no_more_than_a_part_and_a_tensor_is_in_memory(tmp_path, monkeypatch):
    config = replace(CONFIG, vocab_size=512, d_model=256, mlp=replace(CONFIG.mlp, d_ff=1024))
    write_model(tmp_path / "m", config, dtype=jnp.bfloat16)
    layout = Layout(make_mesh(MeshConfig(data=1, fsdp=8)))
    on_device = jax.device_put
    # On a CPU a device's memory is the host's, so what is there is replaced by what numpy does not know of.
    monkeypatch.setattr(jax, "device_put", lambda part, device: on_device(jnp.zeros(part.shape, part.dtype), device))
    load_huggingface(tmp_path / "m", layout=layout)  # what is compiled and kept does not count
    tracemalloc.start()
    load_huggingface(tmp_path / "m", layout=layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    part, tensor, whole = 4 * 256 * 1024 * 4 // 8, 256 * 1024 * 4, 4 * 256 * 1024 * 4
    assert part + tensor < 0.5 * whole
    assert peak < part + tensor


def test_only_what_a_part_needs_is_read(tmp_path):
    """A device's rows of a matrix that is stored the other way round are a view of the file."""
    write_model(tmp_path / "m")
    leaves = {leaf.path: leaf for leaf in leaves_of(decoder_spec(CONFIG), FAMILIES["llama"].weights(CONFIG))}
    stored = read_directory(tmp_path / "m")
    piece = leaves["segments.0.0.channel.up"].pieces[0]
    array = stored[piece.theirs].array()
    assert np.shares_memory(piece.rearrangement.to_ours(array)[3:5], array)


def test_types(tmp_path):
    write_model(tmp_path / "m", dtype=jnp.bfloat16)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    exact, short = load_huggingface(tmp_path / "m"), load_huggingface(tmp_path / "m", dtype="bfloat16")
    assert {array.dtype.name for array in jax.tree.leaves(exact.params)} == {"float32"}
    assert {array.dtype.name for array in jax.tree.leaves(short.params)} == {"bfloat16"}
    assert (exact.config.compute_dtype, short.config.compute_dtype) == ("float32", "bfloat16")
    same(jax.tree.map(lambda x: x.astype(jnp.float32), short.params), exact.params)


def test_names_without_the_prefix_of_the_base_model(tmp_path):
    write_model(tmp_path / "m")
    edit_tensors(tmp_path / "m", lambda arrays: strip(arrays, "model."))
    same(load_huggingface(tmp_path / "m").params, params_of(CONFIG))


def strip(arrays, prefix):
    for name in list(arrays):
        arrays[name.removeprefix(prefix)] = arrays.pop(name)


def test_a_tied_head_may_be_there_once_more(tmp_path):
    tied = replace(CONFIG, tie_embeddings=True)
    write_model(tmp_path / "m", tied)
    edit_tensors(tmp_path / "m", lambda arrays: arrays.update({HEAD: arrays["model.embed_tokens.weight"]}))
    same(load_huggingface(tmp_path / "m").params, params_of(tied))
    edit_tensors(tmp_path / "m", lambda arrays: arrays.update({HEAD: arrays[HEAD] + 1}))
    with pytest.raises(ValueError, match=r"says that lm_head.weight is model.embed_tokens.weight \(tie_word_emb"):
        load_huggingface(tmp_path / "m")


def test_what_older_versions_wrote_beside_the_weights_is_passed_over(tmp_path):
    write_model(tmp_path / "m")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(tmp_path / "m", lambda arrays: arrays.update({name: np.ones(2, np.float32)}))
    same(load_huggingface(tmp_path / "m").params, params_of(CONFIG))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.pop(UP), rf"{UP} is missing; expected \(24, 16\)"),
        (lambda a: a.update({UP: a[UP].T.copy()}), rf"{UP} has the shape \(16, 24\); expected \(24, 16\)"),
        (lambda a: a.update({UP: a[UP].astype(np.int8)}), f"{UP} has the type int8; weights are floating-point"),
        (lambda a: a.update(extra=a[UP]), r"extra \(24, 16\) is not a tensor of this model"),
        (lambda a: a[UP].__setitem__((3, 5), np.nan), f"m/model.safetensors: tensor '{UP}' holds NaN or infinity"),
        (lambda a: a[HEAD].__setitem__((0, 0), np.inf), f"tensor '{HEAD}' holds NaN or infinity"),
    ],
    ids=["missing", "misshapen", "mistyped", "extra", "NaN", "infinity"],
)
def test_wrong_tensors_are_named(tmp_path, change, complaint):
    write_model(tmp_path / "m")
    edit_tensors(tmp_path / "m", change)
    with pytest.raises(ValueError, match=complaint):
        load_huggingface(tmp_path / "m")


def test_all_of_them_are_named(tmp_path):
    write_model(tmp_path / "m")

    def spoil(arrays):
        arrays["norm"] = arrays.pop("model.norm.weight")
        arrays[HEAD] = arrays[HEAD][:3]

    edit_tensors(tmp_path / "m", spoil)
    with pytest.raises(ValueError, match="does not hold what its config asks for") as error:
        load_huggingface(tmp_path / "m")
    assert {line.split()[0] for line in str(error.value).splitlines()[1:]} == {"model.norm.weight", HEAD, "norm"}


def test_what_is_not_finite_can_be_asked_for(tmp_path):
    write_model(tmp_path / "m")
    edit_tensors(tmp_path / "m", lambda arrays: arrays[HEAD].__setitem__((0, 0), np.nan))
    assert np.isnan(load_huggingface(tmp_path / "m", allow_nonfinite=True).params.head[0, 0])


def test_numbers_beyond_the_type_asked_for_are_not_made_infinite(tmp_path):
    write_model(tmp_path / "m")
    edit_tensors(tmp_path / "m", lambda arrays: arrays.update({HEAD: np.full((40, 16), 1e5, np.float32)}))
    with pytest.raises(ValueError, match=f"'{HEAD}' holds NaN or infinity as float16"):
        load_huggingface(tmp_path / "m", dtype="float16")


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"model_type": "lama"}, "config.json: model_type 'lama' is not known; did you mean llama"),
        ({"model_type": ...}, "config.json: model_type is missing"),
        ({"hidden_size": "16"}, 'config.json: hidden_size must be a whole number, found "16"'),
        ({"hidden_size": ..., "hidden_sise": 16}, "hidden_size is missing; did you mean hidden_sise"),
        ({"hidden_act": "tanh"}, "hidden_act='tanh' is not supported; supported: 'gelu'"),
        (
            {"rope_scaling": {"type": "cubic", "factor": 2.0}},
            "type='cubic' is not supported; supported: 'default'",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "bend": 3}}, "config.json: rope_scaling: .*bend=3"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "config.json: .*factor must be at least 1"),
        ({"logit_bend": 3.0}, "config.json: not supported for model_type 'llama': logit_bend=3.0"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantized by gptq are not supported"),
        ({"num_key_value_heads": 3}, "config.json: num_heads=4 must be a positive multiple of num_kv_heads=3"),
    ],
)
def test_wrong_options_are_named(tmp_path, entries, complaint):
    write_model(tmp_path / "m")
    edit_config(tmp_path / "m", **entries)
    with pytest.raises(ValueError, match=complaint):
        load_huggingface(tmp_path / "m")


def test_options_that_change_nothing_are_passed_over(tmp_path):
    write_model(tmp_path / "m")
    edit_config(tmp_path / "m", attention_dropout=0.1, use_cache=True, logit_bend=None, other_bend=0.0, bends=[])
    assert difference(read_config(tmp_path / "m"), CONFIG) == ""


def test_a_directory_without_config(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is no JSON"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (replace(CONFIG, mup=MuPConfig()), "llama: mup is MuPConfig"),
        (replace(CONFIG, positions="sinusoidal"), "llama: positions is 'sinusoidal', it would become 'rope'"),
        (replace(CONFIG, pattern=(Block(), Block("none"))), r"layers\[1\].mixer is 'none'"),
        (replace(CONFIG, mlp=MLPConfig(d_ff=24, activation="relu2", gated=False)), "layers.0..channel.gated is False"),
        (
            replace(CONFIG, pattern=(Block(channel=MoEConfig(num_experts=4, router="expert_choice")),)),
            "mixtral: layers.0..channel.router is 'expert_choice'",
        ),
    ],
    ids=["mup", "sinusoidal", "no mixer", "not gated", "expert choice"],
)
def test_what_no_family_can_express_is_refused(tmp_path, config, reason):
    with pytest.raises(ValueError, match=f"no family of transformers can express this ModelConfig:(.|\n)*{reason}"):
        write_model(tmp_path / "m", config)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    write_model(tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        save_huggingface(tmp_path / "m", CONFIG, params_of(CONFIG, seed=1))
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("jaxllm.interop.huggingface.directory.write_directory", full)
    with pytest.raises(OSError, match="no space"):
        write_model(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_parameters_that_are_no_plain_arrays_are_refused(tmp_path):
    params = params_of(CONFIG).replace(head=None)
    with pytest.raises(ValueError, match="the parameters are not plain arrays of this model"):
        save_huggingface(tmp_path / "m", CONFIG, params)


@pytest.mark.parametrize("name", PRESETS)
def test_published_models_go_to_config_json_and_back(name):
    config = PRESETS[name]()
    family, entries = expressing(config, FAMILIES.values())
    assert difference(family.read(ConfigFile(entries)), config) == ""
    spec = decoder_spec(config)
    assert len(leaves_of(spec, family.weights(config))) == len(jax.tree.leaves(spec))


def test_a_pattern_of_layers_is_found_again(tmp_path):
    """Sliding layers first, then full ones: the model that is read scans over few blocks, and computes the same."""
    local = replace(CONFIG.attention, window=5)
    blocks = (Block(local), Block(local), Block(CONFIG.attention), Block(local))
    blocks = tuple(Block(replace(block.mixer, qkv_bias=True)) for block in blocks)
    config = replace(CONFIG, pattern=blocks)
    params = params_of(config)
    save_huggingface(tmp_path / "m", config, params)
    read = load_huggingface(tmp_path / "m")
    assert read.family == "qwen2"
    tokens = np.random.default_rng(0).integers(0, 40, (1, 16))
    expected, got = forward(params, config, tokens), forward(read.params, read.config, tokens)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_modules_that_predict_further_tokens(tmp_path):
    """They stand behind the last layer, as in the published weights; a directory may be without them."""
    latent = LatentAttentionConfig(
        num_heads=2, kv_rank=6, nope_dim=4, rope_dim=2, value_dim=4, rope=RopeConfig(interleaved=True)
    )
    experts = MoEConfig(num_experts=4, d_ff=6, router="sigmoid", normalize=True, balance_rate=0.0, shared_d_ff=6)
    config = replace(
        CONFIG,
        prologue=(Block(latent),),
        pattern=(Block(latent, experts),),
        multi_token=MultiTokenConfig(depth=2),
    )
    params = params_of(config)
    save_huggingface(tmp_path / "m", config, params)
    read = load_huggingface(tmp_path / "m")
    assert (read.family, read.config.multi_token) == ("deepseek_v3", config.multi_token)
    same(read.params, params)
    names = read_directory(tmp_path / "m").keys()
    assert {"model.layers.4.eh_proj.weight", "model.layers.5.mlp.experts.3.up_proj.weight"} < names

    copies = {"model.layers.4.embed_tokens.weight": "model.embed_tokens.weight"}
    copies["model.layers.5.shared_head.head.weight"] = HEAD
    edit_tensors(tmp_path / "m", lambda arrays: arrays.update({copy: arrays[name] for copy, name in copies.items()}))
    same(load_huggingface(tmp_path / "m").params, params)

    modules = ("model.layers.4.", "model.layers.5.")
    edit_tensors(tmp_path / "m", lambda arrays: [arrays.pop(n) for n in list(arrays) if n.startswith(modules)])
    same(load_huggingface(tmp_path / "m").params, params.replace(multi_token=None))
