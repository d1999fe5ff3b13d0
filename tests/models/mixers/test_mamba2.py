from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import Block, ModelConfig, NormConfig, decoder_spec
from jaxllm.models.config import Mamba2Config
from jaxllm.models.declare import count
from jaxllm.models.layers import layer_of
from jaxllm.models.mixers.causal_convolution import CausalConvolution
from jaxllm.models.mixers.mamba2 import (
    Mamba2,
    Tokens,
    mamba2_step,
    reference_quadratic,
    state_space_dual,
    total_angle,
    turn,
)
from jaxllm.models.mixers.recurrence import reference_recurrence
from jaxllm.models.norm import Norm
from tests.models.mixers import recurrent_forms as forms

GROUPED = Mamba2Config(d_state=5, d_conv=4, expand=2, head_dim=6, num_groups=2, chunk=8)
BIASED = Mamba2Config(d_state=3, d_conv=2, expand=3, head_dim=9, conv_bias=False, proj_bias=True, dt_max=0.5, chunk=3)
ROTARY = replace(GROUPED, d_state=6, rotary_state=True)
CONFIGS = {"grouped": GROUPED, "biased": BIASED, "rotary": ROTARY}
MODEL = replace(forms.MODEL, norm=NormConfig(epsilon=1e-3))


def some_tokens(normal, length, N=5):
    step = jax.nn.softplus(normal(2, length, 6))
    return Tokens(normal(2, length, 6, 4), step, normal(2, length, 2, N), normal(2, length, 2, N), None)


@pytest.mark.parametrize("chunk", [7, 64])
def test_duality_equals_the_recurrence(chunk):
    normal = forms.normals()
    rate = jnp.exp(normal(6)).at[0].set(1e3)  # one head forgets at once: exp(-1000) is 0
    starts = jnp.zeros((2, 19), bool).at[0, 5].set(True).at[1, 12:14].set(True)
    forms.check_equal_with_gradients(
        lambda *a: state_space_dual(*a, chunk),
        lambda rate, state, tokens: reference_recurrence(partial(mamba2_step, rate), state, tokens),
        (rate, normal(2, 6, 4, 5), some_tokens(normal, 19).replace(starts_BT=starts)),
    )


def test_the_quadratic_form_equals_the_recurrence():
    normal = forms.normals()
    rate, tokens = jnp.exp(normal(6)), some_tokens(normal, 11)
    _, y = reference_recurrence(partial(mamba2_step, rate), jnp.zeros((2, 6, 4, 5)), tokens)
    np.testing.assert_allclose(reference_quadratic(rate, tokens), y, rtol=1e-4, atol=1e-4)


def test_a_rotary_state_is_a_complex_one():
    """Next to a recurrence in complex numbers, whose state is multiplied by exp(-step rate - i angle)."""
    normal = forms.normals()
    rate, tokens = jnp.exp(normal(6)), some_tokens(normal, 11, N=8)
    angle = normal(2, 11, 2, 4)
    total = total_angle(angle)
    turned = tokens.replace(write_BTGN=turn(tokens.write_BTGN, total), read_BTGN=turn(tokens.read_BTGN, total))
    _, y = state_space_dual(rate, jnp.zeros((2, 6, 4, 8)), turned, 4)

    pairs = lambda x: np.repeat(np.asarray(x[..., :4] + 1j * x[..., 4:]), 3, axis=2)  # noqa: E731
    write, read, turns = pairs(tokens.write_BTGN), pairs(tokens.read_BTGN), np.repeat(angle, 3, axis=2)
    state = np.zeros((2, 6, 4, 4), complex)
    for t in range(11):
        step = np.asarray(tokens.step_BTH[:, t])[..., None, None]
        state = state * np.exp(-step * np.asarray(rate)[:, None, None] - 1j * np.asarray(turns[:, t])[:, :, None])
        state = state + step * np.asarray(tokens.x_BTHP)[:, t, :, :, None] * write[:, t][:, :, None]
        np.testing.assert_allclose(y[:, t], (state * read[:, t][:, :, None].conj()).sum(-1).real, atol=1e-4, rtol=1e-4)


def test_angles_of_a_long_text_keep_their_digits():
    total = np.asarray(jax.jit(total_angle)(jnp.full((1, 40_001), jnp.pi / 2)))
    assert np.cos(total[0, -1]) == pytest.approx(0, abs=1e-4)
    assert abs(total).max() < 3.15


