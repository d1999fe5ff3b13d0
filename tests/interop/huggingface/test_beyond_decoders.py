"""Encoders and the rest from files and back, without PyTorch; golden/make_golden.py made the logits."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.interop.huggingface.beyond_decoders import (
    FAMILIES,
    SPECS,
    is_other_model,
    load_other,
    read_other_config,
    save_other,
)
from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.parameters import read_params
from jaxllm.models.config import HeadConfig
from jaxllm.models.declare import count, initialize
from jaxllm.models.encoder import encode, masked_logits
from jaxllm.models.encoder_decoder import forward
from tests.models.test_encoder import BERT, MODERNBERT, ROBERTA
from tests.models.test_encoder_decoder import BART, T5
from tests.models.test_vision import CLIP, LLAVA, SIGLIP, VIT

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Held:
    """A tensor in memory that looks like one in a file."""

    name: str
    values: np.ndarray
    file: str = "golden"

    @property
    def shape(self):
        return self.values.shape

    @property
    def dtype(self):
        return self.values.dtype

    def array(self):
        return self.values


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_logits_are_those_of_transformers(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    entries = json.loads(str(golden["config"]))
    config = FAMILIES[name].config_from(ConfigFile(entries))
    stored = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    held = {key: Held(key, value) for key, value in stored.items()}
    spec = SPECS[type(config)](config)
    assert count(spec) == sum(value.size for value in stored.values())
    params = read_params(spec, FAMILIES[name].weights(config), held, "golden")
    tokens, mask = golden["tokens"], golden["mask"]
    if name == "bert":
        logits = masked_logits(params, config, encode(params, config, tokens, mask=mask))
        logits, wanted = logits[mask], golden["logits"][mask]
    else:
        logits, wanted = forward(params, config, tokens, golden["target"], mask=mask), golden["logits"]
    assert np.std(wanted) > 1, "logits that differ clearly"
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


HEADLESS = replace(
    BERT, masked_head=False, num_classes=0, trunk=replace(BERT.trunk, head=HeadConfig()), transform_activation="gelu"
)
MODELS = {
    "bert": HEADLESS,
    "bert-masked": replace(BERT, pooler="none", num_classes=0),
    "bert-classifier": replace(HEADLESS, num_classes=5),
    "roberta": replace(ROBERTA, pooler="none", num_classes=0),
    "modernbert": replace(
        MODERNBERT, pooler="none", pooling="first", num_classes=0, trunk=replace(MODERNBERT.trunk, num_layers=7)
    ),
    "t5": T5,
    "bart": BART,
    "siglip": SIGLIP,
    "clip": CLIP,
    "vit": VIT,
    "llava": LLAVA,
}


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_again(name, tmp_path):
    config = MODELS[name]
    params = initialize(SPECS[type(config)](config), jax.random.key(0))
    save_other(tmp_path / "model", config, params)
    assert is_other_model(tmp_path / "model")
    loaded = load_other(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"].startswith(name.split("-")[0])
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), loaded.params, params))
    assert loaded.tokenizer is None
    # What tells the two apart may only be what starts the training of a model.
    again = tmp_path / "again"
    save_other(again, loaded.config, loaded.params)
    assert (again / "config.json").read_text() == (tmp_path / "model" / "config.json").read_text()
    assert read_other_config(again) == loaded.config


@pytest.fixture
def directory(tmp_path):
    config = MODELS["bert-masked"]
    params = initialize(SPECS[type(config)](config), jax.random.key(0))
    save_other(tmp_path / "model", config, params)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "brt"}, "model_type 'brt' is not known"),
        ({"architectures": ["BertForQuestionAnswering"]}, "supported: BertModel, BertForMaskedLM, BertForSequence"),
        ({"is_decoder": True}, "is_decoder=true is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type="),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not supported"),
        ({"some_new_option": 3}, "not supported for model_type 'bert': some_new_option=3"),
        ({"num_attention_heads": 5}, "d_model=24 is not a multiple of num_heads=5"),
        ({"num_hidden_layers": 3}, "bert.encoder.layer.2.attention.self.query.weight is missing"),
        ({"intermediate_size": 41}, "bert.encoder.layer.0.intermediate.dense.weight has the shape (40, 24)"),
        ({"architectures": ["BertModel"]}, "cls.predictions.bias (61,) is not a tensor of this model"),
    ],
)
def test_what_does_not_fit_is_named(directory, changes, complaint):
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=re.escape(complaint)):
        load_other(directory)


def test_what_no_family_can_express(tmp_path):
    odd = replace(BERT, trunk=replace(BERT.trunk, positions="none"))
    params = initialize(SPECS[type(odd)](odd), jax.random.key(0))
    with pytest.raises(ValueError, match="no family of transformers can express this EncoderConfig") as error:
        save_other(tmp_path / "model", odd, params)
    assert "bert: trunk.positions is 'none', it would become 'learned'" in str(error.value)
    assert "modernbert: " in str(error.value) and "t5: " not in str(error.value)
    with pytest.raises(ValueError, match=r"t5: .*encoder_bias is missing"):
        save_other(tmp_path / "model", BART, initialize(SPECS[type(BART)](BART), jax.random.key(0)), family="t5")
    with pytest.raises(ValueError, match="the family 't5' is not one of models that EncoderConfig describes"):
        save_other(tmp_path / "model", odd, params, family="t5")
    assert not (tmp_path / "model").exists()


def test_a_t5_that_is_said_to_be_tied_keeps_the_head_it_has(tmp_path):
    own = replace(T5, decoder=replace(T5.decoder, tie_embeddings=False, head=HeadConfig()))
    params = initialize(SPECS[type(own)](own), jax.random.key(0))
    save_other(tmp_path / "model", own, params)
    file = tmp_path / "model" / "config.json"
    assert json.loads(file.read_text())["tie_word_embeddings"] is False
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
    loaded = load_other(tmp_path / "model")
    np.testing.assert_array_equal(loaded.params.decoder.head, params.decoder.head)
    assert loaded.config.decoder.head.scale == 1


def test_names_of_older_versions(tmp_path, directory):
    """gamma and beta, and towers in modules of their own."""
    from safetensors.numpy import load_file, save_file

    file = directory / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    wanted = load_other(directory).params
    save_file(old, file)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, load_other(directory).params, wanted))

    params = initialize(SPECS[type(LLAVA)](LLAVA), jax.random.key(0))
    save_other(tmp_path / "llava", LLAVA, params)
    file = tmp_path / "llava" / "model.safetensors"
    names = load_file(file)
    assert "language_model.lm_head.weight" in names and "vision_tower.pre_layrnorm.weight" in names
    save_file({re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name): names[name] for name in names}, file)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, load_other(tmp_path / "llava").params, params))
    flat = {
        re.sub(r"^language_model\.(model\.)?", lambda m: "model.language_model." if m[1] else "", n): n for n in names
    }
    save_file({new: names[old] for new, old in flat.items()}, file)
    assert "lm_head.weight" in flat and "model.language_model.embed_tokens.weight" in flat
    assert jax.tree.all(jax.tree.map(jnp.array_equal, load_other(tmp_path / "llava").params, params))
