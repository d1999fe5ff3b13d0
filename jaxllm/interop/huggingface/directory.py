"""A model's directory as transformers has it, read onto the devices and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxllm import tokenizers
from jaxllm.data.atomic import new_directory
from jaxllm.interop.huggingface.config_file import CONFIG_FILE, read_object
from jaxllm.interop.huggingface.families import FAMILIES
from jaxllm.interop.huggingface.family import Family, config_file, expressing, family_of
from jaxllm.interop.huggingface.parameters import planned_tensors, read_params
from jaxllm.interop.huggingface.quantized_tensors import expanded, read_quantization
from jaxllm.interop.huggingface.safetensors_files import read_directory
from jaxllm.interop.huggingface.safetensors_writing import PlannedTensor, write_directory
from jaxllm.interop.huggingface.weight_map import leaves_of
from jaxllm.models import Decoder, ModelConfig, decoder_spec
from jaxllm.parallel.sharding import Layout
from jaxllm.tokenizers import Tokenizer

GENERATION_FILE = "generation_config.json"
MAX_FILE_BYTES = 5_000_000_000  # what the hub's web site and older programs handle well


class HuggingFaceModel(NamedTuple):
    """What such a directory holds."""

    config: ModelConfig
    params: Decoder
    tokenizer: Tokenizer | None
    """None where the directory has none."""
    stop_tokens: tuple[int, ...]
    """Ids that end an answer, as the directory names them."""
    family: str
    """Its model_type."""


def is_huggingface(directory: Path) -> bool:
    """Whether this is a directory with a config.json that names a model_type."""
    file = directory / CONFIG_FILE
    return file.is_file() and "model_type" in read_object(file)


def read_config(directory: str | Path) -> ModelConfig:
    """The architecture that config.json describes, without its weights.

    Raises ValueError for a model_type that is not known and for options that can't be honoured, naming them.
    """
    return _read_config(Path(directory)).config


def load_huggingface(
    directory: str | Path,
    *,
    layout: Layout | None = None,
    dtype: Any = None,
    allow_nonfinite: bool = False,
) -> HuggingFaceModel:
    """Read config.json, safetensors and tokenizer of a directory.

    Parameters are read part by part into their places: sharded by `layout`, else on the first local device; in `dtype`,
    float32 unless it is given. Weights in FP8 or MXFP4 are expanded on the way. Raises ValueError, naming file and
    option or tensor, for what is unknown, unsupported, missing, misshapen, damaged or not finite.
    """
    directory = Path(directory)
    family, config, quantization = _read_config(directory)
    dtype = jnp.dtype(dtype or jnp.float32)
    if dtype == jnp.bfloat16:
        config = replace(config, compute_dtype="bfloat16")
    stored = expanded(read_directory(directory), quantization)
    config = _without_absent_modules(family, config, stored)
    params = read_params(
        decoder_spec(config),
        family.weights(config),
        stored,
        str(directory),
        layout=layout,
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
    )
    tokenizer = _read_tokenizer(directory, config)
    return HuggingFaceModel(config, params, tokenizer, _stop_tokens(directory, config), family.model_type)


def _without_absent_modules(family: Family, config: ModelConfig, stored: Mapping[str, Any]) -> ModelConfig:
    """Modules that predict further tokens are named in the config, but transformers writes no weights of them."""
    if config.multi_token is None:
        return config
    leaves = leaves_of(decoder_spec(config), family.weights(config))
    names = {piece.theirs for leaf in leaves if leaf.path.startswith("multi_token.") for piece in leaf.pieces}
    return config if names & stored.keys() else replace(config, multi_token=None)


class Described(NamedTuple):
    """What config.json says."""

    family: Family
    config: ModelConfig
    quantization: dict[str, Any]


def _read_config(directory: Path) -> Described:
    hf = config_file(directory)
    family, quantization = family_of(hf, FAMILIES), read_quantization(hf)
    return Described(family, family.read(hf), quantization)


def _read_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer beside the weights. Tokens that were added behind the model's table (an image's placeholder, in
    text-only models) can't be used, so they are left out."""
    if not tokenizers.has_tokenizer(directory):
        return None
    tokenizer = tokenizers.load(directory)
    if tokenizer.vocab_size <= config.vocab_size:
        return tokenizer
    kept = [token for token in tokenizer.added_tokens if token.id < config.vocab_size]
    names = {token.content for token in tokenizer.added_tokens} - {token.content for token in kept}
    roles = {role: name for role, name in tokenizer.roles.items() if name not in names}
    return tokenizer.replace(added_tokens=kept, roles=roles)


def _stop_tokens(directory: Path, config: ModelConfig) -> tuple[int, ...]:
    """Those of the first file that names any, and of them those that the model can write."""
    for name in (GENERATION_FILE, CONFIG_FILE):
        named = read_object(directory / name).get("eos_token_id") if (directory / name).is_file() else None
        if named is None:
            continue
        tokens = named if isinstance(named, list) else [named]
        if not all(type(token) is int for token in tokens):
            raise ValueError(f"{directory / name}: eos_token_id must be an id or a list of ids, found {named!r}")
        return tuple(token for token in tokens if 0 <= token < config.vocab_size)
    return ()


def save_huggingface(
    directory: str | Path,
    config: ModelConfig,
    params: Decoder,
    tokenizer: Tokenizer | None = None,
    *,
    stop_tokens: tuple[int, ...] = (),
    family: str = "",
    dtype: Any = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write a directory that transformers loads, whole or not at all.

    It is of the first family that can express the model exactly; `family` is tried before the others. Weights are
    written in `dtype`, else in the type they have. Raises ValueError, saying what is in the way, for a model that no
    family can express, and FileExistsError for a directory that is in use.
    """
    chosen, entries = expressing(config, sorted(FAMILIES.values(), key=lambda one: one.model_type != family))
    tensors = planned_tensors(decoder_spec(config), params, chosen.weights(config), dtype)
    tokens = _token_entries(tokenizer, stop_tokens)
    files = {CONFIG_FILE: entries | tokens, GENERATION_FILE: {"_from_model_config": True, **tokens}}
    write_model(Path(directory), files, tensors, tokenizer, max_file_bytes)


def write_model(
    directory: Path,
    files: dict[str, dict[str, Any]],
    tensors: Mapping[str, PlannedTensor],
    tokenizer: Tokenizer | None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """A directory of these JSON files, the tensors, whose type config.json tells, and the tokenizer; whole or not."""
    types = {tensor.dtype.name for tensor in tensors.values()}
    files[CONFIG_FILE] = {"torch_dtype": types.pop() if len(types) == 1 else "float32"} | files[CONFIG_FILE]
    with new_directory(directory.absolute()) as staged:
        if tokenizer is not None:
            tokenizer.save(staged)
        for name, entries in files.items():
            (staged / name).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        write_directory(staged, tensors, max_file_bytes)


def _token_entries(tokenizer: Tokenizer | None, stop_tokens: tuple[int, ...]) -> dict[str, Any]:
    if tokenizer is None:
        named: dict[str, int] = {}
    else:
        ids = tokenizer.special_tokens
        roles = {role: ids.get(name) for role, name in getattr(tokenizer, "roles", {}).items()}
        named = {role: roles.get(f"{role}_token") for role in ("bos", "eos", "pad")}
    eos: int | list[int] | None = named.get("eos")
    if stop_tokens:
        eos = stop_tokens[0] if len(stop_tokens) == 1 else list(stop_tokens)
    # Absent is not null: without an entry, transformers takes the family's own ids.
    return {"bos_token_id": named.get("bos"), "eos_token_id": eos, "pad_token_id": named.get("pad")}
