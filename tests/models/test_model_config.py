from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.config import from_json, to_json
from jaxllm.models import AttentionConfig, Block, ModelConfig, NormConfig, decoder_spec
from jaxllm.models.config import ChannelMixer, MambaConfig, SequenceMixer

BLOCKS = st.sampled_from([Block(), Block(channel="none")])


@given(st.lists(BLOCKS, max_size=4).map(tuple), st.lists(BLOCKS, min_size=1, max_size=4).map(tuple), st.integers(1, 30))
def test_segments_are_the_blocks_in_order(prologue, pattern, layers):
    if len(prologue) > layers:
        with pytest.raises(ValueError, match="prologue"):
            ModelConfig(num_layers=layers, prologue=prologue, pattern=pattern)
        return
    config = ModelConfig(num_layers=layers, prologue=prologue, pattern=pattern)
    unrolled = [block for segment in config.segments() for _ in range(segment.repeats) for block in segment.blocks]
    assert tuple(unrolled) == config.blocks()
    assert len(config.blocks()) == layers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 0}, "model.num_layers must be at least 1, got 0"),
        ({"d_model": 0}, "model.d_model must be at least 1, got 0"),
        ({"context_length": -1}, "model.context_length must be at least 1, got -1"),
        (
            {"num_layers": 1, "prologue": (Block(), Block())},
            "model.prologue has 2 blocks, more than",
        ),
        ({"dropout": -0.1}, r"model.dropout must be in \[0, 1\), got -0.1"),
        ({"d_model": 100, "attention": AttentionConfig(num_heads=12)}, "not a multiple of num_heads=12"),
        ({"attention": AttentionConfig(num_heads=4, head_dim=7)}, "head_dim must be even, got 7"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"pattern": ()}, "at least one block"),
        ({"vocab_size": -1}, "vocab_size must be positive"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**fields)


@pytest.mark.parametrize(("heads", "groups"), [(0, 1), (12, 5), (4, -1)])
def test_heads_fall_into_whole_groups(heads, groups):
    with pytest.raises(ValueError, match=f"num_heads={heads} must be a positive multiple of num_kv_heads={groups}"):
        AttentionConfig(num_heads=heads, num_kv_heads=groups)


def test_a_config_of_every_mixer_survives_json():
    mixers = get_args(SequenceMixer)
    blocks = tuple(Block(mixer=mixer(), channel=channel()) for mixer in mixers for channel in get_args(ChannelMixer))
    config = ModelConfig(pattern=(*blocks, Block("none", "none")), num_layers=len(blocks) + 1)
    assert from_json(to_json(config), ModelConfig) == config


def test_an_unknown_mixer_is_named():
    text = to_json(ModelConfig(pattern=(Block(mixer=MambaConfig()),))).replace('"mamba"', '"mambo"')
    with pytest.raises(ValueError, match=r'pattern\.0\.mixer: expected one of .*, got "mambo"; did you mean mamba\?'):
        from_json(text, ModelConfig)


def test_an_rmsnorm_has_no_bias():
    with pytest.raises(ValueError, match="RMSNorm has no bias"):
        NormConfig(kind="rmsnorm", bias=True)


def test_an_unknown_vocabulary_must_be_settled_first():
    with pytest.raises(ValueError, match="vocab_size is 0"):
        decoder_spec(ModelConfig())
