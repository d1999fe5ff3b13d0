"""Whether two configs compute the same: what only matters in training, and how a default is written, is put aside."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from jaxllm.models import ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    Block,
    DifferentialAttentionConfig,
    EmbeddingConfig,
    EncoderDecoderConfig,
    HeadConfig,
    MambaConfig,
    MoEConfig,
    RopeConfig,
    RWKVChannelConfig,
    RWKVConfig,
    VisionConfig,
)

_OF_TRAINING = {"dropout", "init_std", "residual_init", "compute_dtype", "attention", "mlp"}
_OF_MIXERS = {"load_loss", "sequence_loss", "z_loss", "dispatch", "capacity_factor", "scan"}


def difference(one: Any, other: Any) -> str:
    """The first thing that tells two configs apart, of whatever kind of model; "" if nothing does."""
    if type(one) is not type(other):
        return f"it is a {type(one).__name__}, it would become a {type(other).__name__}"
    return _difference("", _canonical(one), _canonical(other))


def _canonical(config: Any) -> Any:
    match config:
        case ModelConfig():
            return _canonical_stack(config)
        case EncoderDecoderConfig(decoder=own):  # the head is the decoder's
            encoder = replace(config.encoder, head=own.head, tie_embeddings=own.tie_embeddings)
            return _canonical_parts(replace(config, encoder=encoder))
        case VisionConfig():
            idle = {"vocab_size": 0, "context_length": 1, "tie_embeddings": True}
            trunk = replace(config.trunk, **idle, head=HeadConfig(), embedding=EmbeddingConfig())
            return _canonical_parts(replace(config, trunk=trunk))
        case _ if is_dataclass(config):
            return _canonical_parts(config)
        case _:
            return config


def _canonical_parts(config: Any) -> dict[str, Any]:
    return {field.name: _canonical(getattr(config, field.name)) for field in fields(config)}


def _canonical_stack(config: ModelConfig) -> dict[str, Any]:
    described = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name not in _OF_TRAINING | {"prologue", "pattern"}
    }
    described["residual"] = replace(config.residual, stochastic_depth=0.0)
    described["layers"] = tuple(_canonical_block(config, block) for block in config.blocks())
    return described


def _canonical_block(config: ModelConfig, block: Block) -> dict[str, Any]:
    return {"mixer": _canonical_mixer(config, block.mixer), "channel": _canonical_mixer(config, block.channel)}


def _canonical_mixer(config: ModelConfig, mixer: Any) -> Any:
    if not is_dataclass(mixer):
        return mixer
    described = {field.name: getattr(mixer, field.name) for field in fields(mixer) if field.name not in _OF_MIXERS}
    if not isinstance(mixer, AttentionConfig):
        described.pop("chunk", None)
    if "rope" in described:
        described["rope"] = _canonical_rope(config, mixer.rope)
    match mixer:
        case AttentionConfig():
            width = config.head_width(mixer)
            described |= {"num_kv_heads": mixer.kv_heads, "head_dim": width, "scale": mixer.scale or width**-0.5}
            if config.positions != "rope" or mixer.no_positions:
                described["rope"] = RopeConfig()
            if config.positions not in ("rope", "alibi"):
                described["no_positions"] = True
            if config.positions != "alibi":
                described["alibi_scaled"] = False
        case MoEConfig():
            described["balance_rate"] = 0.0 if mixer.balance_rate >= 0 else -1.0
            if mixer.num_groups == 1:
                described["group_score"] = "max"
        case DifferentialAttentionConfig():
            described |= {"num_kv_heads": mixer.kv_heads, "head_dim": config.head_width(mixer)}
        case MambaConfig():
            described["dt_rank"] = mixer.step_rank(config.d_model)
        case RWKVConfig():
            described["d_attention"] = mixer.d_attention or config.d_model
        case RWKVChannelConfig():
            described["d_ff"] = mixer.d_ff or 4 * config.d_model
    return described


def _canonical_rope(config: ModelConfig, rope: RopeConfig) -> RopeConfig:
    if rope.scaling == "none":
        return RopeConfig(theta=rope.theta, fraction=rope.fraction, interleaved=rope.interleaved)
    factor, original = rope.factor, rope.original_context or config.context_length
    if rope.scaling in ("yarn", "longrope") and factor == 1:
        factor = max(config.context_length / original, 1.0)
    if rope.scaling in ("linear", "ntk"):
        original = 0
    return replace(rope, factor=factor, original_context=original)


def _difference(path: str, one: Any, other: Any) -> str:
    if is_dataclass(one) and type(one) is type(other):
        one, other = ({field.name: getattr(side, field.name) for field in fields(side)} for side in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            if found := _difference(f"{path}.{name}".lstrip("."), one.get(name), other.get(name)):
                return found
        return ""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (_difference(f"{path}[{i}]", *pair) for i, pair in pairs)), "")
    numbers = isinstance(one, float | int) and isinstance(other, float | int)
    same = abs(one - other) <= 1e-9 * abs(one) if numbers else one == other
    return "" if same else f"{path} is {one!r}, it would become {other!r}"
