"""What most families share since Llama: names of entries in config.json and of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.layer_pattern import arranged, first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, MLPConfig, MoEConfig, NormConfig, RopeConfig

MODEL = (
    tensor("embedding", "model.embed_tokens.weight"),
    tensor("norm.scale", "model.norm.weight"),
    tensor("norm.bias", "model.norm.bias"),
    tensor("head", "lm_head.weight"),
)
NORMS = (
    tensor("mixer_norm.scale", "input_layernorm.weight"),
    tensor("mixer_norm.bias", "input_layernorm.bias"),
    tensor("channel_norm.scale", "post_attention_layernorm.weight"),
    tensor("channel_norm.bias", "post_attention_layernorm.bias"),
)
ATTENTION = (
    *(
        rule
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
        for rule in (
            tensor(ours, f"self_attn.{theirs}.weight", "(H K) D -> D H K"),
            tensor(f"{ours}_bias", f"self_attn.{theirs}.bias", "(H K) -> H K"),
        )
    ),
    tensor("out", "self_attn.o_proj.weight", "D (H K) -> H K D"),
    tensor("out_bias", "self_attn.o_proj.bias"),
    tensor("query_norm.scale", "self_attn.q_norm.weight"),
    tensor("key_norm.scale", "self_attn.k_norm.weight"),
    tensor("sinks", "self_attn.sinks"),
)


def mlp_rules(prefix: str = "mlp.", ours: str = "") -> tuple[Tensor, ...]:
    """An MLP under these names; `ours` is where it stands in the mixer, as "shared."."""
    return tuple(
        rule
        for name in ("up", "gate", "down")
        for rule in (
            tensor(f"{ours}{name}", f"{prefix}{name}_proj.weight", "O I -> I O"),
            tensor(f"{ours}{name}_bias", f"{prefix}{name}_proj.bias"),
        )
    )


MLP = mlp_rules()


def llama_weights(
    config: ModelConfig,
    *,
    model: Sequence[Tensor] = MODEL,
    block: Sequence[Tensor] = NORMS,
    mixers: Mapping[type, Sequence[Tensor]] | None = None,
    channels: Mapping[type, Sequence[Tensor]] | None = None,
) -> WeightMap:
    """The rules under Llama's names; the keywords replace what a family has otherwise."""
    stack = Stack(
        config.segments(),
        "model.layers.{i}.",
        block,
        {AttentionConfig: ATTENTION, **(mixers or {})},
        {MLPConfig: MLP, **(channels or {})},
    )
    return WeightMap(
        model,
        {"segments": stack},
        base="model.",
        tied={"lm_head.weight": "model.embed_tokens.weight"} if config.tie_embeddings else {},
        ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"rotary_emb\.inv_freq"),
    )


def read_sizes(hf: ConfigFile, *, context: int = 2048, tied: bool = False) -> dict[str, Any]:
    """Fields of a ModelConfig; the keywords are the family's where nothing is said."""
    return {
        "vocab_size": hf.integer("vocab_size"),
        "context_length": hf.integer("max_position_embeddings", context),
        "d_model": hf.integer("hidden_size"),
        "num_layers": hf.integer("num_hidden_layers"),
        "tie_embeddings": hf.flag("tie_word_embeddings", tied),
    }


def read_norm(hf: ConfigFile, *, epsilon: float = 1e-6) -> NormConfig:
    return NormConfig(epsilon=hf.number("rms_norm_eps", epsilon))


def read_attention(
    hf: ConfigFile,
    context_length: int,
    *,
    theta: float = 10_000.0,
    head_dim: int = 0,
    rope: RopeConfig | None = None,
    **changes: Any,
) -> AttentionConfig:
    """Heads and rotary positions; `changes` are what else the family's attention has."""
    heads = hf.integer("num_attention_heads")
    return AttentionConfig(
        num_heads=heads,
        num_kv_heads=hf.integer("num_key_value_heads", heads),
        head_dim=hf.integer("head_dim", head_dim or hf.integer("hidden_size") // heads),
        rope=rope or read_rope(hf, context_length, theta=theta),
        **changes,
    )


def read_mlp(hf: ConfigFile, **changes: Any) -> MLPConfig:
    settings = {"d_ff": hf.integer("intermediate_size"), "gated": True, **changes}
    return MLPConfig(**{"activation": hf.activation(), **settings} if "activation" not in changes else settings)


LAYER_TYPES = {"full_attention": False, "sliding_attention": True}


def read_layer_types(hf: ConfigFile, num_layers: int, otherwise: Callable[[int], bool]) -> list[bool]:
    """Which layers have a window, by `layer_types` or, without it, by the family's rule for layer i."""
    if "layer_types" not in hf:
        return [otherwise(i) for i in range(num_layers)]
    names = hf.list("layer_types")
    if len(names) != num_layers or not all(isinstance(name, str) and name in LAYER_TYPES for name in names):
        raise hf.error(
            f"layer_types must name one of {', '.join(LAYER_TYPES)} for each of {num_layers} layers, found {names}"
        )
    return [LAYER_TYPES[name] for name in names]


def windowed(attention: AttentionConfig, mlp: Any, window: int, layers: Sequence[bool]) -> dict[str, Any]:
    """Fields of a ModelConfig whose attention has a window in these layers."""
    local = replace(attention, window=window)
    return arranged([Block(local if has_window else attention, mlp) for has_window in layers])


def written_sizes(config: ModelConfig, mlp: MLPConfig | MoEConfig | None = None) -> dict[str, Any]:
    """Entries of config.json that all of these families have; `mlp` is whose width and activation it names."""
    attention, mlp = first(config, AttentionConfig), mlp or first(config, MLPConfig)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": config.head_width(attention),
        "intermediate_size": mlp.d_ff,
        "hidden_act": written_activation(mlp.activation),
        "rms_norm_eps": config.norm.epsilon,
        **rope_entries(attention.rope, config.context_length),
    }


_ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "relu": "relu",
    "relu2": "relu2",
}


def written_activation(name: str) -> str:
    if name not in _ACTIVATION_NAMES:
        raise ValueError(f"the activation {name} has no name in config.json; there are {', '.join(_ACTIVATION_NAMES)}")
    return _ACTIVATION_NAMES[name]


def written_windows(config: ModelConfig) -> dict[str, Any]:
    """`sliding_window` and `layer_types`."""
    windows = [getattr(block.mixer, "window", 0) for block in config.blocks()]
    names = {has_window: name for name, has_window in LAYER_TYPES.items()}
    return {"sliding_window": max(windows) or None, "layer_types": [names[window > 0] for window in windows]}
