from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.channels.mlp import mlp
from jaxllm.models.channels.moe import moe, moe_cache, moe_spec
from jaxllm.models.channels.routing import Routing, fill_slots, slots_per_expert
from jaxllm.models.config import AttentionConfig, Block, MLPConfig, ModelConfig, MoEConfig
from jaxllm.models.declare import abstract, count, initialize
from jaxllm.models.decoder import decoder_spec, forward, hidden_states, make_cache, unembed
from jaxllm.models.layer import Context
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, param_shardings, use_layout

B, T, D = 2, 12, 10
MODEL = ModelConfig(
    vocab_size=32, d_model=D, num_layers=2, init_std=0.5, attention=AttentionConfig(num_heads=1, head_dim=2)
)
MIXTRAL = MoEConfig(num_experts=6, top_k=2, d_ff=7, normalize=True)
CONFIGS = {
    "mixtral": MIXTRAL,
    "plain experts": replace(MIXTRAL, normalize=False, gated=False, activation="relu2"),
    "gpt-oss": replace(
        MIXTRAL, router="softmax_of_top_k", router_bias=True, bias=True, activation="clamped_swiglu", normalize=False
    ),
    "qwen": replace(MIXTRAL, normalize=False, shared_d_ff=9, shared_gate=True),
    "deepseek": replace(
        MIXTRAL, router="sigmoid", num_groups=3, top_k_groups=2, scale=2.5, balance_rate=0.0, shared_d_ff=9
    ),
}


@partial(jax.jit, static_argnums=0)
def drawn(config):
    """Parameters without zeros, so that every bias counts."""
    params = initialize(moe_spec(MODEL, config), jax.random.key(0))
    return jax.tree.map(lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size)).reshape(a.shape), params)


def inputs(seed=1, rows=B):
    x = jax.random.normal(jax.random.key(seed), (rows, T, D))
    valid = jnp.ones((rows, T), bool).at[0, 9:].set(False)
    return x, valid


def context_of(valid):
    rows, length = valid.shape
    return Context(jnp.broadcast_to(jnp.arange(length), (rows, length)), None, valid)


@partial(jax.jit, static_argnums=0)
def run(config, params, x, valid, cache=None):
    return moe(params, MODEL, config, x, context_of(valid), cache)


def with_gradients(config, params, x, valid):
    def loss(params, x):
        out, _, statistics = moe(params, MODEL, config, x, context_of(valid), None)
        wave = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
        return (out * wave).sum() + statistics["router_loss"], (out, statistics)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)


@pytest.mark.parametrize("name", CONFIGS)
def test_dropless_and_roomy_slots_equal_the_dense_loop(name):
    config = replace(CONFIGS[name], load_loss=0.1, z_loss=0.01, capacity_factor=3.0)
    params, (x, valid) = drawn(config), inputs()
    dense = with_gradients(replace(config, dispatch="dense"), params, x, valid)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    for dispatch in ("dropless", "capacity"):
        jax.tree.map(close, with_gradients(replace(config, dispatch=dispatch), params, x, valid), dense)
    gradients = dense[1][0]
    if gradients.selection_bias is not None:
        assert not gradients.selection_bias.any()
        gradients = gradients.replace(selection_bias=None)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_a_token_gets_the_weighted_sum_of_its_experts():
    """The layer written out for each token, with numpy."""
    params, (x, valid) = drawn(MIXTRAL), inputs()
    out = run(MIXTRAL, params, x, valid)[0]
    p, alone = jax.device_get(params), MLPConfig(d_ff=7, activation="silu", gated=True)
    for b, t in [(0, 0), (0, 8), (1, 11)]:
        logits = np.asarray(x[b, t], np.float64) @ p.router
        best = np.argsort(-logits)[:2]
        weights = np.exp(logits[best]) / np.exp(logits[best]).sum()
        expected = 0
        for e, weight in zip(best, weights, strict=True):
            expert = jax.tree.map(lambda a, e=e: a[e], params.experts)
            expected += weight * mlp(expert, MODEL, alone, x[b : b + 1, t : t + 1], None, None)[0][0, 0]
        np.testing.assert_allclose(out[b, t], expected, rtol=1e-4, atol=1e-5)
    assert not out[0, 9:].any(), "padding goes to no expert"


