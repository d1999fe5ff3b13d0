"""Whether two configs of encoders, encoder-decoders or models that see compute the same."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from jaxllm.interop.huggingface.equivalence import difference
from jaxllm.models import ModelConfig
from jaxllm.models.config import EmbeddingConfig, EncoderDecoderConfig, HeadConfig, VisionConfig, VisionLanguageConfig


def other_difference(one: Any, other: Any) -> str:
    """The first thing that tells them apart, "" if nothing does. What nothing reads is put aside."""
    return _difference(_used(one), _used(other), "")


def _used(config: Any) -> Any:
    match config:
        case EncoderDecoderConfig():
            own = config.decoder  # the head is the decoder's
            return replace(config, encoder=replace(config.encoder, head=own.head, tie_embeddings=own.tie_embeddings))
        case VisionConfig():
            idle = {"vocab_size": 0, "context_length": 1, "tie_embeddings": True}
            trunk = replace(config.trunk, **idle, head=HeadConfig(), embedding=EmbeddingConfig())
            return replace(config, trunk=trunk)
        case VisionLanguageConfig():
            return replace(config, vision=_used(config.vision))
        case _:
            return config


def _difference(one: Any, other: Any, path: str) -> str:
    if type(one) is not type(other):
        return f"{path or 'the model'} is a {type(one).__name__}, it would become a {type(other).__name__}"
    if isinstance(one, ModelConfig):
        found = difference(one, other)
        return f"{path}.{found}" if found else ""
    if is_dataclass(one):
        pairs = ((field.name, getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
        return next(filter(None, (_difference(a, b, f"{path}.{name}".lstrip(".")) for name, a, b in pairs)), "")
    return "" if one == other else f"{path} is {one!r}, it would become {other!r}"