@pytest.mark.parametrize("chunk", [4, 64])
def test_a_rotary_state_knows_the_parity_of_any_bit_string(chunk):
    """One layer with weights set by hand: a 1 turns the state by half a turn, and what the first token wrote is read
    with the sign of (-1)^ones. A real state with decays between 0 and 1 can only fade (Sarrof et al. 2024)."""
    config = Mamba2Config(d_state=2, d_conv=1, expand=2, head_dim=4, rotary_state=True, conv_bias=False, chunk=chunk)
    model = replace(forms.MODEL, d_model=2)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape), layer_of(config).spec(model, config))
    one = CausalConvolution(jnp.ones((1, 1, 2)), None)
    p = zeros.replace(
        # Features of a token: is it the first, is it a 1. Both projections go through silu.
        input=zeros.input.at[0, 0, 0].set(10.0),
        write=zeros.write.at[0, 0, 0].set(10.0),
        read=jnp.zeros((2, 1, 2)).at[:, 0, 0].set(10.0),
        angle=jnp.asarray([0.0, np.pi]).reshape(2, 1, 1),
        gate=zeros.gate.at[:, 0, 0].set(10.0),
        out=zeros.out.at[0, 0, 0].set(1.0),
        input_convolution=CausalConvolution(jnp.ones((1, 1, 4)), None),
        write_convolution=one,
        read_convolution=one,
        step_bias=zeros.step_bias + 1,
        log_decay=zeros.log_decay - 50,  # it never forgets
        norm=Norm(jnp.ones((1, 4)), None),
    )
    bits = np.random.default_rng(0).integers(0, 2, (4, 300))
    first = np.zeros_like(bits)
    first[:, 0], bits[:, 0] = 1, 0
    out, _ = forms.run(
        config, model, p, jnp.asarray(np.stack([first, bits], -1), jnp.float32), forms.positions([0], 300)
    )
    says = np.asarray(out[..., 0])
    ones = bits.astype(bool)  # at a 0 the gate is shut
    expected = 1 - 2 * (bits.cumsum(1) % 2)
    np.testing.assert_allclose(says[ones], 2.0 * expected[ones], atol=1e-2)


def test_steps_keep_within_their_limits():
    """Steps of at most nothing leave no state, and y is what skips it: without a bias, nothing at a skip of 0."""
    still = replace(GROUPED, dt_max=1e-12)
    p = forms.parameters(GROUPED)
    p = p.replace(skip=jnp.zeros_like(p.skip))
    x_BTD, where = forms.stream(), forms.positions([0], forms.T)
    assert abs(forms.run(still, forms.MODEL, p, x_BTD, where)[0]).max() < 1e-6
    free = forms.run(GROUPED, forms.MODEL, p, x_BTD, where)[0]
    np.testing.assert_allclose(
        forms.run(replace(GROUPED, dt_max=1e6), forms.MODEL, p, x_BTD, where)[0], free, rtol=1e-5, atol=1e-6
    )
    assert abs(forms.run(replace(GROUPED, dt_min=2.0), forms.MODEL, p, x_BTD, where)[0] - free).max() > 1e-2


def test_size_of_the_cache():
    """Mamba-2 2.7B: d_inner N in float32 and (d_inner + 2 G N) (k - 1) for each layer."""
    model = replace(forms.MODEL, d_model=2560, compute_dtype="bfloat16")
    assert forms.cache_bytes(Mamba2Config(), model) == 5120 * 128 * 4 + (5120 + 2 * 128) * 3 * 2


def test_a_published_size():
    """state-spaces/mamba2-130m with its vocabulary of 50,288."""
    config = ModelConfig(
        vocab_size=50_288, d_model=768, num_layers=24, positions="none", pattern=(Block(Mamba2Config(), "none"),)
    )
    assert count(decoder_spec(config)) == 128_989_632


