"""Floating-point operations of a model, and what devices could do at best.

The rule, printed beside every number: 2 operations per token and active weight that takes part in a product (tables
that are looked up do not count, the output head does), plus what each mixer does along the text. The backward pass
takes twice as many as the forward pass. Recomputation under remat is not counted: it is not progress. (PaLM, Chowdhery
et al. 2022, appendix B, with the causal half.)

Letters: T length of the text, S keys that a query sees, H heads, K key width, V value width, N state, E channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxllm.models.config import (
    AttentionConfig,
    CrossAttentionConfig,
    DifferentialAttentionConfig,
    GatedDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RWKVChannelConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.models.declare import count
from jaxllm.models.decoder import decoder_spec
from jaxllm.plan.hardware import hardware_of, measured_product
from jaxllm.plan.parameters import active_share, declared

RULE = "6 per token and weight in a product, 6 H K T per attention layer (causal half)"

RULES = {
    "weights": "2 per token and active weight in a product, the head included; training takes 3 times the forward pass",
    "attention": "2 H (K + V) S; S is T/2 over a whole text, W - W^2/2T in a window W, half a chunk; T when decoding",
    "cross_attention": "2 H (K + V) T, as if the text that is looked at were as long",
    "latent_attention": "whole text: 2 H (K + V) S with K = nope + rope; decoding, absorbed: 2 H (2 rank + rope) S",
    "differential_attention": "two maps a head: 4 H (K + V) S, V the width of its values (2 K in version 1)",
    "sparse_attention": "4 H K S; S = compressed blocks + selected blocks + window",
    "mamba": "6 E N for decay, input and read-out; 2 W E for the convolution",
    "mamba2": "5 E N for decay, input and read-out; 2 W (E + 2 G N) for the convolution",
    "gated_delta": "H K V: 2 to answer, 2 to write, 2 to read, 1 to decay; 2 W a channel for the convolution",
    "rwkv": "8 a channel for the decaying averages",
}


@dataclass(frozen=True)
class View:
    """How much of the text a query looks back on: `reach` keys at most, of a text of `length`, as an average over its
    positions or, when decoding, from the last of them."""

    length: int
    decoding: bool

    def keys(self, reach: int = 0, stride: int = 1, causal: bool = True) -> float:
        """Keys seen with a reach (0: all), where one key stands for `stride` positions."""
        T, reach = self.length, min(reach or self.length, self.length)
        if self.decoding or not causal:
            return reach / stride
        return (reach - reach**2 / (2 * T)) / stride

    def chunk_keys(self, chunk: int) -> float:
        chunk = min(chunk, self.length)
        return chunk if self.decoding else chunk / 2


# What looks at one position at a time has products with weights only.
POSITION_WISE = (MLPConfig, MoEConfig, RWKVChannelConfig)


def parameter_count(config: ModelConfig) -> int:
    return count(decoder_spec(config))


def train_flops_per_token(config: ModelConfig, length: int) -> float:
    """Operations to train on one token in sequences of `length`, by the rule above: 3 times the forward pass."""
    return 3 * sum(forward_flops(config, length).values())


def forward_flops(config: ModelConfig, length: int, *, decoding: bool = False) -> dict[str, float]:
    """Operations of the forward pass on one token, by what needs them: "weights", and each kind of mixer.

    An average over the tokens of a text of `length`; or, decoding, those of the next token after such a text. Raises
    ValueError for a mixer that has no rule here.
    """
    work = {"weights": 2.0 * product_weights(config)}
    view = View(length, decoding)
    for block in config.blocks():
        for layer in (block.mixer, block.channel):
            operations = mixing_flops(config, layer, view)
            if operations:
                work[layer.kind] = work.get(layer.kind, 0.0) + operations
    return work


def product_weights(config: ModelConfig) -> float:
    """Weights that a token is multiplied with: active matrices of the layers, and the head."""
    heads = 1 + (config.multi_token.depth if config.multi_token else 0)
    weights = float(heads * config.vocab_size * config.d_model)
    for path, param, block in declared(config):
        if not param.is_hidden_matrix or any("compressor" in name for name in path):
            continue
        weights += param.size * active_share(path, block)
    return weights


def mixing_flops(model: ModelConfig, layer: Any, view: View) -> float:
    """What one layer does along the text for one token, its weights apart."""
    if isinstance(layer, str) or type(layer) in POSITION_WISE:
        return 0.0
    if type(layer) not in MIXING:
        raise ValueError(f"jaxllm/plan/flops.py has no rule for the operations of {type(layer).__name__}")
    return MIXING[type(layer)](model, layer, view)


def _attention(model: ModelConfig, c: AttentionConfig, view: View) -> float:
    keys = view.keys(c.window, causal=c.causal)
    if c.chunk:
        keys = min(keys, view.chunk_keys(c.chunk))
    return 4.0 * c.num_heads * model.head_width(c) * keys


def _cross(model: ModelConfig, c: CrossAttentionConfig, view: View) -> float:
    return 4.0 * c.num_heads * model.head_width(c) * view.length


def _latent(model: ModelConfig, c: LatentAttentionConfig, view: View) -> float:
    if view.decoding:
        return 2.0 * c.num_heads * (2 * c.kv_rank + c.rope_dim) * view.keys()
    return 2.0 * c.num_heads * (c.nope_dim + c.rope_dim + c.value_dim) * view.keys()


def _differential(model: ModelConfig, c: DifferentialAttentionConfig, view: View) -> float:
    K = model.head_width(c)
    V = 2 * K if c.version == 1 else K
    return 4.0 * c.num_heads * (K + V) * view.keys(c.window)


def sparse_reads(c: SparseAttentionConfig, view: View) -> dict[str, float]:
    """Keys that a query of native sparse attention reads, by branch (Yuan et al. 2025, section 4)."""
    selected = c.num_selected * c.select_block
    if view.decoding:
        blocks = max(0, (view.length - c.compress_block) // c.compress_stride + 1)
    else:
        blocks = view.keys(stride=c.compress_stride)
    return {"compressed": blocks, "selected": view.keys(selected), "window": view.keys(c.window)}


def _sparse(model: ModelConfig, c: SparseAttentionConfig, view: View) -> float:
    K = model.head_width(c)
    compressor = 0.0
    if c.compressor == "mlp":
        # Keys and values of each head: an MLP over the compress_block tokens of a block, one block a stride.
        compressor = 2 * 2.0 * c.kv_heads * 2 * K * K * (c.compress_block + 1) / c.compress_stride
    return 4.0 * c.num_heads * K * sum(sparse_reads(c, view).values()) + compressor


def _mamba(model: ModelConfig, c: MambaConfig, view: View) -> float:
    channels = c.expand * model.d_model
    return 6.0 * channels * c.d_state + 2.0 * c.d_conv * channels


def _mamba2(model: ModelConfig, c: Mamba2Config, view: View) -> float:
    channels = c.expand * model.d_model
    return 5.0 * channels * c.d_state + 2.0 * c.d_conv * (channels + 2 * c.num_groups * c.d_state)


def _gated_delta(model: ModelConfig, c: GatedDeltaConfig, view: View) -> float:
    per_entry = 4 + (2 if c.delta else 0) + (1 if c.decay else 0)
    channels = 2 * c.num_key_heads * c.key_dim + c.num_heads * c.value_dim
    return float(per_entry * c.num_heads * c.key_dim * c.value_dim + 2 * c.d_conv * channels)


def _rwkv(model: ModelConfig, c: RWKVConfig, view: View) -> float:
    return 8.0 * (c.d_attention or model.d_model)


MIXING: dict[type, Callable[[ModelConfig, Any, View], float]] = {
    AttentionConfig: _attention,
    CrossAttentionConfig: _cross,
    LatentAttentionConfig: _latent,
    DifferentialAttentionConfig: _differential,
    SparseAttentionConfig: _sparse,
    MambaConfig: _mamba,
    Mamba2Config: _mamba2,
    GatedDeltaConfig: _gated_delta,
    RWKVConfig: _rwkv,
}


def peak_flops(device: jax.Device) -> float | None:
    """The data-sheet peak of one device, None where it is not known (such as on a CPU; see `measured_product`)."""
    known = hardware_of(device.device_kind)
    return known and known.flops


def machine_peak(devices: list[jax.Device]) -> tuple[float | None, str]:
    """Peak of all devices together, None where it is not known, and where the number comes from.

    CPU devices of one process share its cores, so the product measured on one of them is the peak of all.
    """
    known = peak_flops(devices[0])
    if known:
        return known * len(devices), f"{len(devices)} x {known / 1e12:.0f} TFLOP/s, data sheet"
    if devices[0].platform == "cpu":
        return measured_product(), "measured: 1024 x 1024 float32 matrix product"
    return None, f"the data sheet of {devices[0].device_kind!r} is not in jaxllm/plan/hardware.py"
