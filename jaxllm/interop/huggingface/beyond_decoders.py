"""Directories of encoders, encoder-decoders, image encoders and models that see: read and written as decoders are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxllm import tokenizers
from jaxllm.config import did_you_mean
from jaxllm.data.atomic import new_directory
from jaxllm.interop.huggingface.config_file import CONFIG_FILE, ConfigFile, read_object
from jaxllm.interop.huggingface.equivalence_beyond import other_difference
from jaxllm.interop.huggingface.families import bart, bert, llava, modernbert, roberta, t5, vision_towers
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.parameters import planned_tensors, read_params
from jaxllm.interop.huggingface.safetensors_files import read_directory
from jaxllm.interop.huggingface.safetensors_writing import write_directory
from jaxllm.models import ModelConfig
from jaxllm.models.config import EncoderConfig, EncoderDecoderConfig, VisionConfig, VisionLanguageConfig
from jaxllm.models.encoder import encoder_spec
from jaxllm.models.encoder_decoder import encoder_decoder_spec
from jaxllm.models.vision import vision_spec
from jaxllm.models.vision_language import vision_language_spec
from jaxllm.parallel.sharding import Layout
from jaxllm.tokenizers import Tokenizer

Config = EncoderConfig | EncoderDecoderConfig | VisionConfig | VisionLanguageConfig
SPECS: dict[type, Callable[[Any], Any]] = {
    EncoderConfig: encoder_spec,
    EncoderDecoderConfig: encoder_decoder_spec,
    VisionConfig: vision_spec,
    VisionLanguageConfig: vision_language_spec,
}
MODULES = {
    EncoderConfig: (bert, roberta, modernbert),
    EncoderDecoderConfig: (t5, bart),
    VisionConfig: (vision_towers,),
    VisionLanguageConfig: (llava,),
}
FAMILIES: dict[str, Family] = {
    family.model_type: family for modules in MODULES.values() for module in modules for family in module.FAMILIES
}
RENAMED = {
    family.model_type: getattr(module, "RENAMED", ())
    for modules in MODULES.values()
    for module in modules
    for family in module.FAMILIES
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
MAX_FILE_BYTES = 5_000_000_000


class OtherModel(NamedTuple):
    """What such a directory holds."""

    config: Config
    params: Any
    tokenizer: Tokenizer | None
    """None where the directory has none."""


def is_other_model(directory: Path) -> bool:
    """Whether config.json there names a model_type that is no decoder and is known here."""
    file = directory / CONFIG_FILE
    return file.is_file() and read_object(file).get("model_type") in FAMILIES


def read_other_config(directory: str | Path) -> Config:
    """The architecture that config.json describes, without its weights.

    Raises ValueError for a model_type that is not known and for options that can't be honoured, naming them.
    """
    return _read_config(Path(directory))[1]


def load_other(
    directory: str | Path, *, layout: Layout | None = None, dtype: Any = None, allow_nonfinite: bool = False
) -> OtherModel:
    """Read config.json, safetensors and tokenizer of a directory; see `directory.load_huggingface`.

    Raises ValueError, naming file and option or tensor, for what is unknown, unsupported, missing, misshapen, damaged
    or not finite.
    """
    directory = Path(directory)
    family, config = _read_config(directory)
    dtype = jnp.dtype(dtype or jnp.float32)
    if dtype == jnp.bfloat16:
        config = _computed_in(config, "bfloat16")
    stored = {_renamed(family, name): tensor for name, tensor in read_directory(directory).items()}
    if family.model_type == "t5":
        config = t5.with_own_head(config, stored)
    params = read_params(
        SPECS[type(config)](config),
        family.weights(config),
        stored,
        str(directory),
        layout=layout,
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
    )
    has_tokenizer = any((directory / name).exists() for name in TOKENIZER_FILES)
    return OtherModel(config, params, tokenizers.load(directory) if has_tokenizer else None)


def save_other(
    directory: str | Path,
    config: Config,
    params: Any,
    tokenizer: Tokenizer | None = None,
    *,
    family: str | None = None,
    dtype: Any = None,
) -> None:
    """Write a directory that transformers loads, whole or not at all.

    The family is found by itself unless it is named: the first that can express the model exactly. Raises ValueError,
    saying what is in the way, for a model that no family can express, and FileExistsError for a directory in use.
    """
    chosen, entries = _entries_for(config, family)
    tensors = planned_tensors(SPECS[type(config)](config), params, chosen.weights(config), dtype)
    types = {tensor.dtype.name for tensor in tensors.values()}
    entries = {
        "architectures": [chosen.architecture],
        "model_type": chosen.model_type,
        "torch_dtype": types.pop() if len(types) == 1 else "float32",
        **(_token_entries(tokenizer) if isinstance(config, EncoderConfig) else {}),
        **entries,
    }
    with new_directory(Path(directory).absolute()) as staged:
        if tokenizer is not None:
            tokenizer.save(staged)
        (staged / CONFIG_FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        write_directory(staged, tensors, MAX_FILE_BYTES)


def _token_entries(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """Ids by role. A null says that there is none: without an entry, transformers takes the family's own."""
    roles, ids = getattr(tokenizer, "roles", {}), tokenizer.special_tokens if tokenizer else {}
    return {f"{role}_token_id": ids.get(roles.get(f"{role}_token")) for role in ("bos", "eos", "pad", "cls", "sep")}


def _family(model_type: str, source: str) -> Family:
    if model_type not in FAMILIES:
        raise ValueError(
            f"{source}: model_type {model_type!r} is not known{did_you_mean(model_type, FAMILIES)}; known beside "
            f"decoders: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def _read_config(directory: Path) -> tuple[Family, Config]:
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{directory} has no {CONFIG_FILE}: it is no model of Hugging Face's")
    hf = ConfigFile(read_object(file), str(file))
    family = _family(hf.text("model_type"), str(file))
    return family, _config_of(family, hf)


def _config_of(family: Family, hf: ConfigFile) -> Config:
    try:
        config = family.config_from(hf)
    except ValueError as error:
        raise error if str(error).startswith(hf.source) else hf.error(str(error)) from error
    hf.finish()
    return config


def _computed_in(config: Any, dtype: str) -> Any:
    """The config with this compute_dtype in every stack."""
    if isinstance(config, ModelConfig):
        return replace(config, compute_dtype=dtype)
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    inner = {name: part for name, part in parts.items() if isinstance(part, ModelConfig | VisionConfig)}
    return replace(config, **{name: _computed_in(part, dtype) for name, part in inner.items()})


def _renamed(family: Family, name: str) -> str:
    for pattern, replacement in RENAMED[family.model_type]:
        name = re.sub(pattern, replacement, name)
    return name


def _entries_for(config: Config, name: str | None) -> tuple[Family, dict[str, Any]]:
    of_this_kind = [family for module in MODULES[type(config)] for family in module.FAMILIES]
    if name is not None:
        if _family(name, "save_other") not in of_this_kind:
            raise ValueError(f"the family {name} is not one of models that {type(config).__name__} describes")
        of_this_kind = [_family(name, "save_other")]
    reasons = []
    for family in of_this_kind:
        try:
            entries = family.config_to(config)
            back = _config_of(family, ConfigFile({"model_type": family.model_type, **entries}))
            reason = other_difference(config, back)
        except ValueError as error:
            reason = str(error)
        if not reason:
            return family, entries
        reasons.append(f"  {family.model_type}: {reason}")
    raise ValueError("no family of transformers can express this model:\n" + "\n".join(reasons))
