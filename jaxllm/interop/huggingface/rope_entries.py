"""Rotary positions in config.json: the older `rope_theta` and `rope_scaling`, or both in `rope_parameters`."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.models.config import RopeConfig

_TYPES = {
    "default": "none",
    "linear": "linear",
    "dynamic": "dynamic_ntk",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "llama3": "llama3",
}
# The numbers that each method reads, in the order they are written.
_READ = {
    "none": (),
    "linear": ("factor",),
    "dynamic_ntk": ("factor",),
    "yarn": ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"),
    "longrope": ("factor", "attention_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_WITH_CONTEXT = ("yarn", "longrope", "llama3")


def read_rope(
    config: ConfigFile,
    context_length: int,
    *,
    theta: float = 10_000.0,
    theta_name: str = "rope_theta",
    fraction: float = 1.0,
    fraction_name: str = "partial_rotary_factor",
) -> RopeConfig:
    """The rotary positions of all layers; the keywords are the family's names and values where nothing is said.

    Raises ValueError for a method or a setting that is not known.
    """
    theta, fraction = config.number(theta_name, theta), config.number(fraction_name, fraction)
    entries = config.object("rope_scaling") or config.object("rope_parameters")
    config.ignore("rope_scaling", "rope_parameters")
    original = config.integer("original_max_position_embeddings", 0)
    if original:
        entries = entries | {"original_max_position_embeddings": original}
    return rope_of(config, entries, context_length, theta=theta, fraction=fraction)


def rope_of(
    config: ConfigFile, entries: dict[str, Any], context_length: int, *, theta: float, fraction: float = 1.0
) -> RopeConfig:
    """The rotary positions that such an object describes."""
    inner = ConfigFile(entries, "rope_scaling")
    method = inner.one_of("rope_type" if "rope_type" in entries else "type", _TYPES, "default")
    inner.ignore("type", "finetuned")
    settings: dict[str, Any] = {name: inner.number(name) for name in _READ[method] if name in inner}
    if method in _WITH_CONTEXT:
        original = inner.integer("original_max_position_embeddings", context_length)
        settings["original_context"] = original
        if "factor" not in settings:
            settings["factor"] = context_length / original
    if method == "dynamic_ntk":
        settings["original_context"] = context_length
    inner.ignore("original_max_position_embeddings")
    if method == "yarn":
        settings["truncate"] = inner.flag("truncate", True)
    if method == "longrope":
        settings |= {name: tuple(map(float, inner.list(name))) for name in ("short_factor", "long_factor")}
    theta, fraction = inner.number("rope_theta", theta), inner.number("partial_rotary_factor", fraction)
    try:
        inner.finish()
        return RopeConfig(theta=theta, fraction=fraction, scaling=method, **settings)
    except ValueError as error:
        raise config.error(str(error)) from error


def rope_entries(rope: RopeConfig, context_length: int, *, with_fraction: bool = False) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which old and new versions of transformers read."""
    entries: dict[str, Any] = {"rope_theta": rope.theta}
    if with_fraction or rope.fraction != 1:
        entries["partial_rotary_factor"] = rope.fraction
    if rope.scaling != "none":
        entries["rope_scaling"] = scaling_entries(rope, context_length)
    return entries


def scaling_entries(rope: RopeConfig, context_length: int) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _TYPES.items() if theirs != "su"}
    if rope.scaling not in names:
        raise ValueError(f"rope.scaling={rope.scaling} has no name in config.json; there are {', '.join(names)}")
    entries: dict[str, Any] = {"rope_type": names[rope.scaling]}
    entries |= {name: getattr(rope, name) for name in _READ[rope.scaling] if getattr(rope, name)}
    if rope.scaling in _WITH_CONTEXT:
        entries["original_max_position_embeddings"] = rope.original_context or context_length
    if rope.scaling == "yarn" and not rope.truncate:
        entries["truncate"] = False
    if rope.scaling == "longrope":
        entries |= {"short_factor": list(rope.short_factor), "long_factor": list(rope.long_factor)}
    return entries