def test_one_expert_is_an_mlp():
    config = replace(MIXTRAL, num_experts=1, top_k=1)
    params, (x, valid) = drawn(config), inputs()
    alone = MLPConfig(d_ff=7, activation="silu", gated=True)
    expected = mlp(jax.tree.map(lambda a: a[0], params.experts), MODEL, alone, x, None, None)[0]
    np.testing.assert_allclose(run(config, params, x, valid | True)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dispatch", ["dropless", "capacity", "dense"])
def test_padding_takes_no_room_and_does_not_count(dispatch):
    losses = {"load_loss": 1.0, "z_loss": 1.0, "sequence_loss": 1.0}
    config = replace(CONFIGS["qwen"], dispatch=dispatch, capacity_factor=0.5, **losses)
    params, (x, valid) = drawn(config), inputs(rows=1)
    other = jnp.where(valid[..., None], x, 100 * jnp.cos(x))
    one, other = (run(config, params, a, valid) for a in (x, other))
    np.testing.assert_array_equal(one[0][valid], other[0][valid])
    jax.tree.map(np.testing.assert_array_equal, one[2], other[2])
    if dispatch != "capacity":
        short = run(config, params, x[:, :9], valid[:, :9])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one[2], short[2])
    nothing = run(config, params, x, valid & False)[2]
    assert float(nothing["router_loss"]) == 0 and float(nothing["dropped"]) == 0 and not nothing["load"].any()


def test_slots_are_filled_in_the_order_of_the_text():
    config = replace(MIXTRAL, num_experts=3, capacity_factor=0.75, dispatch="capacity")
    assert slots_per_expert(config, 4) == 2
    experts = jnp.array([[[0, 1], [0, 2], [0, 1], [3, 3]]])
    slots = fill_slots(config, Routing(experts, jnp.array([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0, 0]]])))
    assert slots.token_BEC.tolist() == [[[0, 1], [0, 2], [1, 4]]]
    np.testing.assert_allclose(slots.weight_BEC, [[[0.9, 0.8], [0.1, 0.3], [0.2, 0.0]]])


