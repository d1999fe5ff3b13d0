"""An architecture as a short list of knobs, read off its config, for reading beside others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from jaxllm.models.config import (
    AttentionConfig,
    Block,
    DifferentialAttentionConfig,
    GatedDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RWKVChannelConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.plan.cache import cache_parts
from jaxllm.plan.parameters import totals
from jaxllm.plan.units import show_bytes

NOTHING = "-"
ACTIVATIONS = {"gelu": "GELU", "gelu_tanh": "GELU (tanh)", "silu": "SiLU", "relu": "ReLU", "relu2": "squared ReLU"}
GATED = {
    "silu": "SwiGLU",
    "gelu": "GeGLU",
    "gelu_tanh": "GeGLU (tanh)",
    "relu": "ReGLU",
    "clamped_swiglu": "SwiGLU, clamped",
}
NORM_PLACES = {
    "pre": "before each branch",
    "post": "after each sum",
    "sandwich": "before and after each branch",
    "branch": "after each branch",
}


def knobs(config: ModelConfig) -> dict[str, str]:
    """Name of the knob -> how it is set, in a fixed order; the same names for every model."""
    total, active = totals(config)
    blocks = config.blocks()
    context, bf16 = config.context_length, replace(config, compute_dtype="bfloat16")
    caches = cache_parts(bf16, context)
    return {
        "parameters": f"{total:,}",
        "active": f"{active:,}" if active < total else "all",
        "layers": str(config.num_layers),
        "width": f"{config.d_model:,}",
        "vocabulary": f"{config.vocab_size:,}",
        "context": f"{context:,}",
        "order of layers": order(config),
        "along the text": _kinds([block.mixer for block in blocks], lambda mixer: describe_mixer(config, mixer)),
        "positions": positions(config),
        "per token": _kinds([block.channel for block in blocks], lambda channel: describe_channel(config, channel)),
        "norm": norm(config),
        "residual": residual(config),
        "embedding": embedding(config),
        "head": head(config),
        "cache a token (bf16)": show_bytes(sum(part.per_token for part in caches)),
        "cache at context (bf16)": show_bytes(sum(part.bytes for part in caches)),
    }


def kinds_of_block(config: ModelConfig) -> dict[Block, str]:
    """The different blocks of a model with a letter each, in the order they come."""
    letters: dict[Block, str] = {}
    for block in config.blocks():
        letters.setdefault(block, chr(ord("A") + len(letters)))
    return letters


def order(config: ModelConfig) -> str:
    """Which block follows which: "A x 3, (B A) x 29"."""
    letters = kinds_of_block(config)
    runs = []
    for segment in config.segments():
        names = " ".join(letters[block] for block in segment.blocks)
        names = f"({names})" if len(segment.blocks) > 1 else names
        runs.append(f"{names} x {segment.repeats}" if segment.repeats > 1 else names)
    return ", ".join(runs)


def describe_mixer(model: ModelConfig, mixer: Any) -> str:
    """A sequence mixer in a line."""
    match mixer:
        case "none":
            return "nothing"
        case AttentionConfig():
            return _attention(model, mixer)
        case LatentAttentionConfig():
            queries = f"queries from {mixer.q_rank}, " if mixer.q_rank else ""
            widths = f"{mixer.num_heads} heads of {mixer.nope_dim}+{mixer.rope_dim}"
            return f"latent attention, {widths}, {queries}keys and values from {mixer.kv_rank}"
        case DifferentialAttentionConfig():
            name = f"differential attention {mixer.version}"
            return f"{name}, {_heads(mixer, model.head_width(mixer))}{_window(mixer)}"
        case SparseAttentionConfig():
            blocks = f"{mixer.num_selected} blocks of {mixer.select_block}, window {mixer.window}"
            return f"sparse attention, {_heads(mixer, model.head_width(mixer))}, {blocks}"
        case MambaConfig():
            return f"Mamba, {mixer.expand * model.d_model:,} channels, state {mixer.d_state}"
        case Mamba2Config():
            channels = mixer.expand * model.d_model
            return f"Mamba-2, {channels // mixer.head_dim} heads of {mixer.head_dim}, state {mixer.d_state}"
        case GatedDeltaConfig():
            name = ("gated " if mixer.decay else "") + ("delta rule" if mixer.delta else "linear attention")
            return f"{name}, {mixer.num_heads}/{mixer.num_key_heads} heads of {mixer.key_dim}"
        case RWKVConfig():
            return f"RWKV-4 time mixing, {mixer.d_attention or model.d_model:,} channels"
    return str(mixer.kind).replace("_", " ")


def describe_channel(model: ModelConfig, channel: Any) -> str:
    """A channel mixer in a line."""
    match channel:
        case "none":
            return "nothing"
        case MLPConfig():
            return f"{_activation(channel)} {channel.d_ff:,}{', biases' if channel.bias else ''}"
        case MoEConfig():
            shared = f", 1 shared of {channel.shared_d_ff:,}" if channel.shared_d_ff else ""
            groups = f" in {channel.top_k_groups} of {channel.num_groups} groups" if channel.num_groups > 1 else ""
            router = channel.router.replace("_", " ")
            chosen = f"{channel.top_k} of {channel.num_experts} experts{groups}"
            return f"{chosen}, {_activation(channel)} {channel.d_ff:,}, {router}{shared}"
        case RWKVChannelConfig():
            return f"RWKV-4 channel mixing {channel.d_ff or 4 * model.d_model:,}"
    return str(channel.kind).replace("_", " ")


def positions(config: ModelConfig) -> str:
    """Where tokens stand, and how the model is told."""
    if config.positions != "rope":
        return config.positions
    ropes = {mixer.rope: None for mixer in (b.mixer for b in config.blocks()) if _turns(mixer)}
    return "; ".join(_rope(rope) for rope in ropes) or "none"


def norm(config: ModelConfig) -> str:
    name = "RMSNorm" if config.norm.kind == "rmsnorm" else "LayerNorm"
    stored = ", scale stored less 1" if config.norm.unit_offset else ""
    return f"{name}, epsilon {config.norm.epsilon:g}{stored}"


def residual(config: ModelConfig) -> str:
    parts = [f"norms {NORM_PLACES[config.residual.norm]}"]
    if config.residual.parallel:
        parts.append("branches in parallel" + (", sharing a norm" if config.residual.shared_norm else ""))
    if config.residual.multiplier != 1:
        parts.append(f"branches x {config.residual.multiplier:g}")
    return ", ".join(parts)


def embedding(config: ModelConfig) -> str:
    parts = ["tied with the head"] if config.tie_embeddings else ["its own table"]
    if config.embedding.scale != 1:
        parts.append(f"x {config.embedding.scale:.4g}")
    if config.embedding.norm:
        parts.append("normalized")
    return ", ".join(parts)


def head(config: ModelConfig) -> str:
    parts = []
    if config.head.bias:
        parts.append("bias")
    if config.head.scale != 1:
        parts.append(f"logits x {config.head.scale:.4g}")
    if config.head.softcap:
        parts.append(f"logits capped at {config.head.softcap:g}")
    if config.multi_token:
        parts.append(f"{config.multi_token.depth} further tokens, {config.multi_token.kind}")
    return ", ".join(parts) or NOTHING


def _kinds(layers: list[Any], describe) -> str:
    counts = Counter(describe(layer) for layer in layers)
    if len(counts) == 1:
        return next(iter(counts))
    return "\n".join(f"{count} x {text}" for text, count in counts.items())


def _attention(model: ModelConfig, c: AttentionConfig) -> str:
    extras = [
        ("chunk " + str(c.chunk), c.chunk),
        ("biases", c.qkv_bias),
        ("QK-norm", c.qk_norm != "none"),
        ("sinks", c.sinks),
        (f"scores capped at {c.softcap:g}", c.softcap),
        (f"scores x {c.scale:.4g}", c.scale),
        ("output gate", c.gate),
        ("no positions", c.no_positions),
        ("both ways", not c.causal),
    ]
    said = "".join(f", {text}" for text, holds in extras if holds)
    return f"attention, {_heads(c, model.head_width(c))}{_window(c)}{said}"


def _heads(c: Any, width: int) -> str:
    heads = str(c.num_heads) if c.kv_heads == c.num_heads else f"{c.num_heads}/{c.kv_heads}"
    return f"{heads} heads of {width}"


def _window(c: Any) -> str:
    return f", window {c.window:,}" if c.window else ""


def _activation(c: Any) -> str:
    return GATED.get(c.activation, c.activation) if c.gated else ACTIVATIONS.get(c.activation, c.activation)


def _turns(mixer: Any) -> bool:
    return hasattr(mixer, "rope") and not getattr(mixer, "no_positions", False)


def _rope(rope: RopeConfig) -> str:
    text = f"rope {rope.theta:,.0f}"
    if rope.fraction < 1:
        text += f" on {rope.fraction:.0%} of a head"
    if rope.scaling != "none":
        text += f", {rope.scaling} x {rope.factor:g}"
    return text
