from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import Block, NormConfig, decoder_spec, forward, hidden_states, make_cache
from jaxllm.models import block as blocks
from jaxllm.models.channels.rwkv_channel import RWKVChannel
from jaxllm.models.config import EmbeddingConfig, RWKVChannelConfig, RWKVConfig
from jaxllm.models.decoder import Decoder, unembed
from jaxllm.models.mixers.recurrence import reference_recurrence
from jaxllm.models.mixers.rwkv import NOTHING, RWKV, Average, Tokens, average_step, forgetful_average
from jaxllm.models.norm import Norm
from tests.models.mixers import recurrent_forms as forms

CONFIGS = {
    "time": RWKVConfig(chunk=8),
    "wide": RWKVConfig(d_attention=18, chunk=3),
    "channel": RWKVChannelConfig(d_ff=20),
}


def some_tokens(normal, length=19, size=1.0):
    starts = jnp.zeros((2, length), bool).at[0, 5].set(True).at[1, 12:14].set(True)
    counts = jnp.ones((2, length), bool).at[1, -2:].set(False)
    return Tokens(size * normal(2, length, 6), normal(2, length, 6), starts, counts)


@pytest.mark.parametrize("chunk", [7, 64])
def test_chunks_equal_the_recurrence(chunk):
    normal = forms.normals()
    rate = jnp.exp(normal(6)).at[0].set(1e3).at[1].set(1e-6)  # one channel forgets at once, one never
    average = Average(normal(2, 6), jnp.exp(normal(2, 6)), normal(2, 6))
    forms.check_equal_with_gradients(
        lambda rate, bonus, sums, tokens: values(forgetful_average(rate, bonus, state(sums, average), tokens, chunk)),
        lambda rate, bonus, sums, tokens: values(
            reference_recurrence(lambda a, t: average_step(rate, bonus, a, t), state(sums, average), tokens)
        ),
        (rate, forms.normals(1)(6), (average.numerator_BI, average.denominator_BI), some_tokens(normal)),
    )


def state(sums, average):
    return Average(*sums, average.peak_BI)


def values(result):
    """Without the peaks, which carry no gradient."""
    average, mean = result
    return average.numerator_BI, average.denominator_BI, mean


def test_keys_of_any_size_make_an_average():
    """exp(key) itself would overflow at 89; weights of 10^-174 next to each other still make a mean."""
    normal = forms.normals()
    tokens = some_tokens(normal, size=400.0)
    zeros = jnp.zeros((2, 6))
    start = Average(zeros, zeros, jnp.full((2, 6), NOTHING))
    rate, bonus = jnp.full((6,), 0.5), normal(6)
    last, mean = forgetful_average(rate, bonus, start, tokens, 5)
    key, value = (np.asarray(x, np.float64) for x in (tokens.key_BTI, tokens.value_BTI))
    starts = np.cumsum(tokens.starts_BT, axis=1)
    for b in range(2):
        for t in range(17):
            exponents = [key[b, s] - 0.5 * (t - 1 - s) if s < t else key[b, t] + bonus for s in range(t + 1)]
            exponents = np.stack([e if starts[b, s] == starts[b, t] else e - np.inf for s, e in enumerate(exponents)])
            weights = np.exp(exponents - exponents.max(0))
            np.testing.assert_allclose(mean[b, t], (weights * value[b, : t + 1]).sum(0) / weights.sum(0), atol=2e-4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(last))


def test_initial_values():
    """Channels and layers as in the paper's appendix: decays from -5 to 3, mixes that rise with the channel."""
    config = replace(forms.MODEL, num_layers=3, pattern=(Block(RWKVConfig(), RWKVChannelConfig()),))
    spec = decoder_spec(config).segments[0][0]
    start = lambda param: np.asarray(param.init(jax.random.key(0), param.shape, jnp.float32))  # noqa: E731
    mixer, mix_in_channel = jax.tree.map(start, spec.mixer), start(spec.channel.mix_key)
    channel = np.arange(12)
    for layer in range(3):
        depth = 1 - layer / 3
        along = (channel / 11) ** (0.7 + 1.3 * layer / 2)
        np.testing.assert_allclose(mixer.decay[layer], -5 + 8 * along, rtol=1e-5)
        np.testing.assert_allclose(mixer.mix_key[layer], (channel / 12) ** depth, rtol=1e-5)
        np.testing.assert_allclose(mixer.mix_value[layer], (channel / 12) ** depth + 0.15 * layer, rtol=1e-5)
        np.testing.assert_allclose(mixer.mix_receptance[layer], (channel / 12) ** (depth / 2), rtol=1e-5)
        np.testing.assert_allclose(mix_in_channel[layer], (channel / 12) ** depth, rtol=1e-5)
        np.testing.assert_allclose(mixer.bonus[layer], np.log(0.3) + 0.5 * ((channel + 1) % 3 - 1), rtol=1e-5)
    np.testing.assert_allclose(forms.initial(RWKVConfig(), "decay")[0], -5 + 8 * (channel / 11) ** 0.7, rtol=1e-5)


