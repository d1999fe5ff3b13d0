from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import NormConfig
from jaxllm.models.config import GatedDeltaConfig
from jaxllm.models.mixers.causal_convolution import CausalConvolution
from jaxllm.models.mixers.gated_delta import (
    GatedDelta,
    Tokens,
    delta_rule,
    delta_step,
    inverse_of_unit_lower,
    unit_length,
)
from jaxllm.models.mixers.recurrence import reference_recurrence
from jaxllm.models.norm import Norm
from tests.models.mixers import recurrent_forms as forms

GATED = GatedDeltaConfig(num_heads=6, num_key_heads=2, key_dim=5, value_dim=7, d_conv=4, chunk=8)
DELTA = replace(GATED, decay=False, num_key_heads=6, d_conv=2)
LINEAR = replace(GATED, decay=False, delta=False, d_conv=0, chunk=3)
DECAYING = replace(GATED, delta=False, d_conv=1)
CONFIGS = {"gated": GATED, "delta": DELTA, "linear": LINEAR, "decaying": DECAYING}
MODEL = replace(forms.MODEL, norm=NormConfig(epsilon=1e-3))


def some_tokens(normal, length, *, decay=True, delta=True):
    return Tokens(
        query_BTGK=unit_length(normal(2, length, 2, 5)),
        key_BTGK=unit_length(normal(2, length, 2, 5)),
        value_BTHV=normal(2, length, 6, 4),
        log_decay_BTH=(-jax.nn.softplus(normal(2, length, 6)) if decay else jnp.zeros((2, length, 6)))
        .at[..., 0]
        .set(-1e3),
        beta_BTH=jax.nn.sigmoid(normal(2, length, 6)) if delta else None,
        starts_BT=jnp.zeros((2, length), bool).at[0, 5].set(True).at[1, 12:14].set(True),
    )


@pytest.mark.parametrize(("chunk", "delta"), [(7, True), (64, True), (7, False)])
def test_chunks_equal_the_recurrence(chunk, delta):
    normal = forms.normals()
    forms.check_equal_with_gradients(
        lambda *a: delta_rule(*a, chunk),
        lambda *a: reference_recurrence(delta_step, *a),
        (normal(2, 6, 5, 4), some_tokens(normal, 19, delta=delta)),
    )


@pytest.mark.parametrize("C", [1, 2, 5, 8])
def test_the_inverse_of_a_triangular_matrix(C):
    below = forms.normals()(3, C, C)
    exact = lambda below: jnp.linalg.inv(jnp.eye(C) + jnp.tril(below, -1))  # noqa: E731
    loss = lambda inverse: lambda below: jnp.sin(inverse(below)).sum()  # noqa: E731
    np.testing.assert_allclose(inverse_of_unit_lower(below), exact(below), atol=1e-4, rtol=1e-4)
    ours, theirs = jax.grad(loss(inverse_of_unit_lower))(below), jax.grad(loss(exact))(below)
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=1e-3)


def test_equal_keys_do_not_blow_up():
    """Of one key written again and again the last value is remembered: a long chunk's triangular system is solved
    without the powers of its matrix, whose entries would reach 10^18."""
    length = 64
    tokens = Tokens(
        query_BTGK=jnp.ones((1, length, 1, 1)),
        key_BTGK=jnp.ones((1, length, 1, 1)),
        value_BTHV=jnp.asarray(np.random.default_rng(0).normal(size=(1, length, 1, 3)), jnp.float32),
        log_decay_BTH=jnp.zeros((1, length, 1)),
        beta_BTH=jnp.ones((1, length, 1)),
        starts_BT=None,
    )
    state, y = delta_rule(jnp.zeros((1, 1, 1, 3)), tokens, length)
    np.testing.assert_allclose(y, tokens.value_BTHV, atol=1e-5)
    np.testing.assert_allclose(state[0, 0], tokens.value_BTHV[0, -1], atol=1e-5)


def test_linear_attention_sums_keys_times_values():
    normal = forms.normals()
    tokens = some_tokens(normal, 10, decay=False, delta=False).replace(
        starts_BT=None, log_decay_BTH=jnp.zeros((2, 10, 6))
    )
    state, y = delta_rule(jnp.zeros((2, 6, 5, 4)), tokens, 4)
    q, k = (np.repeat(x, 3, axis=2) for x in (tokens.query_BTGK, tokens.key_BTGK))
    np.testing.assert_allclose(state, np.einsum("BTHK,BTHV->BHKV", k, tokens.value_BTHV), atol=1e-5)
    scores = np.einsum("BTHK,BSHK->BHTS", q, k) * np.tri(10)
    np.testing.assert_allclose(y, np.einsum("BHTS,BSHV->BTHV", scores, tokens.value_BTHV), atol=1e-5)


