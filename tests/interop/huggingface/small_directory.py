"""A small model in a Hugging Face directory, made without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.interop.huggingface import save_huggingface
from jaxllm.interop.huggingface.safetensors_files import SINGLE_FILE, read_file
from jaxllm.interop.huggingface.safetensors_writing import PlannedTensor, write_file
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, decoder_spec

CONFIG = ModelConfig(
    vocab_size=40,
    context_length=32,
    d_model=16,
    num_layers=4,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, rope=RopeConfig(theta=500.0)),
    mlp=MLPConfig(d_ff=24, activation="silu", gated=True),
    tie_embeddings=False,
)


def params_of(config: ModelConfig, seed: int = 0):
    """Every parameter at random, scales and biases too."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape) * 0.3, jnp.float32), decoder_spec(config))


def write_model(directory: Path, config: ModelConfig = CONFIG, **settings) -> Path:
    save_huggingface(directory, config, params_of(config), **settings)
    return directory


def edit_config(directory: Path, **entries) -> None:
    """Set entries of config.json; one that is ... is taken out."""
    file = directory / "config.json"
    changed = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not ...}))


def edit_tensors(directory: Path, change) -> None:
    """Write the weights anew after `change` of the dictionary of arrays."""
    arrays = {name: np.array(tensor.array()) for name, tensor in read_file(directory / SINGLE_FILE).items()}
    change(arrays)
    planned = {
        name: PlannedTensor(array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()
    }
    write_file(directory / SINGLE_FILE, planned)
