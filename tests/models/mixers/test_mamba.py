import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import Block, ModelConfig, NormConfig, decoder_spec
from jaxllm.models.config import MambaConfig
from jaxllm.models.declare import abstract, count
from jaxllm.models.layer import Context
from jaxllm.models.mixers.causal_convolution import CausalConvolution
from jaxllm.models.mixers.mamba import Mamba, Selection, mamba, mamba_spec, mamba_step, selective_scan
from jaxllm.models.mixers.recurrence import reference_recurrence
from jaxllm.models.norm import Norm
from tests.models.mixers import recurrent_forms as forms

PLAIN = MambaConfig(d_state=5, d_conv=4, expand=2, dt_rank=3, chunk=8)
JAMBA = replace(PLAIN, inner_norm=True, d_conv=2, chunk=3)
BARE = MambaConfig(d_state=3, d_conv=1, expand=1, conv_bias=False, proj_bias=True, scan="associative")
CONFIGS = {"plain": PLAIN, "jamba": JAMBA, "bare": BARE}


@pytest.mark.parametrize("chunk", [7, 64])
def test_the_scan_equals_the_recurrence(chunk):
    normal = forms.normals()
    rate = jnp.exp(normal(6, 3)).at[0].set(1e3)  # one channel forgets at once: exp(-1000) is 0
    tokens = Selection(normal(2, 19, 6), jax.nn.softplus(normal(2, 19, 6)), normal(2, 19, 3), normal(2, 19, 3), None)
    tokens = tokens.replace(starts_BT=jnp.zeros((2, 19), bool).at[0, 5].set(True).at[1, 12:14].set(True))
    forms.check_equal_with_gradients(
        lambda *a: selective_scan(*a, chunk),
        lambda rate, state, tokens: reference_recurrence(partial(mamba_step, rate), state, tokens),
        (rate, normal(2, 6, 3), tokens),
    )


def test_both_scans_are_one_function():
    x_BTD = forms.stream()
    np.testing.assert_allclose(
        forms.whole(PLAIN, x_BTD),
        forms.run(
            replace(PLAIN, scan="associative"),
            forms.MODEL,
            forms.parameters(PLAIN),
            x_BTD,
            forms.positions([0], forms.T),
        )[0],
        rtol=1e-5,
        atol=1e-5,
    )


def test_training_never_holds_the_states_of_a_whole_sequence():
    T, inner, N = 4096, 24, 64

    def temporaries(config):
        p = abstract(mamba_spec(forms.MODEL, config))
        context = Context(jnp.arange(T, dtype=jnp.int32)[None], None, None)
        loss = lambda p, x_BTD: mamba(p, forms.MODEL, config, x_BTD, context, None)[0].sum()  # noqa: E731
        gradient = jax.jit(jax.grad(loss)).lower(p, jax.ShapeDtypeStruct((1, T, forms.D), jnp.float32))
        return gradient.compile().memory_analysis().temp_size_in_bytes

    all_states = T * inner * N * 4
    assert temporaries(MambaConfig(d_state=N)) < all_states < temporaries(MambaConfig(d_state=N, scan="associative"))


def test_size_of_the_cache():
    """Of each layer d_inner N numbers of state in float32 and d_inner (k - 1) of the convolution; Jamba's 28 layers."""
    model = replace(forms.MODEL, d_model=4096, compute_dtype="bfloat16")
    layer = forms.cache_bytes(MambaConfig(d_state=16, d_conv=4, expand=2, dt_rank=256), model)
    assert layer == 8192 * 16 * 4 + 8192 * 3 * 2
    assert 28 * 8192 * 16 * 4 == 14_680_064 and 28 * layer == 14_680_064 + 1_376_256


def test_a_published_size():
    """state-spaces/mamba-130m with its vocabulary of 50,280."""
    config = ModelConfig(
        vocab_size=50_280, d_model=768, num_layers=24, positions="none", pattern=(Block(MambaConfig(), "none"),)
    )
    assert count(decoder_spec(config)) == 129_135_360


