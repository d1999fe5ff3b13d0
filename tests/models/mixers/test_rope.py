from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import RopeConfig
from jaxllm.models.mixers.rope import (
    attention_factor,
    inverse_frequencies,
    rope_angles,
    rotate,
    stretch,
    text_lengths,
)

CONTEXT, K = 256, 20
SCALINGS = {
    "none": RopeConfig(theta=500.0),
    "partial": RopeConfig(fraction=0.5),
    "linear": RopeConfig(scaling="linear", factor=3.0),
    "ntk": RopeConfig(scaling="ntk", factor=4.0),
    "dynamic": RopeConfig(scaling="dynamic_ntk", factor=3.0),
    "yarn": RopeConfig(scaling="yarn", factor=4.0, original_context=64),
    "yarn, ramp not rounded": RopeConfig(
        scaling="yarn", factor=32.0, original_context=64, beta_fast=8.0, beta_slow=2.0, truncate=False, fraction=0.6
    ),
    "yarn of DeepSeek": RopeConfig(
        scaling="yarn", factor=40.0, original_context=64, mscale=0.7, mscale_all_dim=1.2, interleaved=True
    ),
    "yarn, own attention factor": RopeConfig(scaling="yarn", factor=4.0, original_context=64, attention_factor=1.3),
    "yarn, factor from the lengths": RopeConfig(scaling="yarn", original_context=64),
    "longrope": RopeConfig(
        scaling="longrope",
        original_context=64,
        short_factor=tuple(np.linspace(1, 2, 10)),
        long_factor=tuple(np.linspace(1, 30, 10)),
    ),
    "llama3": RopeConfig(theta=5000.0, scaling="llama3", factor=8.0, original_context=64),
}


def rope(config, positions, head_dim=K, length=None):
    return rope_angles(jnp.asarray(positions, jnp.int32), head_dim, config, CONTEXT, length)


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return ROPE_INIT_FUNCTIONS


class TestAgainstTransformers:
    """Frequencies, factors and turned vectors."""

    def parameters(self, config):
        """The same as a dictionary of theirs; what is not given there is left to their defaults."""
        kinds = {"none": "default", "dynamic_ntk": "dynamic"}
        parameters = {
            "rope_type": kinds.get(config.scaling, config.scaling),
            "rope_theta": config.theta,
            "factor": config.factor if config.factor != 1 else None,
            "partial_rotary_factor": config.fraction,
            "original_max_position_embeddings": config.original_context or CONTEXT,
        }
        if config.scaling == "yarn":
            parameters |= {name: getattr(config, name) for name in ("beta_fast", "beta_slow", "truncate")}
            parameters |= {n: getattr(config, n) for n in ("mscale", "mscale_all_dim") if getattr(config, n)}
        if config.scaling == "llama3":
            parameters |= {"low_freq_factor": config.low_freq_factor, "high_freq_factor": config.high_freq_factor}
        if config.scaling == "longrope":
            parameters |= {"short_factor": list(config.short_factor), "long_factor": list(config.long_factor)}
        if config.attention_factor:
            parameters["attention_factor"] = config.attention_factor
        return parameters

    @pytest.mark.parametrize("length", [50, 64, 65, 300, 700])
    @pytest.mark.parametrize("name", sorted(SCALINGS.keys() - {"none", "partial", "ntk"}))
    def test_frequencies_and_factors(self, theirs, name, length):
        from transformers import LlamaConfig

        config = SCALINGS[name]
        parameters = self.parameters(config)
        llama = LlamaConfig(head_dim=K, max_position_embeddings=CONTEXT, rope_parameters=parameters)
        expected, factor = theirs[parameters["rope_type"]](llama, seq_len=length)
        ours = inverse_frequencies(config, K, CONTEXT, length)
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)
        assert ours.dtype == np.float32
        assert attention_factor(config, CONTEXT) == pytest.approx(float(factor), rel=1e-9)

    def test_turned_vectors_half_split_and_partial(self, theirs):
        import torch
        from transformers.models.phi3.modeling_phi3 import Phi3Config, Phi3RotaryEmbedding, apply_rotary_pos_emb

        config = SCALINGS["partial"]
        phi = Phi3Config(hidden_size=3 * K, num_attention_heads=3, rope_parameters=self.parameters(config))
        x = np.random.default_rng(0).normal(size=(2, 9, 3, K)).astype(np.float32)
        positions = np.arange(9)[None] + np.array([[0], [31]])
        cos, sin = Phi3RotaryEmbedding(phi)(torch.tensor(x), torch.tensor(positions))
        expected, _ = apply_rotary_pos_emb(torch.tensor(x), torch.tensor(x), cos, sin, unsqueeze_dim=2)
        np.testing.assert_allclose(rotate(jnp.asarray(x), *rope(config, positions)), expected, atol=2e-6)

    def test_turned_vectors_interleaved(self, theirs):
        import torch
        from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek

        config = SCALINGS["yarn of DeepSeek"]
        sizes = {"qk_rope_head_dim": K, "max_position_embeddings": CONTEXT, "q_lora_rank": None}
        theirs = deepseek.DeepseekV2Config(**sizes, rope_parameters=self.parameters(config))
        x = np.random.default_rng(0).normal(size=(2, 9, 3, K)).astype(np.float32)
        positions = np.arange(9)[None] + np.array([[0], [31]])
        turns = deepseek.DeepseekV2RotaryEmbedding(theirs)(torch.tensor(x), torch.tensor(positions))
        heads_first = torch.tensor(x).transpose(1, 2)
        expected, _ = deepseek.apply_rotary_emb(heads_first, heads_first, turns)
        np.testing.assert_allclose(
            rotate(jnp.asarray(x), *rope(config, positions)), expected.transpose(1, 2), atol=2e-6
        )


