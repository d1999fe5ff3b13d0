import pytest

from jaxllm.models import PRESETS, decoder_spec
from jaxllm.models.config import Block, ModelConfig, MoEConfig
from jaxllm.models.declare import count
from jaxllm.plan.parameters import components, totals


@pytest.mark.parametrize("name", ["gpt2", "deepseek-v3", "jamba-v0.1", "qwen3-next-80b-a3b", "rwkv-4-169m"])
def test_components_add_up(name):
    model = PRESETS[name]()
    parts = components(model)
    assert sum(part.total for part in parts) == count(decoder_spec(model))
    assert len({part.name for part in parts}) == len(parts)
    assert all(0 < part.active <= part.total for part in parts)


def test_deepseek_v3():
    parts = {part.name: (part.total, part.active) for part in components(PRESETS["deepseek-v3"]())}
    assert parts["embedding"] == parts["head"] == (926_679_040,) * 2
    assert parts["latent_attention"] == (61 * 187_107_328,) * 2
    assert parts["routed experts"] == (58 * 256 * 44_040_192, 58 * 8 * 44_040_192)
    assert parts["shared experts"] == (58 * 44_040_192,) * 2
    assert parts["mlp"] == (3 * 396_361_728,) * 2
    assert parts["router"] == (58 * (7168 * 256 + 256),) * 2


def test_gpt2_has_positions_and_no_head_of_its_own():
    parts = {part.name: part.total for part in components(PRESETS["gpt2"]())}
    assert parts["positions and types"] == 1024 * 768 and "head" not in parts
    assert parts["norms"] == 25 * 2 * 768
    assert parts["attention"] + parts["mlp"] == 85_054_464 - 24 * 2 * 768


def test_experts_that_choose_take_capacity_times_their_share():
    experts = MoEConfig(num_experts=8, top_k=2, d_ff=16, router="expert_choice", capacity_factor=1.5)
    model = ModelConfig(vocab_size=64, d_model=24, num_layers=1, pattern=(Block(channel=experts),))
    (routed,) = (part for part in components(model) if part.name == "routed experts")
    assert routed.active / routed.total == 3 / 8
    total, active = totals(model)
    assert total - active == routed.total - routed.active