def test_what_finds_no_slot_is_dropped_and_counted():
    config = replace(MIXTRAL, dispatch="capacity", capacity_factor=0.5)
    params, (x, valid) = drawn(config), inputs()
    # All tokens want experts 0 and 1, which have two slots in a row.
    params = params.replace(router=jnp.zeros((D, 6)).at[:, 0].set(2.0).at[:, 1].set(1.0))
    x, valid = jnp.abs(x), valid | True
    out, _, statistics = run(config, params, x, valid)
    assert out[:, :2].all() and not out[:, 2:].any()
    assert float(statistics["dropped"]) == pytest.approx(1 - 2 / T)
    np.testing.assert_allclose(statistics["load"], [0.5, 0.5, 0, 0, 0, 0])
    kept = run(config, params, x, valid, moe_cache(MODEL, config, B, T))
    assert float(kept[2]["dropped"]) == 0 and kept[0].all(), "decoding drops nothing"


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_no_token_sees_another_one_later(dispatch):
    config = replace(MIXTRAL, dispatch=dispatch, capacity_factor=0.5)
    params, (x, valid) = drawn(config), inputs()
    out = run(config, params, x, valid)[0]
    changed = run(config, params, x.at[0, 6:].multiply(-3.0), valid)[0]
    np.testing.assert_allclose(changed[0, :6], out[0, :6], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(changed[1], out[1], rtol=1e-6, atol=1e-7)


def test_groups_limit_the_choice_and_the_bias_moves_it_but_not_the_weights():
    config = replace(CONFIGS["deepseek"], top_k_groups=1, shared_d_ff=0)
    params, (x, valid) = drawn(config), inputs()
    zero = params.replace(selection_bias=jnp.zeros(6))
    pushed = params.replace(selection_bias=jnp.array([0, 0, 0, 0, 5.0, 5.0]))
    load = run(config, zero, x, valid)[2]["load"]
    np.testing.assert_allclose(load[::2], load[1::2], err_msg="a token takes both experts of one group")
    out, _, statistics = run(config, pushed, x, valid)
    np.testing.assert_allclose(statistics["load"], [0, 0, 0, 0, 0.5, 0.5])
    scores = jax.nn.sigmoid(x[1, 3] @ params.router)[4:]
    alone = MLPConfig(d_ff=7, activation="silu", gated=True)
    experts = [jax.tree.map(lambda a, e=e: a[e], params.experts) for e in (4, 5)]
    parts = [mlp(p, MODEL, alone, x[1:, 3:4], None, None)[0][0, 0] for p in experts]
    expected = 2.5 * (scores[0] * parts[0] + scores[1] * parts[1]) / scores.sum()
    np.testing.assert_allclose(out[1, 3], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_losses_in_closed_form():
    config = replace(MIXTRAL, num_experts=4, top_k=2)
    params, (x, valid) = drawn(config), inputs()
    valid = valid | True
    balanced = params.replace(router=jnp.zeros((D, 4)))
    losses = lambda params, **s: float(run(replace(config, **s), params, x, valid)[2]["router_loss"])  # noqa: E731
    assert losses(balanced, z_loss=0.5) == pytest.approx(0.5 * np.log(4) ** 2)
    # Ties go to the first experts, but the mean scores are even.
    assert losses(balanced, load_loss=0.5) == pytest.approx(0.5)
    assert losses(balanced, sequence_loss=0.5) == pytest.approx(0.5)
    probabilities = jax.nn.softmax(x @ params.router)
    chosen = jax.nn.one_hot(jax.lax.top_k(probabilities, 2)[1], 4).sum(2)
    whole = 4 * (chosen.mean((0, 1)) / 2 * probabilities.mean((0, 1))).sum()
    assert losses(params, load_loss=2.0) == pytest.approx(2 * float(whole), rel=1e-5)
    rows = 4 * (chosen.mean(1) / 2 * probabilities.mean(1)).sum(-1).mean()
    assert losses(params, sequence_loss=2.0) == pytest.approx(2 * float(rows), rel=1e-5)
    sigmoid = replace(config, router="sigmoid", sequence_loss=1.0)
    scores = jax.nn.sigmoid(x @ params.router)
    rows = 4 * (chosen.mean(1) / 2 * (scores / scores.sum(-1, keepdims=True)).mean(1)).sum(-1).mean()
    assert float(run(sigmoid, params, x, valid)[2]["router_loss"]) == pytest.approx(float(rows), rel=1e-5)


def test_experts_that_choose_have_even_load():
    config = replace(MIXTRAL, router="expert_choice", normalize=False, capacity_factor=0.5, z_loss=0.01)
    params, (x, valid) = drawn(config), inputs()
    out, _, statistics = run(config, params, x, valid)
    np.testing.assert_allclose(statistics["load"], 1 / 6)
    assert 0 < float(statistics["dropped"]) < 1 and not out[0, 9:].any()
    probabilities = np.array(jax.nn.softmax(x @ params.router))
    probabilities[0, 9:] = -1
    alone, expected = MLPConfig(d_ff=7, activation="silu", gated=True), np.zeros((B, T, D))
    for e in range(6):
        every = mlp(jax.tree.map(lambda a, e=e: a[e], params.experts), MODEL, alone, x, None, None)[0]
        for b in range(B):
            for t in np.argsort(-probabilities[b, :, e])[:2]:
                expected[b, t] += probabilities[b, t, e] * every[b, t]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="looks ahead in the text and cannot generate"):
        moe_cache(MODEL, config, B, T)


@pytest.mark.parametrize(
    ("mesh", "rows"),
    [(MeshConfig(data=8), 8), (MeshConfig(data=2, fsdp=2, tensor=2), 8), (MeshConfig(data=4, tensor=2), 2)],
    ids=["data", "all three", "rows that are not divided"],
)
@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_on_a_mesh_it_is_the_same(mesh, rows, dispatch):
    sizes = {"d_ff": 8, "capacity_factor": 0.8}
    config = replace(CONFIGS["gpt-oss"], **sizes, dispatch=dispatch, load_loss=0.1, balance_rate=0.0)
    params, (x, valid) = drawn(config), inputs(rows=rows)
    layout = Layout(make_mesh(mesh))
    expected = with_gradients(config, params, x, valid)
    placed = jax.device_put(params, param_shardings(moe_spec(MODEL, config), layout))
    with use_layout(layout):
        if rows == 8:
            x = jax.device_put(x, layout.sharding("batch", "length", None))
        found = with_gradients(config, placed, x, valid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_bfloat16_activations():
    params, (x, valid) = drawn(MIXTRAL), inputs()
    x = x.astype(jnp.bfloat16)
    (_, (out, _)), (gradients, grad_x) = with_gradients(MIXTRAL, params, x, valid)
    assert out.dtype == grad_x.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(out, run(MIXTRAL, params, x.astype(jnp.float32), valid)[0], atol=0.03, rtol=0.03)


def test_the_parameters_of_a_layer_in_closed_form():
    config = replace(CONFIGS["gpt-oss"], balance_rate=0.0, shared_d_ff=9, shared_gate=True)
    spec = moe_spec(MODEL, config)
    E, F, S = 6, 7, 9
    expected = (D + 2) * E + E * (3 * D * F + 2 * F + D) + 3 * D * S + 2 * S + D + D
    assert count(spec) == expected
    # DeepSeek-V3, one mixture of experts: 256 x 44,040,192, one shared expert, the router and its bias.
    deepseek = MoEConfig(
        num_experts=256, top_k=8, d_ff=2048, router="sigmoid", num_groups=8, top_k_groups=4, balance_rate=0.0,
        shared_d_ff=2048,
    )  # fmt: skip
    assert count(moe_spec(replace(MODEL, d_model=7168), deepseek)) == 257 * 44_040_192 + 7168 * 256 + 256
    assert abstract(spec).experts.down.shape == (E, F, D)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 9}, r"moe.top_k=9 must be between 1 and moe.num_experts=8"),
        ({"num_groups": 3}, r"moe.num_groups=3 must divide moe.num_experts=8"),
        ({"num_groups": 4, "top_k_groups": 1, "top_k": 3}, r"moe.top_k=3 is more than 1 groups have experts"),
        ({"activation": "clamped_swiglu", "gated": False}, r"clamped_swiglu has a gate: set moe.gated=true"),
        ({"shared_gate": True}, r"moe.shared_gate=true needs a shared expert: set moe.shared_d_ff"),
        ({"capacity_factor": 0.0}, r"moe.capacity_factor must be positive, got 0.0"),
        ({"balance_rate": -0.5}, r"moe.balance_rate must be positive, 0 or -1, got -0.5"),
        ({"z_loss": -1.0}, r"moe.z_loss must not be negative, got -1.0"),
        ({"router": "expert_choice", "balance_rate": 0.1}, r"moe.balance_rate is for tokens that choose experts"),
        ({"router": "expert_choice", "normalize": True}, r"moe.normalize is for tokens that choose experts"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MoEConfig(**settings)


@pytest.mark.long
@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_a_decoder_with_experts_packed_or_cached_in_pieces(dispatch):
    """With room for all; a decoder that drops tokens while it trains drops none when it generates."""
    layer = replace(CONFIGS["deepseek"], dispatch=dispatch, capacity_factor=3.0)
    attention = AttentionConfig(num_heads=2, head_dim=4)
    config = replace(MODEL, attention=attention, prologue=(Block(),), pattern=(Block(channel=layer),), num_layers=3)
    params = initialize(decoder_spec(config), jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 32)
    whole = jax.jit(forward, static_argnums=1)(params, config, tokens)
    cache, pieces = make_cache(config, 2, 12), []
    step = jax.jit(hidden_states, static_argnums=1)
    for start, stop in [(0, 5), (5, 10), (10, 11), (11, 12)]:
        hidden = step(params, config, tokens[:, start:stop], cache=cache)
        assert jax.tree.map(jnp.shape, hidden.cache) == jax.tree.map(jnp.shape, cache)
        pieces, cache = [*pieces, unembed(params, config, hidden.x_BTD)], hidden.cache
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, rtol=1e-4, atol=1e-5)
    packed = {
        "positions": jnp.broadcast_to(jnp.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 0]), (2, 12)),
        "segment_ids": jnp.broadcast_to(jnp.array([1] * 7 + [2] * 4 + [0]), (2, 12)),
    }
    together = jax.jit(forward, static_argnums=1)(params, config, tokens, **packed)
    alone = jax.jit(forward, static_argnums=1)(params, config, tokens[:, 7:11])
    np.testing.assert_allclose(together[:, :7], whole[:, :7], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together[:, 7:11], alone, rtol=1e-4, atol=1e-5)