@pytest.mark.parametrize("name", SCALINGS)
def test_only_the_distance_between_two_positions_counts(name):
    config = SCALINGS[name]
    q, k = np.random.default_rng(0).normal(size=(2, 1, 6, 1, K)).astype(np.float32)
    scores = []
    for shift in (0, 17, 40):
        angles = rope(config, np.arange(6)[None] + shift, length=46)
        scores.append(np.einsum("BTHK,BSHK->TS", rotate(jnp.asarray(q), *angles), rotate(jnp.asarray(k), *angles)))
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, atol=2e-5)
    assert np.abs(scores[0] - np.einsum("BTHK,BSHK->TS", q, k)).max() > 0.1


def test_pairs_are_turned_as_complex_numbers():
    x = np.random.default_rng(0).normal(size=(1, 5, 2, 6)).astype(np.float32)
    turns = np.exp(1j * np.arange(5)[:, None, None] * 10_000.0 ** (-np.arange(0, 6, 2) / 6))
    for interleaved in (False, True):
        first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :3], x[..., 3:])
        expected = (first + 1j * second) * turns
        y = np.asarray(rotate(jnp.asarray(x), *rope(RopeConfig(interleaved=interleaved), np.arange(5)[None], 6)))
        first, second = (y[..., 0::2], y[..., 1::2]) if interleaved else (y[..., :3], y[..., 3:])
        np.testing.assert_allclose(first + 1j * second, expected, atol=1e-5)


def test_a_part_of_the_head_stays_as_it_is():
    x = np.random.default_rng(0).normal(size=(1, 5, 2, K)).astype(np.float32)
    y = rotate(jnp.asarray(x), *rope(SCALINGS["partial"], np.arange(5)[None]))
    np.testing.assert_array_equal(y[..., 10:], x[..., 10:])
    assert (np.abs(y - x)[:, 1:, :, :9].max((0, 2)) > 1e-4).all()


def test_ntk_leaves_the_fastest_pair_and_divides_the_slowest():
    ratio = inverse_frequencies(SCALINGS["ntk"], K, CONTEXT) / inverse_frequencies(RopeConfig(), K, CONTEXT)
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(1 / 4, rel=1e-6)
    assert (np.diff(ratio) < 0).all()
    changed = RopeConfig(theta=10_000.0 * 4 ** (K / (K - 2)))
    np.testing.assert_allclose(
        inverse_frequencies(SCALINGS["ntk"], K, CONTEXT), inverse_frequencies(changed, K, CONTEXT), rtol=1e-6
    )


def test_frequencies_that_depend_on_length_know_each_document():
    positions, ids = np.array([[*range(70), *range(60), 0]]), np.array([[1] * 70 + [2] * 60 + [0]])
    lengths = text_lengths(jnp.asarray(positions), jnp.asarray(ids))
    assert lengths[0].tolist() == [70] * 70 + [60] * 60 + [1]
    assert text_lengths(jnp.asarray(positions), None).tolist() == [[70]]
    config = SCALINGS["longrope"]
    packed = rope(config, positions, length=lengths)
    for start, n in ((0, 70), (70, 60)):
        alone = rope(config, np.arange(n)[None])  # the length is read off the positions
        np.testing.assert_array_equal(packed.cos[:, start : start + n], alone.cos)


def test_what_the_factor_is_when_it_is_not_given():
    assert stretch(SCALINGS["yarn, factor from the lengths"], CONTEXT) == 4
    assert stretch(SCALINGS["longrope"], CONTEXT) == 4
    assert stretch(RopeConfig(scaling="yarn"), CONTEXT) == 1
    assert stretch(RopeConfig(scaling="linear", original_context=64), CONTEXT) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0.0}, r"rope.fraction must be in \(0, 1\], got 0.0"),
        ({"factor": 0.5}, "rope.factor must be at least 1, got 0.5"),
        ({"theta": 1.0}, "rope.theta, the base of the frequencies, must be above 1, got 1.0"),
        ({"scaling": "longrope"}, "rope.scaling=longrope needs rope.short_factor and rope.long_factor"),
        ({"original_context": -1}, "rope.original_context and .attention_factor are positive or 0, got -1 and 0.0"),
        ({"low_freq_factor": 4.0}, "rope.low_freq_factor=4.0 must be below high_freq_factor=4.0"),
        ({"beta_slow": 40.0}, "rope.beta_slow=40.0 must be below beta_fast=32.0"),
    ],
)
def test_values_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        RopeConfig(**fields)


def test_longrope_needs_a_divisor_for_each_pair():
    config = replace(SCALINGS["longrope"], long_factor=(1.0,) * 9)
    with pytest.raises(ValueError, match="rope.long_factor has 9 divisors, but heads turn 10 pairs of units"):
        inverse_frequencies(config, K, CONTEXT, 5)
