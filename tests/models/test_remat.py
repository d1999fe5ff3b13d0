"""Rematerialization: every policy gives the same gradients, keeps what it says, and costs what it should."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.config import Block, Segment
from jaxllm.models.config.remat import RematConfig, parse_remat
from jaxllm.models.declare import initialize
from jaxllm.models.layer import Context
from jaxllm.models.remat import recomputable, rematerialized, scan_segment
from jaxllm.models.segments import run_segments
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, param_shardings, use_layout
from jaxllm.plan.activations import activations

MODEL = ModelConfig(
    vocab_size=8,
    context_length=32,
    d_model=32,
    num_layers=4,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=96, activation="silu", gated=True),
)
POLICIES = ("none", "full", "attention", "offload:block_in,attention", "dots*1 + every:2")
STREAM = 4 * 32 * 32 * 4  # bytes of 4 x 32 x 32 float32


def loss(params, x, *, model=MODEL, remat):
    B, T, _ = x.shape
    context = Context(jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T)), None, None)
    out = run_segments(params, model, model.segments(), x, context, None, remat=remat)[0]
    return jnp.square(out * jnp.arange(out.shape[-1])).mean()


@cache
def inputs():
    params = initialize(decoder_spec(MODEL), jax.random.key(0)).segments
    return params, jax.random.normal(jax.random.key(1), (4, 32, 32))


@cache
def compiled(remat):
    return jax.jit(jax.value_and_grad(partial(loss, remat=remat))).lower(*inputs()).compile()


@pytest.mark.parametrize("remat", POLICIES[1:])
def test_gradients_are_those_of_no_policy(remat):
    found_loss, found = compiled(remat)(*inputs())
    expected_loss, expected = compiled("none")(*inputs())
    assert float(found_loss) == pytest.approx(float(expected_loss), rel=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest > 0.1
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6 * largest), found, expected)


def kept(remat):
    return activations(MODEL, 4, 32, remat).kept


def test_what_is_kept():
    assert kept("full") == pytest.approx(4 * STREAM, rel=0.02)
    assert kept("every:2") == kept("sqrt") == pytest.approx(2 * STREAM, rel=0.02)
    # Queries are as wide as the stream, keys and values half as wide each.
    assert kept("names:qkv") - kept("full") == pytest.approx(4 * 2 * STREAM, rel=0.01)
    assert kept("names:mlp_in,attention") - kept("full") == pytest.approx(4 * (2 * 3 + 1) * STREAM, rel=0.01)
    assert kept("full") < kept("dots") < kept("attention") < kept("none")
    scores = 4 * 4 * 32 * 32 * 4
    assert kept("none") - kept("attention") > 4 * 0.9 * scores


def test_a_segment_in_parts_copies_its_weights():
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(inputs()[0]))
    parts = (kept("full") + kept("names:mlp_in")) / 2
    assert kept("full*2 + names:mlp_in") == pytest.approx(parts + weights, rel=0.02)


def test_offloaded_values_wait_in_host_memory():
    offloaded = activations(MODEL, 4, 32, "offload")
    assert offloaded.host == 4 * STREAM
    assert offloaded.kept < 0.1 * STREAM
    dots = activations(MODEL, 4, 32, "offload_dots")
    assert dots.host + dots.kept == pytest.approx(kept("dots"), rel=0.01)
    assert dots.kept == pytest.approx(kept("full"), rel=0.01)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_offloading_is_lowered_for_accelerators(platform):
    """On CPUs there is one memory, and the compiler is told of no other."""
    traced = jax.jit(jax.grad(partial(loss, remat="offload"))).trace(*inputs())
    to_host = '_xla_buffer_placement = "pinned_host"'
    assert traced.lower(lowering_platforms=(platform,)).as_text().count(to_host) == 1
    assert traced.lower(lowering_platforms=("cpu",)).as_text().count(to_host) == 0


def test_the_compiler_needs_less_memory():
    temporary = {remat: compiled(remat).memory_analysis().temp_size_in_bytes for remat in POLICIES}
    assert temporary["full"] < temporary["attention"] < temporary["none"]
    assert temporary["full"] < temporary["dots*1 + every:2"] < temporary["none"]
    for remat in ("none", "full", "attention"):
        planned = activations(MODEL, 4, 32, remat)
        assert 0.6 < temporary[remat] / (planned.kept + planned.working) < 1.7, remat


def test_recomputing_costs_a_third():
    """The forward pass once more, but for its last product, which no derivative asks for; of attention, the scores."""
    # The compiler counts a loop's body once, however often it runs.
    flops = {remat: compiled(remat).cost_analysis()["flops"] for remat in ("none", "full", "attention")}
    weights, down, scores = 32 * (32 * 3 + 96 * 3), 32 * 96, 32 * 32
    forward = weights + 2 * scores
    assert flops["full"] / flops["none"] == pytest.approx(1 + (forward - down) / forward / 3, rel=0.02)
    assert flops["attention"] / flops["none"] == pytest.approx(1 + scores / forward / 3, rel=0.02)
    assert flops["attention"] > 1.01 * flops["none"]


# Between devices


def all_reduces(remat):
    """In the compiled gradient over two devices that split heads and hidden units; a loop's body counts once."""
    layout = Layout(make_mesh(MeshConfig(data=1, tensor=2), jax.devices()[:2]))
    shardings = param_shardings(decoder_spec(MODEL), layout).segments

    def placed(params, x):
        with use_layout(layout):
            return loss(params, x, remat=remat)

    function = jax.jit(jax.grad(placed), in_shardings=(shardings, layout.sharding("batch", "length", None)))
    return len(re.findall(r" all-reduce(?:-start)?\(", function.lower(*inputs()).compile().as_text()))


