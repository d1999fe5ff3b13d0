"""Directories of encoders, encoder-decoders, image encoders and models that see: read and written as decoders are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxllm import tokenizers
from jaxllm.interop.huggingface.config_file import CONFIG_FILE
from jaxllm.interop.huggingface.directory import write_model
from jaxllm.interop.huggingface.families import bart, bert, llava, modernbert, roberta, t5, vision_towers, vit
from jaxllm.interop.huggingface.family import Family, config_file, expressing, family_of, names_one_of
from jaxllm.interop.huggingface.parameters import planned_tensors, read_params
from jaxllm.interop.huggingface.safetensors_files import StoredTensor, read_directory
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
    VisionConfig: (vision_towers, vit),
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


class OtherModel(NamedTuple):
    """What such a directory holds."""

    config: Config
    params: Any
    tokenizer: Tokenizer | None
    """None where the directory has none."""


def is_other_model(directory: Path) -> bool:
    """Whether config.json there names a model_type that is no decoder and is known here."""
    return names_one_of(directory, FAMILIES)


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
        config = _with_own_head(config, stored)
    params = read_params(
        SPECS[type(config)](config),
        family.weights(config),
        stored,
        str(directory),
        layout=layout,
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
    )
    tokenizer = tokenizers.load(directory) if tokenizers.has_tokenizer(directory) else None
    return OtherModel(config, params, tokenizer)


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
    chosen, entries = expressing(config, _offered(config, family))
    tensors = planned_tensors(SPECS[type(config)](config), params, chosen.weights(config), dtype)
    tokens = _token_entries(tokenizer) if isinstance(config, EncoderConfig) else {}
    write_model(Path(directory), {CONFIG_FILE: tokens | entries}, tensors, tokenizer)


def _token_entries(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """Ids by role. A null says that there is none: without an entry, transformers takes the family's own."""
    roles, ids = getattr(tokenizer, "roles", {}), tokenizer.special_tokens if tokenizer else {}
    return {f"{role}_token_id": ids.get(roles.get(f"{role}_token")) for role in ("bos", "eos", "pad", "cls", "sep")}


def _read_config(directory: Path) -> tuple[Family, Config]:
    hf = config_file(directory)
    family = family_of(hf, FAMILIES)
    return family, family.read(hf)


def _with_own_head(config: EncoderDecoderConfig, stored: Mapping[str, StoredTensor]) -> EncoderDecoderConfig:
    """The config untied where the file has a head that is not the table: transformers 5 writes of every T5 that it
    is tied, and goes by the file as well."""
    head, table = stored.get("lm_head.weight"), stored.get("shared.weight")
    if head is None or table is None or np.array_equal(head.array(), table.array()):
        return config
    return replace(config, decoder=replace(config.decoder, tie_embeddings=False))


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


def _offered(config: Config, name: str | None) -> list[Family]:
    """Families that describe such a model; the one of this name alone, where one is given."""
    of_this_kind = [family for module in MODULES[type(config)] for family in module.FAMILIES]
    if name is None:
        return of_this_kind
    named = [family for family in of_this_kind if family.model_type == name]
    if not named:
        raise ValueError(
            f"the family {name!r} is not one of models that {type(config).__name__} describes: "
            f"{', '.join(family.model_type for family in of_this_kind)}"
        )
    return named
