"""Every family beside transformers: the same weights, read from the directory it wrote, and written back."""

import jax
import numpy as np
import pytest

from jaxllm.inference.engine import generate_tokens
from jaxllm.inference.sampling import SamplingConfig
from jaxllm.interop.huggingface import load_huggingface, save_huggingface
from jaxllm.interop.huggingface.families import FAMILIES
from jaxllm.interop.huggingface.parameters import planned_tensors
from jaxllm.interop.huggingface.safetensors_files import read_directory
from jaxllm.models import decoder_spec, forward, hidden_states, make_cache, unembed

pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")

from tests.interop.huggingface.random_decoders import CASES, build, greedy_ids, logits, reload, save_gradients

WITHIN = 1e-4  # of float32 logits whose spread is about 1
LENGTH = 24
FIRST, SECOND = 10, 9  # two documents packed in one row of LENGTH, and padding behind them


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    """A model of transformers and the directory it was saved to."""
    case = CASES[request.param]
    model = build(case)
    model.save_pretrained(tmp_path / "theirs")
    return case, model, tmp_path / "theirs"


def tokens_of(config, rows=2, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(3, config.vocab_size, (rows, length))


def test_logits_packed_padded_and_cached_and_the_way_back(pair, tmp_path):
    case, model, directory = pair
    ours = load_huggingface(directory)
    tokens = tokens_of(ours.config)
    expected = logits(model, tokens)
    assert np.std(expected) > 0.3, "logits that differ clearly"

    # Row 0 is one document; row 1 is two and padding.
    alone = [logits(model, tokens[1:, :FIRST]), logits(model, tokens[1:, FIRST : FIRST + SECOND])]
    lengths = [FIRST, SECOND, LENGTH - FIRST - SECOND]
    segments = np.stack([np.ones(LENGTH, int), np.repeat([1, 2, 0], lengths)])
    positions = np.stack([np.arange(LENGTH), np.concatenate([np.arange(length) for length in lengths])])
    run = jax.jit(forward, static_argnums=1)
    got = np.asarray(run(ours.params, ours.config, tokens, positions=positions, segment_ids=segments))
    np.testing.assert_allclose(got[0], expected[0], atol=WITHIN)
    np.testing.assert_allclose(got[1:, :FIRST], alone[0], atol=WITHIN)
    np.testing.assert_allclose(got[1:, FIRST : FIRST + SECOND], alone[1], atol=WITHIN)

    np.testing.assert_allclose(cached_logits(ours, tokens), expected, atol=WITHIN)

    save_huggingface(tmp_path / "ours", ours.config, ours.params, family=case.model_type)
    again = reload(tmp_path / "ours", case)
    np.testing.assert_array_equal(logits(again, tokens), expected)
    assert {name: tuple(tensor.shape) for name, tensor in again.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


def cached_logits(ours, tokens):
    """A first piece, which is shorter and padded in the second row, then one token after another."""
    config, (batch, length) = ours.config, tokens.shape
    begin = np.array([length // 2, length // 2 - 3])
    steps = np.arange(length - begin.min())
    # The longer row runs on beyond its end, where nobody looks.
    following = np.take_along_axis(np.pad(tokens, ((0, 0), (0, 3))), begin[:, None] + steps, axis=1)

    @jax.jit
    def run(params, beginning, following):
        def step(cache, tokens, valid=None):
            hidden = hidden_states(params, config, tokens, valid=valid, cache=cache)
            return hidden.cache, unembed(params, config, hidden.x_BTD)

        valid = np.arange(beginning.shape[1]) < begin[:, None]
        cache, first = step(make_cache(config, batch, length + 3), beginning, valid)
        cache = cache.replace(length_B=begin.astype(np.int32))
        _, rest = jax.lax.scan(step, cache, following.T[:, :, None])
        return first, rest[:, :, 0].swapaxes(0, 1)

    first, rest = map(np.asarray, run(ours.params, tokens[:, : begin.max()], following))
    return np.stack([np.concatenate([first[row, :n], rest[row, : length - n]]) for row, n in enumerate(begin)])


@pytest.mark.parametrize("name", ["gpt2", "llama-3.1", "gemma2", "gpt_neox"])
def test_greedy_ids(name, tmp_path):
    model = build(CASES[name], seed=3)
    model.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    prompts = [tokens_of(ours.config, 1, length, seed=length)[0].tolist() for length in (3, 17)]
    greedy = SamplingConfig(temperature=0.0)
    got = generate_tokens(ours.params, ours.config, prompts, max_new_tokens=64, sampling=greedy)
    assert got == [greedy_ids(model, prompt, 64) for prompt in prompts]


@pytest.mark.parametrize("name", ["gpt2", "llama-biases", "mixtral", "deepseek_v3", "jamba"])
def test_gradients_of_the_loss(name, tmp_path):
    model = build(CASES[name], seed=5)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_huggingface(tmp_path / "theirs")
    tokens = tokens_of(ours.config, seed=5)
    expected_loss = save_gradients(model, tokens, tmp_path / "gradients")

    def loss_of(params):
        log_probabilities = jax.nn.log_softmax(forward(params, ours.config, tokens)[:, :-1])
        return -jax.numpy.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1).mean()

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(ours.params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    weights = FAMILIES[CASES[name].model_type].weights(ours.config)
    written = planned_tensors(decoder_spec(ours.config), gradients, weights)
    expected = read_directory(tmp_path / "gradients")
    assert written.keys() == expected.keys()
    for tensor, planned in written.items():
        if not tensor.endswith("e_score_correction_bias"):  # which no gradient reaches
            np.testing.assert_allclose(planned.make(), expected[tensor].array(), atol=1e-5, err_msg=tensor)
