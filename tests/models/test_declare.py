import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, NormConfig, decoder_spec, forward
from jaxllm.models.declare import Param, abstract, count, decay_mask, initialize, zeros

CONFIG = ModelConfig(
    vocab_size=96,
    context_length=32,
    d_model=48,
    num_layers=4,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=64, gated=True),
)
EVERYTHING = replace(
    CONFIG,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, qkv_bias=True, out_bias=True, qk_norm="shared"),
    mlp=MLPConfig(d_ff=64, gated=True, bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    positions="learned",
    tie_embeddings=False,
)


def leaves(tree) -> dict:
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in named}


def draw(config, seed=0):
    return initialize(decoder_spec(config), jax.random.key(seed))


@pytest.fixture(scope="module")
def drawn():
    return draw(EVERYTHING)


def test_the_names_of_the_parameters():
    """Checkpoints hold them, so a new name is a new format."""
    block = {
        *(f"{norm}.{part}" for norm in ("mixer_norm", "channel_norm") for part in ("scale", "bias")),
        *(f"mixer.{head}{part}" for head in ("query", "key", "value", "out") for part in ("", "_bias")),
        *(f"mixer.{head}_norm.scale" for head in ("query", "key")),
        *(f"channel.{matrix}{part}" for matrix in ("up", "gate", "down") for part in ("", "_bias")),
    }
    around = {"embedding", "position", "norm.scale", "norm.bias", "head"}
    assert set(leaves(decoder_spec(EVERYTHING))) == around | {f"segments.0.0.{name}" for name in block}


def test_layers_are_stacked_by_segment_and_block():
    config = replace(CONFIG, num_layers=8, prologue=(Block(),) * 3, pattern=(Block(), Block(channel="none")))
    queries = {name: p for name, p in leaves(decoder_spec(config)).items() if name.endswith("query")}
    assert {name: p.shape[0] for name, p in queries.items()} == {
        "segments.0.0.mixer.query": 3,
        "segments.1.0.mixer.query": 2,
        "segments.1.1.mixer.query": 2,
        "segments.2.0.mixer.query": 1,
    }
    assert {p.axes for p in queries.values()} == {("layers", "embed", "heads", "head_dim")}


def test_count_and_abstract_agree_with_what_is_drawn(drawn):
    spec = decoder_spec(EVERYTHING)
    assert count(spec) == sum(array.size for array in jax.tree.leaves(drawn))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), drawn)
    assert abstract(spec) == shapes
    assert {a.dtype for a in jax.tree.leaves(abstract(spec, jnp.bfloat16))} == {jnp.dtype(jnp.bfloat16)}


def test_a_parameters_start_depends_on_its_path_alone(drawn):
    """What else the model has changes nothing; its name and the seed do."""
    everything, plain = leaves(drawn), leaves(draw(CONFIG))
    assert len(plain) == 11
    for name, array in plain.items():
        np.testing.assert_array_equal(array, everything[name], err_msg=name)
    other = leaves(draw(CONFIG, 1))
    random = [name for name, array in plain.items() if np.std(array) > 0]
    assert len(random) == 8
    for name in random:
        assert not np.allclose(plain[name], other[name]), name
    alike = [(a, b) for a in random for b in random if a < b and plain[a].shape == plain[b].shape]
    assert ("segments.0.0.mixer.key", "segments.0.0.mixer.value") in alike
    for a, b in alike:
        assert abs(np.corrcoef(np.ravel(plain[a]), np.ravel(plain[b]))[0, 1]) < 0.1, (a, b)


def test_layers_start_differently(drawn):
    up_LDF = np.asarray(drawn.segments[0][0].channel.up)
    correlation = np.corrcoef(up_LDF.reshape(4, -1)) - np.eye(4)
    assert np.abs(correlation).max() < 0.1


# Deviations of matrices that read the residual stream of width 48, and of those that write to it from the heads
# (48 units) or the MLP (64).
@pytest.mark.parametrize(
    ("init_std", "inward", "from_heads", "from_mlp"),
    [
        (0.02, 0.02, 0.02 / math.sqrt(8), 0.02 / math.sqrt(8)),
        (0.0, 48**-0.5, (48 * 8) ** -0.5, (64 * 8) ** -0.5),
    ],
    ids=["named", "by fan-in"],
)
def test_matrices_start_with_the_declared_deviation(init_std, inward, from_heads, from_mlp):
    params = draw(replace(EVERYTHING, init_std=init_std))
    mixer, channel = params.segments[0][0].mixer, params.segments[0][0].channel
    tables = (params.embedding, params.position, params.head)
    for deviation, matrices in (
        (inward, (mixer.query, mixer.key, mixer.value, channel.up, channel.gate, *tables)),
        (from_heads, (mixer.out,)),
        (from_mlp, (channel.down,)),
    ):
        for matrix in matrices:
            # Of the smallest matrix, 32 x 48, the deviation is known to 1 / sqrt(2 * 1536) = 1.8 %.
            assert float(matrix.std()) == pytest.approx(deviation, rel=0.08)
            assert abs(float(matrix.mean())) < 0.15 * deviation


def test_vectors_start_at_zero_or_one(drawn):
    for name, array in leaves(drawn).items():
        if name.endswith("bias"):
            assert (array == 0).all(), name
        elif name.endswith("scale"):
            assert (array == 1).all(), name


def test_branches_that_start_at_zero_leave_the_stream_alone():
    deep = replace(CONFIG, residual_init="zero", positions="none")
    params = draw(deep)
    tokens = jnp.arange(6)[None]
    x = params.embedding[tokens]
    x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + deep.norm.epsilon)
    np.testing.assert_allclose(forward(params, deep, tokens), x @ params.embedding.T, rtol=1e-4, atol=1e-5)


def test_matrices_of_the_stream_decay_and_vectors_do_not():
    mask = leaves(decay_mask(decoder_spec(EVERYTHING)))
    decaying = {name.removeprefix("segments.0.0.") for name, decays in mask.items() if decays}
    assert decaying == {
        *("embedding", "position", "head"),
        *(f"mixer.{name}" for name in ("query", "key", "value", "out")),
        *(f"channel.{name}" for name in ("up", "gate", "down")),
    }


def test_a_declaration_names_each_of_its_axes():
    with pytest.raises(ValueError, match=r"a parameter of shape \(2, 3\) needs 2 axis names, got \('embed',\)"):
        Param((2, 3), ("embed",), zeros)
