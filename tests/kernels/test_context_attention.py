"""Attention over rows that lie on several devices equals attention over whole rows, results and gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxllm.kernels.blockwise_attention import reference_blockwise_attention
from jaxllm.kernels.context_attention import context_attention
from jaxllm.kernels.platform import interpreting
from jaxllm.kernels.visibility import Places, Reach
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import make_layout
from jaxllm.parallel.text_order import zigzag

B, T, H, K, V = 2, 16, 8, 4, 6
QUICK = {"xla_backend_optimization_level": 0}  # machine code that runs once need not be good
PLACES = Places(
    np.array([[*range(9), *range(5), 0, 1], [*range(3), *range(13)]], np.int32),
    np.array([[1] * 9 + [2] * 5 + [0] * 2, [1] * 3 + [2] * 13], np.int32),
)
LAYOUT = make_layout(MeshConfig(data=1, tensor=2, context=4))


@pytest.mark.parametrize(
    ("form", "groups", "reach", "options"),
    [
        ("ring", 4, Reach(), {"sinks": True, "softcap": 3.0}),
        ("all_gather", 2, Reach(window=5), {"sinks": True}),
        ("ulysses", 2, Reach(chunk=4), {"sinks": True, "softcap": 3.0}),
        ("ring", 8, Reach(causal=False), {}),
    ],
)
def test_each_form_equals_attention_on_one_device(form, groups, reach, options):
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    q, k, v = 3 * draw(B, T, H, K), draw(B, T, groups, K), draw(B, T, groups, V)
    cotangent, sinks = draw(B, T, H, V), draw(H)
    sinks = sinks if options.get("sinks") else None
    order = zigzag(T, 4)
    layout = replace(LAYOUT, forms=replace(LAYOUT.forms, context_form=form))
    placed = jax.tree.map(lambda x: jnp.asarray(x[:, order]), PLACES)

    def many(q, k, v, sinks):
        q, k, v = (x[:, order] for x in (q, k, v))
        out = context_attention(layout, q, k, v, placed, reach, **{**options, "sinks": sinks})
        return out[:, np.argsort(order)]

    def one(q, k, v, sinks):
        return reference_blockwise_attention(q, k, v, PLACES, PLACES, reach, **{**options, "sinks": sinks})

    def both(*arrays):
        results = []
        for form in (many, one):
            out, pull = jax.vjp(form, *arrays)
            results.append((out, pull(cotangent)))
        return results

    ours, theirs = jax.jit(both, compiler_options=QUICK)(q, k, v, sinks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_flash_computes_where_ulysses_gives_it_whole_rows():
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(B, T, heads, K)), jnp.float32) for heads in (H, 2, 2))
    layout = replace(LAYOUT, forms=replace(LAYOUT.forms, context_form="ulysses"))
    places = jax.tree.map(jnp.asarray, PLACES)

    def many(q, k, v):
        return context_attention(layout, q, k, v, places, Reach(window=5), softcap=3.0, kernel="flash")

    def one(q, k, v):
        return reference_blockwise_attention(q, k, v, PLACES, PLACES, Reach(window=5), softcap=3.0)

    def both(*arrays):
        total = lambda form: lambda *arrays: (form(*arrays) ** 2).sum()  # noqa: E731
        return [jax.value_and_grad(total(form), (0, 1, 2))(*arrays) for form in (many, one)]

    with interpreting():
        ours, theirs = jax.jit(both, compiler_options=QUICK)(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_heads_that_ulysses_cannot_divide_are_refused():
    layout = make_layout(MeshConfig(data=2, context=4, context_form="ulysses"))
    x = jnp.zeros((2, T, 6, 4))
    with pytest.raises(ValueError, match="mesh.context=4 with mesh.context_form=ulysses does not divide the 6 query"):
        context_attention(layout, x, x, x, PLACES, Reach())


def test_it_runs_inside_another_shard_map():
    """As in a pipeline, whose stages run under a `shard_map` over its axis: the layout is then that of the others."""
    layout = make_layout(MeshConfig(data=1, expert=2, context=4))
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(2, T, 2, K)), jnp.float32) for _ in range(3))

    def stage(q, k, v):
        rules = replace(layout.rules, batch=("data", "fsdp"))
        here = replace(layout, mesh=jax.sharding.get_abstract_mesh(), rules=rules)
        return context_attention(here, q, k, v, Places(jnp.arange(T)[None], None), Reach())

    split = PartitionSpec("expert")
    staged = jax.shard_map(
        stage, mesh=layout.mesh, in_specs=split, out_specs=split, axis_names={"expert"}, check_vma=False
    )
    whole = Places(jnp.arange(T)[None], None)
    expected = reference_blockwise_attention(q, k, v, whole, whole)
    np.testing.assert_allclose(jax.jit(staged, compiler_options=QUICK)(q, k, v), expected, rtol=2e-5, atol=2e-5)