def test_initial_values():
    names = ("log_decay", "step_bias", "skip", "norm.scale")
    log_decay, step_bias, skip, scale = forms.initial(replace(GROUPED, expand=300), *names)
    np.testing.assert_allclose(np.exp(log_decay), np.arange(1, 601), rtol=1e-5)
    steps = np.logaddexp(0, step_bias)
    assert 0.999e-3 < steps.min() < 1.1e-3 and 0.09 < steps.max() < 1.001e-1
    assert (skip == 1).all() and (scale == 1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_state": 0}, "mamba2.d_state must be at least 1, got 0"),
        ({"num_groups": 0}, "mamba2.num_groups must be at least 1, got 0"),
        ({"rotary_state": True, "d_state": 5}, "turns pairs of the state: d_state=5 must be even"),
        ({"dt_min": 0.2, "dt_max": 0.1}, "mamba2.dt_max=0.1 must be above dt_min=0.2"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Mamba2Config(**fields)


@pytest.mark.parametrize("fields", [{"head_dim": 5}, {"head_dim": 8, "num_groups": 2}])
def test_channels_are_whole_groups_of_heads(fields):
    with pytest.raises(ValueError, match="24 channels must be whole heads of mamba2.head_dim"):
        forms.parameters(replace(GROUPED, **fields))


# The same layer in transformers.


def from_torch(mixer) -> Mamba2:
    w = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in mixer.state_dict().items()}
    H, P, G, N = mixer.num_heads, mixer.head_dim, mixer.n_groups, mixer.ssm_state_size
    shapes, ends = [(H, P), (G, N), (G, N)], np.cumsum([H * P, G * N, G * N])

    def parts(array):  # x, write, read along the last axis
        split = jnp.split(array, ends[:2], axis=-1)
        return [part.reshape(*array.shape[:-1], *shape) for part, shape in zip(split, shapes, strict=True)]

    def projections(array):  # gate, x, write, read, step along the last axis
        gate, channels, step = jnp.split(array, [H * P, H * P + ends[2]], axis=-1)
        return gate.reshape(*gate.shape[:-1], H, P), *parts(channels), step

    weights = parts(w["conv1d.weight"][:, 0].T)
    biases = parts(w["conv1d.bias"]) if "conv1d.bias" in w else [None] * 3
    names = ("gate", "input", "write", "read", "step")
    bias_names = ("gate_bias", "input_bias", "write_bias", "read_bias", "step_in_bias")
    in_biases = projections(w["in_proj.bias"]) if "in_proj.bias" in w else [None] * 5
    return Mamba2(
        **dict(zip(names, projections(w["in_proj.weight"].T), strict=True)),
        **dict(zip(bias_names, in_biases, strict=True)),
        **{
            f"{name}_convolution": CausalConvolution(weight, bias)
            for name, weight, bias in zip(("input", "write", "read"), weights, biases, strict=True)
        },
        step_bias=w["dt_bias"],
        log_decay=w["A_log"],
        skip=w["D"],
        angle=None,
        norm=Norm(w["norm.weight"].reshape(H, P), None),
        out=w["out_proj.weight"].T.reshape(H, P, -1),
        out_bias=w.get("out_proj.bias"),
    )


@pytest.mark.parametrize("config", [GROUPED, replace(BIASED, dt_max=0.0), BIASED], ids=["grouped", "biased", "limited"])
def test_outputs_and_decoding_equal_transformers(config):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    transformers = pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    settings = transformers.Mamba2Config(
        hidden_size=12,
        num_heads=config.num_heads(12),
        head_dim=config.head_dim,
        state_size=config.d_state,
        n_groups=config.num_groups,
        expand=config.expand,
        conv_kernel=config.d_conv,
        use_bias=config.proj_bias,
        use_conv_bias=config.conv_bias,
        time_step_limit=(config.dt_min, config.dt_max or float("inf")),
        chunk_size=5,
        layer_norm_epsilon=1e-3,
        num_hidden_layers=1,
    )
    mixer, x_BTD, length = forms.randomize(Mamba2Mixer(settings, 0)), forms.stream(), 14
    p = from_torch(mixer)
    with torch.no_grad():
        x, cache = torch.tensor(np.asarray(x_BTD)), transformers.DynamicCache(config=settings)
        expected = mixer(x).numpy()
        steps = [mixer(x[:, :length], cache_params=cache)]
        steps += [mixer(x[:, t : t + 1], cache_params=cache) for t in range(length, forms.T)]
    out, _ = forms.run(config, MODEL, p, x_BTD, forms.positions([0], forms.T))
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)
    if not config.dt_max:  # transformers does not limit the step when it decodes
        np.testing.assert_allclose(out, torch.cat(steps, 1).numpy(), atol=2e-5, rtol=2e-5)
