"""Directories that transformers wrote, and logits that it computed (golden_decoders/make_golden.py): no PyTorch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.interop.huggingface import load_huggingface, save_huggingface
from jaxllm.interop.huggingface.safetensors_files import read_directory
from jaxllm.models import forward

DIRECTORIES = sorted(path.parent for path in (Path(__file__).parent / "golden_decoders").glob("*/config.json"))


@pytest.fixture(params=DIRECTORIES, ids=lambda directory: directory.name)
def directory(request):
    return request.param


def test_logits_are_those_of_transformers(directory):
    with np.load(directory / "logits.npz") as golden:
        tokens, expected = golden["tokens"], golden["logits"]
    model = load_huggingface(directory)
    assert np.std(expected) > 0.3, "logits that differ clearly"
    np.testing.assert_allclose(forward(model.params, model.config, tokens), expected, atol=1e-4)


def test_what_is_written_again_is_what_was_there(directory, tmp_path):
    model = load_huggingface(directory)
    save_huggingface(tmp_path / "again", model.config, model.params, family=model.family, dtype=jnp.bfloat16)
    before, after = read_directory(directory), read_directory(tmp_path / "again")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor.array(), after[name].array(), err_msg=name)


def test_there_are_enough():
    assert len(DIRECTORIES) >= 10