def test_initial_values():
    names = ("log_decay", "step_bias", "skip", "convolution.bias", "step", "convolution.weight")
    log_decay, step_bias, skip, bias, step, weight = forms.initial(replace(PLAIN, expand=50), *names)
    np.testing.assert_allclose(np.exp(log_decay), np.tile([1, 2, 3, 4, 5], (600, 1)), rtol=1e-5)
    steps = np.logaddexp(0, step_bias)
    assert steps.min() > 0.999e-3 and steps.max() < 1.001e-1
    assert np.log10(steps).mean() == pytest.approx(-2, abs=0.1)  # uniform in the logarithm
    assert (skip == 1).all() and (bias == 0).all()
    assert abs(step).max() == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert abs(weight).max() == pytest.approx(1 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_state": 0}, "mamba.d_state must be at least 1, got 0"),
        ({"d_conv": 0}, "mamba.d_conv must be at least 1, got 0"),
        ({"chunk": 0}, "mamba.chunk must be at least 1, got 0"),
        ({"dt_rank": -1}, "mamba.dt_rank must be at least 0, got -1"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MambaConfig(**fields)


# The same layer in transformers.


def from_torch(tensors) -> Mamba:
    w = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in tensors.items()}
    inputs, gate = jnp.split(w["in_proj.weight"].T, 2, axis=1)
    input_bias, gate_bias = jnp.split(w["in_proj.bias"], 2) if "in_proj.bias" in w else (None, None)
    norm = lambda name: Norm(w[f"{name}_layernorm.weight"], None) if f"{name}_layernorm.weight" in w else None  # noqa: E731
    return Mamba(
        input=inputs,
        gate=gate,
        convolution=CausalConvolution(w["conv1d.weight"][:, 0].T, w.get("conv1d.bias")),
        select=w["x_proj.weight"].T,
        step=w["dt_proj.weight"].T,
        step_bias=w["dt_proj.bias"],
        log_decay=w["A_log"],
        skip=w["D"],
        out=w["out_proj.weight"].T,
        input_bias=input_bias,
        gate_bias=gate_bias,
        out_bias=w.get("out_proj.bias"),
        step_norm=norm("dt"),
        write_norm=norm("b"),
        read_norm=norm("c"),
    )


@pytest.fixture(scope="module", params=["mamba", "mamba_biased", "jamba"])
def theirs(request):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    transformers = pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    from transformers.models.jamba.modeling_jamba import JambaMambaMixer
    from transformers.models.mamba.modeling_mamba import MambaMixer

    biased = request.param == "mamba_biased"
    if request.param == "jamba":
        settings = transformers.JambaConfig(
            hidden_size=12,
            num_attention_heads=2,
            num_key_value_heads=1,
            mamba_d_state=5,
            mamba_dt_rank=3,
            rms_norm_eps=1e-3,
        )
        mixer, config = JambaMambaMixer(settings, 0), replace(PLAIN, inner_norm=True)
    else:
        settings = transformers.MambaConfig(
            hidden_size=12,
            state_size=5,
            time_step_rank=3,
            use_bias=biased,
            use_conv_bias=not biased,
            num_hidden_layers=1,
        )
        mixer, config = MambaMixer(settings, 0), replace(PLAIN, proj_bias=biased, conv_bias=not biased)
    forms.randomize(mixer)
    return torch, mixer, settings, config


MODEL = replace(forms.MODEL, norm=NormConfig(epsilon=1e-3))


def test_outputs_and_gradients_equal_transformers(theirs):
    torch, mixer, _, config = theirs
    x_BTD = forms.stream()
    x = torch.tensor(np.asarray(x_BTD), requires_grad=True)
    expected = mixer(x)
    torch.sin(expected).sum().backward()

    def loss(p, x_BTD):
        out, _, _ = mamba(p, MODEL, config, x_BTD, Context(forms.positions([0], forms.T), None, None), None)
        return jnp.sin(out).sum(), out

    grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(from_torch(mixer.state_dict()), x_BTD)
    np.testing.assert_allclose(out, expected.detach().numpy(), atol=1e-5, rtol=1e-5)
    close = partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)
    close(grads[1], x.grad.numpy())
    expected = from_torch({name: parameter.grad for name, parameter in mixer.named_parameters()})
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(expected))
    jax.tree.map(close, grads[0], expected)


def test_decoding_equals_transformers(theirs):
    torch, mixer, settings, config = theirs
    from transformers import DynamicCache

    x_BTD, length = forms.stream(), 14
    with torch.no_grad():
        x, cache = torch.tensor(np.asarray(x_BTD)), DynamicCache(config=settings)
        expected = [mixer(x[:, :length], cache_params=cache)]
        expected += [mixer(x[:, t : t + 1], cache_params=cache) for t in range(length, forms.T)]
    state, out = forms.layer_of(config).empty_cache(MODEL, config, forms.B, forms.T), []
    for start, stop in [(0, length), *((t, t + 1) for t in range(length, forms.T))]:
        where = forms.positions([start] * forms.B, stop - start)
        y, state = forms.run(
            config, MODEL, from_torch(mixer.state_dict()), x_BTD[:, start:stop], where, None, None, state
        )
        out.append(y)
    np.testing.assert_allclose(jnp.concatenate(out, 1), torch.cat(expected, 1).numpy(), atol=1e-5, rtol=1e-5)
