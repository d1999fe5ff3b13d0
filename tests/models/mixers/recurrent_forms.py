"""What every layer with a state must do, whatever it computes: its forms agree, and nothing leaks."""

from dataclasses import replace
from functools import cache, partial
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models import AttentionConfig, ModelConfig
from jaxllm.models.declare import abstract, ones
from jaxllm.models.layer import Context
from jaxllm.models.layers import layer_of
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, current_layout, param_shardings, use_layout

MODEL = ModelConfig(
    vocab_size=5, d_model=12, num_layers=2, attention=AttentionConfig(num_heads=2), positions="none", init_std=0
)
B, T, D = 2, 19, MODEL.d_model


@cache
def parameters(config, model=MODEL):
    """Drawn without a program to compile, and noise on every leaf: biases of 0 and scales of 1 could go forgotten."""
    random = np.random.default_rng(0)

    def draw(param):
        start = 1.0 if param.init is ones else 0.0
        return jnp.asarray(start + 0.3 * random.normal(size=param.shape), jnp.float32)

    return jax.tree.map(draw, layer_of(config).spec(model, config))


def initial(config, *names, model=MODEL):
    """How these parameters of a layer start."""
    spec = layer_of(config).spec(model, config)
    leaves = [attrgetter(name)(spec) for name in names]
    return [np.asarray(leaf.init(jax.random.key(0), leaf.shape, jnp.float32)) for leaf in leaves]


@partial(jax.jit, static_argnums=(0, 1))
def run(config, model, params, x_BTD, positions_BT, segment_ids_BT=None, valid_BT=None, cache=None):
    context = Context(positions_BT, segment_ids_BT, valid_BT)
    out_BTD, cache, statistics = layer_of(config).apply(params, model, config, x_BTD, context, cache)
    assert not statistics
    return out_BTD, cache


def stream(rows=B, length=T):
    return jnp.asarray(np.random.default_rng(2).normal(size=(rows, length, D)), jnp.float32)


def positions(start_B, length):
    return jnp.asarray(np.asarray(start_B)[:, None] + np.arange(length), jnp.int32)


def whole(config, x_BTD):
    return run(config, MODEL, parameters(config), x_BTD, positions([0], x_BTD.shape[1]))[0]


def check_pieces_equal_the_whole(config):
    """A prompt in two pieces, one row of each padded on the right, then token by token; rows stand at different
    positions, and what the rows of the cache held before does not matter."""
    params, x_BTD = parameters(config), stream()
    expected = np.asarray(whole(config, x_BTD))
    state = jax.tree.map(lambda leaf: np.asarray(leaf) + 3, layer_of(config).empty_cache(MODEL, config, B, T))
    done, pieces = np.zeros(B, int), [np.array(n) for n in ([5, 2], [0, 5], [5, 1])] + [np.ones(B, int)] * 9
    outputs = [[] for _ in range(B)]
    for count_B in pieces:
        width = max(count_B)
        piece = np.stack([np.asarray(x_BTD)[b].take(range(done[b], done[b] + width), 0, mode="clip") for b in range(B)])
        valid = None if width == 1 else jnp.asarray(np.arange(width) < count_B[:, None])
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        out, state = run(config, MODEL, params, jnp.asarray(piece), positions(done, width), None, valid, state)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
        for b in range(B):
            outputs[b].append(np.asarray(out)[b, : count_B[b]])
        done = done + count_B
    for b in range(B):
        row = np.concatenate(outputs[b])
        np.testing.assert_allclose(row, expected[b, : len(row)], rtol=1e-4, atol=1e-5)


def check_padding_leaves_no_trace(config):
    """Whatever stands in the padding, the cache after it is the same to the bit; and it is that of the tokens before
    it alone (pieces that equal the whole say so)."""
    params, x_BTD = parameters(config), stream(length=5)
    before = layer_of(config).empty_cache(MODEL, config, B, T)
    states = []
    for padding in (x_BTD[:, 3:], jnp.full((B, 2, D), 7.0)):
        piece = jnp.concatenate([x_BTD[:, :3], padding], 1)
        valid = jnp.asarray(np.tile(np.arange(5) < 3, (B, 1)))
        states.append(run(config, MODEL, params, piece, positions([0, 0], 5), None, valid, before)[1])
    jax.tree.map(np.testing.assert_array_equal, *states)


