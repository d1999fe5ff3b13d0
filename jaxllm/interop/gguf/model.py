"""A model out of a GGUF file: config, parameters on the devices, tokenizer with its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxllm.config import did_you_mean
from jaxllm.interop.gguf.architectures import ARCHITECTURES, ROPE_TENSORS, Architecture, renamed
from jaxllm.interop.gguf.gguf_file import GGUFFile, read_gguf
from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families import FAMILIES
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.parameters import read_params
from jaxllm.models import Decoder, ModelConfig, decoder_spec
from jaxllm.parallel.sharding import Layout
from jaxllm.tokenizers import Tokenizer
from jaxllm.tokenizers.formats.gguf_tokenizer import tokenizer_of
from jaxllm.tokenizers.formats.gguf_vocabulary import vocabulary_of

ARCHITECTURE_KEY = "general.architecture"
# Tokens that end an answer: of a text, of a turn, of a message.
STOP_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))


class GGUFModel(NamedTuple):
    """What a file holds."""

    name: str
    config: ModelConfig
    params: Decoder
    tokenizer: Tokenizer
    stop_tokens: tuple[int, ...]
    """Ids that end an answer."""


class Described(NamedTuple):
    """What a file says of the model in it."""

    architecture: Architecture
    family: Family
    entries: dict[str, Any]
    """config.json, as transformers would have it."""
    config: ModelConfig


def load_gguf(
    source: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    layout: Layout | None = None,
    dtype: Any = None,
    allow_nonfinite: bool = False,
) -> GGUFModel:
    """Read a model, decoding tensor by tensor into the places of its parameters.

    `source` is what `read_gguf` takes; the other arguments, and what is raised, are those of `load_huggingface`. Ask
    for bfloat16 to have half the memory, and the computation in that type.
    """
    file = read_gguf(source)
    described = describe(file)
    config, dtype = described.config, jnp.dtype(dtype or jnp.float32)
    if dtype == jnp.bfloat16:
        config = replace(config, compute_dtype="bfloat16")
    params = read_params(
        decoder_spec(config),
        described.family.weights(config),
        stored_tensors(file, described),
        str(file.path),
        layout=layout,
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
    )
    tokenizer = tokenizer_of(vocabulary_of(file.settings, str(file.path)))
    name = file.settings.get("general.name", file.path.stem)
    return GGUFModel(str(name), config, params, tokenizer, _stop_tokens(file.settings))


def describe(file: GGUFFile) -> Described:
    """The model that the settings describe. Raises ValueError for an architecture or a setting not supported."""
    name = file.settings.get(ARCHITECTURE_KEY)
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{file.path}: {ARCHITECTURE_KEY} {name!r} is not supported{did_you_mean(str(name), ARCHITECTURES)}; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[name]
    prefix = f"{name}."
    own = {key.removeprefix(prefix): _shortest(value) for key, value in file.settings.items() if key.startswith(prefix)}
    meta = ConfigFile(own | {"model_type": name}, str(file.path))
    entries = architecture.entries(meta, file.tensors) | {"model_type": architecture.model_type}
    meta.finish()
    family = FAMILIES[architecture.model_type]
    return Described(architecture, family, entries, family.read(ConfigFile(entries, str(file.path))))


def stored_tensors(file: GGUFFile, described: Described) -> dict[str, Any]:
    """The tensors under the names of transformers, as it has them; blocks stay blocks wherever rows do."""
    architecture, stored = described.architecture, {}
    for name, tensor in file.tensors.items():
        if name in ROPE_TENSORS:
            continue
        adjusted = architecture.adjust(name, tensor, described.entries) if architecture.adjust else tensor
        stored[renamed(name, architecture)] = adjusted
    return stored


def _shortest(value: Any) -> Any:
    """A single-precision number as it was before: 1e-05, not 9.999999747378752e-06."""
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _stop_tokens(settings: dict[str, Any]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(settings[key] for key in STOP_KEYS if type(settings.get(key)) is int))