def test_an_ablation_has_the_parameters_it_uses():
    p = forms.parameters(GATED)
    assert p.beta.shape == p.decay.shape == (12, 6) and p.decay_bias.shape == p.log_decay.shape == (6,)
    linear = forms.parameters(LINEAR)
    assert linear.beta is linear.decay is linear.log_decay is linear.decay_bias is linear.key_convolution is None
    assert forms.parameters(DELTA).beta is not None and forms.parameters(DELTA).decay is None


def test_initial_values():
    names = ("log_decay", "decay_bias", "norm.scale")
    log_decay, decay_bias, scale = forms.initial(replace(GATED, num_heads=400, num_key_heads=1), *names)
    rates = np.exp(log_decay)
    assert rates.min() >= 0.01 and rates.max() <= 16 and rates.mean() == pytest.approx(8, abs=1)
    assert (decay_bias == 1).all() and (scale == 1).all()


def test_size_of_the_cache():
    """Qwen3-Next: 32 heads of 128 x 128 in float32, three inputs of 8,192 channels."""
    model = replace(forms.MODEL, d_model=2048, compute_dtype="bfloat16")
    config = GatedDeltaConfig(num_heads=32, num_key_heads=16, key_dim=128, value_dim=128, d_conv=4)
    assert forms.cache_bytes(config, model) == 32 * 128 * 128 * 4 + 3 * 8192 * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 6, "num_key_heads": 4}, "num_heads=6 must be a multiple of num_key_heads=4"),
        ({"key_dim": 0}, "gated_delta.key_dim must be at least 1, got 0"),
        ({"d_conv": -1}, "gated_delta.d_conv must be at least 0, got -1"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        GatedDeltaConfig(**fields)


# The same layer in transformers.


def from_torch(mixer) -> GatedDelta:
    w = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in mixer.state_dict().items()}
    G, H, K, V = mixer.num_k_heads, mixer.num_v_heads, mixer.head_k_dim, mixer.head_v_dim
    D, R = w["in_proj_qkvz.weight"].shape[1], H // G
    query, key, value, gate = jnp.split(w["in_proj_qkvz.weight"].T.reshape(D, G, -1), np.cumsum([K, K, R * V]), axis=2)
    beta, decay = jnp.split(w["in_proj_ba.weight"].T.reshape(D, G, 2 * R), 2, axis=2)
    conv_q, conv_k, conv_v = jnp.split(w["conv1d.weight"][:, 0].T, [G * K, 2 * G * K], axis=1)
    return GatedDelta(
        query=query,
        key=key,
        value=value.reshape(D, H, V),
        gate=gate.reshape(D, H, V),
        beta=beta.reshape(D, H),
        decay=decay.reshape(D, H),
        decay_bias=w["dt_bias"],
        log_decay=w["A_log"],
        query_convolution=CausalConvolution(conv_q.reshape(-1, G, K), None),
        key_convolution=CausalConvolution(conv_k.reshape(-1, G, K), None),
        value_convolution=CausalConvolution(conv_v.reshape(-1, H, V), None),
        norm=Norm(w["norm.weight"], None),
        out=w["out_proj.weight"].T.reshape(H, V, D),
    )


def test_outputs_and_decoding_equal_transformers():
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    transformers = pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    settings = transformers.Qwen3NextConfig(
        hidden_size=12,
        linear_num_value_heads=6,
        linear_num_key_heads=2,
        linear_key_head_dim=5,
        linear_value_head_dim=7,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-3,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    mixer, x_BTD, length = forms.randomize(Qwen3NextGatedDeltaNet(settings, 0)), forms.stream(), 14
    with torch.no_grad():
        x, cache = torch.tensor(np.asarray(x_BTD)), transformers.DynamicCache(config=settings)
        expected = mixer(x).numpy()
        steps = [mixer(x[:, :length], cache_params=cache)]
        steps += [mixer(x[:, t : t + 1], cache_params=cache) for t in range(length, forms.T)]
    out, _ = forms.run(GATED, MODEL, from_torch(mixer), x_BTD, forms.positions([0], forms.T))
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(out, torch.cat(steps, 1).numpy(), atol=2e-5, rtol=2e-5)