def check_packed_equals_separate(config):
    lengths, x_BTD = (7, 1, 8), stream()
    ids = jnp.asarray([1] * 7 + [2] + [3] * 8 + [0] * 3)[None].repeat(B, 0)
    restarting = jnp.concatenate([jnp.arange(n) for n in (*lengths, 3)])[None].repeat(B, 0)
    packed, _ = run(config, MODEL, parameters(config), x_BTD, restarting, ids, ids > 0)
    start = 0
    for length in lengths:
        alone = whole(config, jnp.pad(x_BTD[:, start : start + length], ((0, 0), (0, T - length), (0, 0))))
        np.testing.assert_allclose(packed[:, start : start + length], alone[:, :length], rtol=1e-4, atol=1e-5)
        start += length
    assert np.isfinite(packed).all()


def check_causality(config):
    """By gradients: which inputs each output depends on, of two packed documents."""
    x_TD, split = stream()[0, :11], 4
    ids = (jnp.arange(11) >= split)[None] + 1

    def outputs(x_TD):
        context = Context(positions([0], 11), ids, None)
        out, _, _ = layer_of(config).apply(parameters(config), MODEL, config, x_TD[None], context, None)
        return jnp.sin(out[0]).sum(-1)

    reach_TS = np.abs(jax.jit(jax.jacrev(outputs))(x_TD)).sum(-1)
    index = np.arange(11)
    seen = (index[:, None] >= index) & ((index[:, None] >= split) == (index >= split))
    assert (reach_TS[~seen] == 0).all()
    return reach_TS, seen


def check_equal_with_gradients(fast, slow, arguments, rtol=2e-4, atol=2e-5):
    """Values of two functions and their gradients with respect to every float that goes in, none of them nothing."""
    leaves, tree = jax.tree.flatten(arguments)
    moving = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def graded(function):
        def loss(moving):
            moved = iter(moving)
            merged = [next(moved) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf for leaf in leaves]
            out = function(*jax.tree.unflatten(tree, merged))
            random = np.random.default_rng(0)
            return sum((jnp.sin(x) * random.normal(size=x.shape)).sum() for x in jax.tree.leaves(out)), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(moving)
        return out, grads

    expected, actual = graded(slow), graded(fast)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(expected))
    assert all((x != 0).any() for x in expected[1])


def cache_bytes(config, model, batch=1):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(layer_of(config).empty_cache(model, config, batch, 10**9)))


def randomize(module, seed=0):
    """Noise on every parameter of a PyTorch module, biases and scales too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def normals(seed=0):
    """Draws arrays from a normal distribution by their shape."""
    random = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)


def check_types_and_layout(config):
    """In bfloat16 and laid out over devices: the branch is in the activations' type, caches stay what they are."""
    model = replace(MODEL, compute_dtype="bfloat16")
    layer = layer_of(config)

    def apply(p, x_BTD, where, cache):
        return layer.apply(p, model, config, x_BTD, Context(where, None, where > 3), cache)[:2]

    with use_layout(Layout(make_mesh(MeshConfig(fsdp=2, tensor=2, data=2)))):
        assert param_shardings(layer.spec(model, config), current_layout())
        for length in (1, 5):
            x_BTD = jax.ShapeDtypeStruct((4, length, D), jnp.bfloat16)
            where = jax.ShapeDtypeStruct((4, length), jnp.int32)
            empty = jax.eval_shape(lambda: layer.empty_cache(model, config, 4, T))
            out, cache = jax.eval_shape(apply, abstract(layer.spec(model, config)), x_BTD, where, empty)
            assert out.dtype == jnp.bfloat16 and out.shape == x_BTD.shape
            types = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]  # noqa: E731
            assert types(cache) == types(empty)
