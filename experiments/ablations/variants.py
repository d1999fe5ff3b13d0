"""The models that are compared: groups of variants that differ in one thing and have as many parameters.

Every variant of a group gets the hidden width of its MLP (or experts) that brings its parameters closest to those of
the group's first, so that no one wins by size alone; of a mixture of experts, the parameters that a token meets.
"""

from __future__ import annotations

from dataclasses import replace

from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, NormConfig, decoder_spec
from jaxllm.models.config import (
    DifferentialAttentionConfig,
    LatentAttentionConfig,
    MambaConfig,
    MoEConfig,
    MultiTokenConfig,
    RopeConfig,
    SparseAttentionConfig,
)
from jaxllm.models.declare import count

BASE = ModelConfig(
    context_length=128,
    d_model=96,
    num_layers=4,
    attention=AttentionConfig(num_heads=4),
    mlp=MLPConfig(d_ff=256, activation="silu", gated=True),
)
PLAIN = replace(BASE, mlp=MLPConfig(d_ff=384, activation="gelu"))
# Short chunks are twice as fast here as long ones: the states of one stay in the cache.
MAMBA = MambaConfig(d_state=8, chunk=4)
EXPERTS = MoEConfig(num_experts=8, top_k=2, d_ff=128, normalize=True)


def _with_mixer(mixer) -> ModelConfig:
    return replace(BASE, pattern=(Block(mixer=mixer),))


def _hybrid(mamba_per_attention: int, layers: int = 8) -> ModelConfig:
    """One attention layer in the middle of each period, as in Jamba; half as wide for twice the layers."""
    blocks = [Block(mixer=MAMBA)] * (mamba_per_attention + 1)
    blocks[len(blocks) // 2] = Block()
    return replace(BASE, num_layers=layers, pattern=tuple(blocks), mlp=replace(BASE.mlp, d_ff=128), positions="none")


GROUPS: dict[str, dict[str, ModelConfig]] = {
    "norm": {
        "rmsnorm": BASE,
        "layernorm": replace(BASE, norm=NormConfig(kind="layernorm", bias=True)),
    },
    "positions": {
        "rope": BASE,
        "learned": replace(BASE, positions="learned"),
        "alibi": replace(BASE, positions="alibi"),
        "none": replace(BASE, positions="none"),
    },
    "activation": {
        "gelu": PLAIN,
        "relu": replace(PLAIN, mlp=replace(PLAIN.mlp, activation="relu")),
        "swiglu": BASE,
        "geglu": replace(BASE, mlp=replace(BASE.mlp, activation="gelu")),
    },
    "heads": {
        "mha": BASE,
        "gqa": replace(BASE, attention=AttentionConfig(num_heads=4, num_kv_heads=2)),
        "mqa": replace(BASE, attention=AttentionConfig(num_heads=4, num_kv_heads=1)),
        "mla": _with_mixer(LatentAttentionConfig(num_heads=4, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=24)),
    },
    "experts": {
        "dense": BASE,
        "moe, no balancing": replace(BASE, pattern=(Block(channel=EXPERTS),)),
        "moe, load loss": replace(BASE, pattern=(Block(channel=replace(EXPERTS, load_loss=0.01)),)),
        "moe, bias": replace(BASE, pattern=(Block(channel=replace(EXPERTS, router="sigmoid", balance_rate=0.01)),)),
    },
    "differential": {
        "standard": BASE,
        "version 1": _with_mixer(DifferentialAttentionConfig(version=1, num_heads=4, num_kv_heads=4)),
        "version 2": _with_mixer(DifferentialAttentionConfig(version=2, num_heads=4, num_kv_heads=2)),
    },
    "sparse": {
        "full": BASE,
        "nsa": _with_mixer(
            SparseAttentionConfig(
                num_heads=4,
                num_kv_heads=2,
                compress_block=8,
                compress_stride=4,
                select_block=8,
                num_selected=4,
                num_initial=1,
                num_local=1,
                window=16,
            )
        ),
    },
    "multi_token": {
        "next token": BASE,
        "and one more": replace(BASE, multi_token=MultiTokenConfig(depth=1)),
    },
    "hybrid": {
        "transformer": _hybrid(0),
        "transformer, rope": replace(
            _hybrid(0), positions="rope", attention=replace(BASE.attention, rope=RopeConfig())
        ),
        "1:1": _hybrid(1),
        "1:3": _hybrid(3),
        "1:7": _hybrid(7),
        "mamba": replace(_hybrid(0), pattern=(Block(mixer=MAMBA),)),
    },
}


def matched(group: str, vocab_size: int) -> dict[str, ModelConfig]:
    """The variants of a group for a vocabulary, as many parameters each as the first, within one step of d_ff."""
    variants = {name: replace(config, vocab_size=vocab_size) for name, config in GROUPS[group].items()}
    target = active(next(iter(variants.values())))
    return {name: _match(config, target) for name, config in variants.items()}


def active(config: ModelConfig) -> int:
    """Parameters that a token meets: of the experts those it goes to, of multi-token modules none."""
    total = count(decoder_spec(replace(config, multi_token=None)))
    for block in config.blocks():
        if isinstance(block.channel, MoEConfig):
            moe = block.channel
            total -= (moe.num_experts - moe.top_k) * (3 if moe.gated else 2) * config.d_model * moe.d_ff
    return total


def _match(config: ModelConfig, target: int) -> ModelConfig:
    step = 8
    widths = [config.mlp.d_ff] + [b.channel.d_ff for b in config.pattern if isinstance(b.channel, MoEConfig)]

    def widened(by: int) -> ModelConfig:
        blocks = tuple(
            replace(b, channel=replace(b.channel, d_ff=b.channel.d_ff + by)) if isinstance(b.channel, MoEConfig) else b
            for b in config.pattern
        )
        return replace(config, mlp=replace(config.mlp, d_ff=config.mlp.d_ff + by), pattern=blocks)

    choices = [widened(by) for by in range(-(min(widths) // step - 1) * step, 2 * max(widths), step)]
    return min(choices, key=lambda c: abs(active(c) - target))