def test_size_of_the_cache():
    """Three numbers of state a channel in float32, and the token before, of both mixers."""
    model = replace(forms.MODEL, d_model=768, compute_dtype="bfloat16")
    assert forms.cache_bytes(RWKVConfig(), model) == 768 * 3 * 4 + 768 * 2
    assert forms.cache_bytes(RWKVChannelConfig(), model) == 768 * 2


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (RWKVConfig, {"d_attention": -1}, "rwkv.d_attention must be at least 0, got -1"),
        (RWKVConfig, {"chunk": 0}, "rwkv.chunk must be at least 1, got 0"),
        (RWKVChannelConfig, {"d_ff": -4}, "rwkv_channel.d_ff must be at least 0, got -4"),
    ],
)
def test_impossible_values_are_named(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


# The whole model in transformers.


def from_torch(model) -> Decoder:
    w = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in model.state_dict().items()}
    layers = model.config.num_hidden_layers

    def stacked(name):
        return jnp.stack([jnp.squeeze(w[f"rwkv.blocks.{i}.{name}"]) for i in range(layers)])

    matrix = lambda name: jnp.swapaxes(stacked(f"{name}.weight"), 1, 2)  # noqa: E731
    norm = lambda name: Norm(stacked(f"{name}.weight"), stacked(f"{name}.bias"))  # noqa: E731
    single = lambda name: Norm(w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    mixer = RWKV(
        mix_key=stacked("attention.time_mix_key"),
        mix_value=stacked("attention.time_mix_value"),
        mix_receptance=stacked("attention.time_mix_receptance"),
        key=matrix("attention.key"),
        value=matrix("attention.value"),
        receptance=matrix("attention.receptance"),
        decay=stacked("attention.time_decay"),
        bonus=stacked("attention.time_first"),
        out=matrix("attention.output"),
    )
    channel = RWKVChannel(
        mix_key=stacked("feed_forward.time_mix_key"),
        mix_receptance=stacked("feed_forward.time_mix_receptance"),
        key=matrix("feed_forward.key"),
        receptance=matrix("feed_forward.receptance"),
        value=matrix("feed_forward.value"),
    )
    return Decoder(
        embedding=w["rwkv.embeddings.weight"],
        embedding_norm=single("rwkv.blocks.0.pre_ln"),
        segments=((blocks.Block(norm("ln1"), mixer, None, norm("ln2"), channel, None),),),
        norm=single("rwkv.ln_out"),
        head=w["head.weight"],
        **dict.fromkeys(("position", "token_type", "head_bias")),
    )


@pytest.mark.parametrize("width", [12, 18])
def test_logits_and_decoding_equal_transformers(width):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    transformers = pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    sizes = {"vocab_size": 37, "context_length": 32, "hidden_size": 12, "num_hidden_layers": 3}
    settings = transformers.RwkvConfig(**sizes, attention_hidden_size=width, intermediate_size=20, rescale_every=0)
    model = forms.randomize(transformers.RwkvForCausalLM(settings))
    tokens = np.random.default_rng(0).integers(0, 37, (2, 17))
    config = replace(
        forms.MODEL,
        vocab_size=37,
        num_layers=3,
        pattern=(Block(RWKVConfig(d_attention=width, chunk=8), RWKVChannelConfig(d_ff=20)),),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=settings.layer_norm_epsilon),
        embedding=EmbeddingConfig(norm=True),
        tie_embeddings=False,
    )
    params = from_torch(model)
    close = partial(np.testing.assert_allclose, atol=5e-5, rtol=1e-4)
    with torch.no_grad():
        expected = model(torch.tensor(tokens), use_cache=False).logits.numpy()
    close(jax.jit(forward, static_argnums=1)(params, config, tokens), expected)
    if width != 12:  # transformers can't decode where the channels are not as many as the model is wide
        return

    state, cache = None, make_cache(config, 1, 17)  # nor more rows than one
    step = jax.jit(lambda cache, token: hidden_states(params, config, token, cache=cache))
    for t in range(17):
        with torch.no_grad():
            theirs = model(torch.tensor(tokens[:1, t : t + 1]), state=state, use_cache=True)
        state, hidden = theirs.state, step(cache, tokens[:1, t : t + 1])
        cache = hidden.cache
        close(unembed(params, config, hidden.x_BTD), theirs.logits.numpy())
