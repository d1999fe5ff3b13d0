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
from jaxllm.interop.huggingface.config_file import CONFIG_FILE, ConfigFile, read_object
from jaxllm.interop.huggingface.equivalence import difference
from jaxllm.interop.huggingface.families import FAMILIES, family_of
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.parameters import planned_tensors, read_params
from jaxllm.interop.huggingface.quantized_tensors import expanded, read_quantization
from jaxllm.interop.huggingface.safetensors_files import read_directory
from jaxllm.interop.huggingface.safetensors_writing import write_directory
from jaxllm.interop.huggingface.weight_map import leaves_of
from jaxllm.models import Decoder, ModelConfig, decoder_spec
from jaxllm.parallel.sharding import Layout
from jaxllm.tokenizers import Tokenizer
from jaxllm.tokenizers.formats.gpt2_files import VOCABULARY_NAMES

GENERATION_FILE = "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer", "tokenizer.model", *VOCABULARY_NAMES, "vocab.txt")
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
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{directory} has no {CONFIG_FILE}: it is no model of Hugging Face's")
    entries = read_object(file)
    hf = ConfigFile(entries, str(file))
    family = family_of(hf.text("model_type"), str(file))
    quantization = read_quantization(hf)
    return Described(family, _config_of(family, hf), quantization)


def _config_of(family: Family, hf: ConfigFile) -> ModelConfig:
    try:
        config = family.config_from(hf)
    except ValueError as error:
        raise error if str(error).startswith(hf.source) else hf.error(str(error)) from error
    hf.finish()
    return config


def _read_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer beside the weights. Tokens that were added behind the model's table (an image's placeholder, in
    text-only models) can't be used, so they are left out."""
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
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
    chosen, entries = entries_for(config, family)
    spec = decoder_spec(config)
    tensors = planned_tensors(spec, params, chosen.weights(config), dtype)
    types = {tensor.dtype.name for tensor in tensors.values()}
    tokens = _token_entries(tokenizer, stop_tokens)
    entries = {
        "architectures": [chosen.architecture],
        "model_type": chosen.model_type,
        "torch_dtype": types.pop() if len(types) == 1 else "float32",
        **entries,
        **tokens,
    }
    with new_directory(Path(directory).absolute()) as staged:
        if tokenizer is not None:
            tokenizer.save(staged)
        _write(staged / CONFIG_FILE, entries)
        _write(staged / GENERATION_FILE, {"_from_model_config": True, **tokens})
        write_directory(staged, tensors, max_file_bytes)


def entries_for(config: ModelConfig, first: str) -> tuple[Family, dict[str, Any]]:
    """The family that can express a model, and its entries of config.json; the family named `first` is tried first."""
    reasons = []
    for family in sorted(FAMILIES.values(), key=lambda family: family.model_type != first):
        try:
            entries = family.config_to(config)
            back = _config_of(family, ConfigFile(entries | {"model_type": family.model_type}))
            reason = difference(config, back)
        except ValueError as error:
            reason = str(error)
        if not reason:
            return family, entries
        reasons.append(f"  {family.model_type}: {reason}")
    raise ValueError("no family of transformers can express this model:\n" + "\n".join(reasons))


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


def _write(file: Path, entries: dict[str, Any]) -> None:
    file.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
