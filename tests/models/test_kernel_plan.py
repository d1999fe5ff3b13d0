"""Models by their kernels equal models in plain JAX, and the plan says what is used."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels import choice
from jaxllm.kernels.config import KernelConfig
from jaxllm.kernels.platform import interpreting
from jaxllm.models import decoder_spec, forward
from jaxllm.models.channels import grouped
from jaxllm.models.config import (
    AttentionConfig,
    Block,
    DifferentialAttentionConfig,
    LatentAttentionConfig,
    Mamba2Config,
    ModelConfig,
    MoEConfig,
)
from jaxllm.models.kernel_plan import kernel_plan
from jaxllm.models.mixers import mamba2, row_attention

HYBRID = ModelConfig(
    vocab_size=32,
    context_length=64,
    d_model=32,
    num_layers=4,
    attention=AttentionConfig(num_heads=2, num_kv_heads=1, window=9, chunk=25, softcap=3.0, sinks=True),
    pattern=(
        Block(channel=MoEConfig(num_experts=3, d_ff=32)),
        Block(mixer=Mamba2Config(d_state=8, head_dim=16, chunk=16)),
    ),
)


def test_a_model_by_pallas_kernels_equals_plain_jax():
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda param: jnp.asarray(0.2 * random.normal(size=param.shape), jnp.float32), decoder_spec(HYBRID)
    )
    tokens = jax.random.randint(jax.random.key(1), (1, 64), 0, 32)
    segment_ids = jnp.repeat(jnp.array([[1, 2]]), jnp.array([40, 24]), axis=1, total_repeat_length=64)
    positions = jnp.concatenate([jnp.arange(40), jnp.arange(24)])[None]
    run = lambda config: forward(params, config, tokens, positions=positions, segment_ids=segment_ids)  # noqa: E731
    plain = run(HYBRID)
    blockwise = run(replace(HYBRID, kernels=KernelConfig(attention="blockwise", experts="ragged")))
    np.testing.assert_allclose(blockwise, plain, atol=1e-4)
    with interpreting():
        by_kernels = run(replace(HYBRID, kernels=KernelConfig(scan="pallas")))
    np.testing.assert_allclose(by_kernels, plain, atol=1e-4)


def test_the_plan_says_what_is_used_and_why():
    assert kernel_plan(HYBRID) == [
        "2 x attention: plain (on cpu)",
        "2 x moe: blocks (on cpu)",
        "2 x mamba2: plain (on cpu)",
    ]
    with interpreting():
        assert kernel_plan(replace(HYBRID, positions="alibi", kernels=KernelConfig(scan="pallas"))) == [
            "2 x attention: plain (flash can't: it takes no bias on the scores (ALiBi, relative positions))",
            "2 x moe: megablox (on tpu)",
            "2 x mamba2: pallas (as configured)",
        ]
    with pytest.raises(ValueError, match="kernels.attention=cudnn can't compute this layer: it is for cuda"):
        kernel_plan(replace(HYBRID, kernels=KernelConfig(attention="cudnn")))


@pytest.mark.parametrize(
    "model",
    [
        HYBRID,
        replace(HYBRID, positions="alibi"),
        replace(HYBRID, pattern=(Block(mixer=LatentAttentionConfig(num_heads=2, kv_rank=8, nope_dim=8, rope_dim=4)),)),
        replace(HYBRID, pattern=(Block(mixer=DifferentialAttentionConfig(version=1, num_heads=2)),)),
        replace(HYBRID, pattern=(Block(mixer=DifferentialAttentionConfig(version=2, num_heads=2, window=5)),)),
        replace(HYBRID, pattern=(Block(mixer=AttentionConfig(num_heads=2, causal=False)),), compute_dtype="bfloat16"),
    ],
    ids=["hybrid", "alibi", "latent", "differential 1", "differential 2", "not causal, bfloat16"],
)
def test_the_plan_asks_what_the_layers_ask(model, monkeypatch):
    asked = []

    def record(choose):
        return lambda *question: asked.append((choose.__name__, *question)) or choose(*question)

    for module, name in ((row_attention, "choose_attention"), (grouped, "choose_experts"), (mamba2, "choose_scan")):
        monkeypatch.setattr(module, name, record(getattr(choice, name)))
        monkeypatch.setattr(f"jaxllm.models.kernel_plan.{name}", record(getattr(choice, name)))
    params = jax.tree.map(lambda param: jax.ShapeDtypeStruct(param.shape, jnp.float32), decoder_spec(model))
    tokens = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    jax.eval_shape(lambda params, tokens: forward(params, model, tokens), params, tokens)
    by_layers = set(asked)
    asked.clear()
    kernel_plan(model)
    assert asked and set(asked) == by_layers