def test_recomputing_talks_once_more():
    """The sums over devices that follow attention are made again with it, unless their result is kept. (Those that
    follow the MLP are not asked for again.)"""
    assert all_reduces("full") == all_reduces("names:mixer_out") + 1


# A kernel that computes its inside again by itself


@jax.custom_vjp
def flash(q, k):
    return _flash_forward(q, k)[0]


def _flash_forward(q, k):
    out = checkpoint_name(jnp.tanh(q @ k.T), "attention")  # what a fused kernel hands to its derivative
    return out, (q, k, out)


def _flash_backward(residuals, cotangent):
    q, k, out = residuals
    scores = (1 - out**2) * cotangent
    return scores @ k, scores.T @ q


flash.defvjp(_flash_forward, _flash_backward)


def forward_runs(function, *arguments):
    """How often the kernel's forward pass is in a gradient."""
    return str(jax.make_jaxpr(jax.grad(lambda *a: function(*a).sum()))(*arguments)).count("tanh")


def test_a_fused_kernel_under_remat():
    """Full recomputation runs it once more; a policy that names its result does not. Recomputing attention alone gains
    nothing where the kernel does that itself: it costs the same further run."""
    q, k = jnp.ones((4, 8)), jnp.ones((4, 8))
    layer = lambda q, k: (flash(q * 2, k), None)  # noqa: E731

    def under(config):
        return lambda q, k: rematerialized(layer, config)(q, k)[0]

    assert forward_runs(under(RematConfig("none")), q, k) == 1
    assert forward_runs(under(RematConfig("full")), q, k) == 2
    assert forward_runs(under(RematConfig("names", names=("attention",))), q, k) == 1
    core = recomputable(flash)
    selective = rematerialized(lambda q, k: (core(q * 2, k), None), RematConfig("attention"))
    assert forward_runs(lambda q, k: selective(q, k)[0], q, k) == 2
    assert forward_runs(lambda q, k: core(q * 2, k), q, k) == 1, "the mark means nothing outside of the policy"


# Settings


def test_settings_read():
    assert parse_remat("full") == (RematConfig("full"),)
    assert parse_remat("every:4*8+names:qkv, mlp_in") == (
        RematConfig("every", every=4, layers=8),
        RematConfig("names", names=("qkv", "mlp_in")),
    )
    assert parse_remat("offload") == (RematConfig("offload", names=("block_in",)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some", "unknown remat policy 'some': expected one of none, full, every"),
        ("every", "remat 'every' needs a number of layers, at least 1"),
        ("every:0", "got '0'"),
        ("full:2", "remat policy 'full' takes no argument, got 'full:2'"),
        ("names", "names nothing: expected some of block_in, qkv"),
        ("offload:qvk", "names qvk: expected some of block_in, qkv"),
        ("full + none", "'full' must say for how many layers it holds"),
        ("full*3", "the last policy holds for all layers that follow"),
        ("full*x + none", "needs a number of layers"),
    ],
)
def test_bad_settings_are_refused(text, message):
    with pytest.raises(ValueError) as error:
        parse_remat(text)
    assert message in str(error.value)


def test_a_policy_ends_with_a_turn_of_the_pattern():
    segment = Segment((Block(), Block()), 3, first=1)
    layer = lambda x, n: (x + n, n)  # noqa: E731
    x, seen = scan_segment(layer, jnp.zeros(()), jnp.arange(3.0), segment, "full*3 + dots*2 + none")
    assert float(x) == 3 and seen.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="within a turn of the pattern of 2 blocks that starts at layer 1"):
        scan_segment(layer, jnp.zeros(()), jnp.arange(3.0), segment, "full*2 + none")
