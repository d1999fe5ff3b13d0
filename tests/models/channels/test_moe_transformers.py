"""Mixtures of experts of transformers beside ours, with the same random weights; needs requirements/parity.txt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.channels.dispatch import Experts
from jaxllm.models.channels.mlp import MLP
from jaxllm.models.channels.moe import MoE, moe
from jaxllm.models.config import AttentionConfig, ModelConfig, MoEConfig
from jaxllm.models.layer import Context

torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")

D, E, K, F = 18, 6, 2, 10
MODEL = ModelConfig(vocab_size=32, d_model=D, num_layers=2, attention=AttentionConfig(num_heads=1, head_dim=2))
SIZES = {"num_experts": E, "top_k": K, "d_ff": F}


def drawn(module, seed=0):
    """The module with every parameter and buffer drawn, and these by name as numpy arrays."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    return module.eval(), {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in tensors.items()}


def mlp_of(weights, name):
    up, gate, down = (weights[f"{name}.{part}_proj.weight"].T for part in ("up", "gate", "down"))
    return MLP(up, gate, down, None, None, None)


def moe_of(weights, router="gate", **parts):
    """Experts as most families store them: gate and up one after the other, [E, 2F, D]."""
    gate, up = jnp.split(jnp.swapaxes(weights["experts.gate_up_proj"], 1, 2), 2, axis=-1)
    down = jnp.swapaxes(weights["experts.down_proj"], 1, 2)
    experts = Experts(up, gate, down, None, None, None)
    rest = dict.fromkeys(("router_bias", "selection_bias", "shared", "shared_gate")) | parts
    return MoE(router=weights[f"{router}.weight"].T, experts=experts, **rest)


def compare(module, config, params):
    """Outputs and gradients with respect to the input and the router."""
    x = np.random.default_rng(0).normal(size=(2, 9, D)).astype(np.float32)
    theirs_x = torch.tensor(x, requires_grad=True)
    theirs = module(theirs_x)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    wave = np.cos(np.arange(theirs.numel())).reshape(theirs.shape).astype(np.float32)
    (theirs * torch.tensor(wave)).sum().backward()
    router = next(tensor for name, tensor in module.named_parameters() if name in ("gate.weight", "router.weight"))

    def loss(params, x):
        context = Context(jnp.broadcast_to(jnp.arange(9), (2, 9)), None, None)
        out = moe(params, MODEL, config, x, context, None)[0]
        return (out * wave).sum(), out

    (_, ours), (gradients, grad_x) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    close(ours, theirs.detach().numpy())
    close(grad_x, theirs_x.grad.numpy())
    close(gradients.router.T, router.grad.numpy())


def test_mixtral():
    from transformers.models.mixtral import modeling_mixtral as m

    config = m.MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=K)
    module, weights = drawn(m.MixtralSparseMoeBlock(config))
    compare(module, MoEConfig(**SIZES, normalize=True), moe_of(weights))


@pytest.mark.parametrize("normalize", [False, True])
def test_qwen2_moe_with_its_gated_shared_expert(normalize):
    from transformers.models.qwen2_moe import modeling_qwen2_moe as m

    config = m.Qwen2MoeConfig(
        hidden_size=D, moe_intermediate_size=F, shared_expert_intermediate_size=7, num_experts=E,
        num_experts_per_tok=K, norm_topk_prob=normalize,
    )  # fmt: skip
    module, weights = drawn(m.Qwen2MoeSparseMoeBlock(config))
    shared = {"shared": mlp_of(weights, "shared_expert"), "shared_gate": weights["shared_expert_gate.weight"][0]}
    ours = MoEConfig(**SIZES, normalize=normalize, shared_d_ff=7, shared_gate=True)
    compare(module, ours, moe_of(weights, **shared))


def test_qwen3_moe():
    from transformers.models.qwen3_moe import modeling_qwen3_moe as m

    config = m.Qwen3MoeConfig(
        hidden_size=D, moe_intermediate_size=F, num_experts=E, num_experts_per_tok=3, norm_topk_prob=True
    )
    module, weights = drawn(m.Qwen3MoeSparseMoeBlock(config))
    compare(module, MoEConfig(**SIZES | {"top_k": 3}, normalize=True), moe_of(weights))


def test_deepseek_v3():
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as m

    config = m.DeepseekV3Config(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=12, num_experts_per_tok=3, n_group=4, topk_group=2,
        n_shared_experts=2, norm_topk_prob=True, routed_scaling_factor=2.5,
    )  # fmt: skip
    module, weights = drawn(m.DeepseekV3MoE(config))
    ours = MoEConfig(
        num_experts=12, top_k=3, d_ff=F, router="sigmoid", normalize=True, scale=2.5, num_groups=4, top_k_groups=2,
        balance_rate=0.0, shared_d_ff=2 * F,
    )  # fmt: skip
    parts = {"shared": mlp_of(weights, "shared_experts"), "selection_bias": weights["gate.e_score_correction_bias"]}
    compare(module, ours, moe_of(weights, **parts))


@pytest.mark.parametrize("method", ["greedy", "group_limited_greedy"])
def test_deepseek_v2(method):
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as m

    config = m.DeepseekV2Config(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=12, num_experts_per_tok=3, n_group=4, topk_group=2,
        n_shared_experts=1, routed_scaling_factor=1.5, topk_method=method, num_attention_heads=2,
    )  # fmt: skip
    module, weights = drawn(m.DeepseekV2Moe(config))
    groups = {"num_groups": 4, "top_k_groups": 2, "group_score": "max"} if method != "greedy" else {}
    ours = MoEConfig(num_experts=12, top_k=3, d_ff=F, scale=1.5, shared_d_ff=F, **groups)
    compare(module, ours, moe_of(weights, shared=mlp_of(weights, "shared_experts")))


def test_gpt_oss():
    from transformers.models.gpt_oss import modeling_gpt_oss as m

    config = m.GptOssConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=K)
    module, weights = drawn(m.GptOssMLP(config))
    both, bias = weights["experts.gate_up_proj"], weights["experts.gate_up_proj_bias"]
    experts = Experts(
        up=both[..., 1::2],
        gate=both[..., ::2],
        down=weights["experts.down_proj"],
        up_bias=bias[..., 1::2],
        gate_bias=bias[..., ::2],
        down_bias=weights["experts.down_proj_bias"],
    )
    params = MoE(weights["router.weight"].T, weights["router.bias"], None, experts, None, None)
    ours = MoEConfig(**SIZES, router="softmax_of_top_k", router_bias=True, bias=True, activation="clamped_swiglu")
    compare(module, ours, params)


def test_the_load_balancing_loss_of_mixtral():
    from transformers.models.mixtral import modeling_mixtral as m

    config = m.MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=K)
    _, weights = drawn(m.MixtralSparseMoeBlock(config))
    params, ours = moe_of(weights), MoEConfig(**SIZES, normalize=True, load_loss=0.02)
    x = np.random.default_rng(0).normal(size=(2, 9, D)).astype(np.float32)
    logits = torch.tensor(x.reshape(-1, D) @ np.asarray(params.router))
    for padding in (0, 4):
        valid = np.arange(9)[None] < np.array([[9], [9 - padding]])
        theirs = m.load_balancing_loss_func((logits,), E, K, torch.tensor(valid).long())
        context = Context(jnp.broadcast_to(jnp.arange(9), (2, 9)), None, jnp.asarray(valid))
        found = moe(params, MODEL, ours, x, context, None)[2]["router_loss"]
        # Theirs is K where the load is even, ours 1.
        assert float(found) == pytest.approx(0.02 * float(theirs) / K, rel=1e-5)
