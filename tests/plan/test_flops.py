import jax
import pytest

from jaxllm.models import PRESETS, ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    Block,
    GatedDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.plan.flops import (
    View,
    forward_flops,
    machine_peak,
    mixing_flops,
    parameter_count,
    peak_flops,
    product_weights,
    sparse_reads,
    train_flops_per_token,
)
from jaxllm.plan.hardware import hardware
from jaxllm.plan.roofline import training_cost


def test_gpt2_by_hand():
    """12 layers of 12 x 768^2 weights and the tied head; attention 6 H K T a layer with H K = 768."""
    expected = 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 6 * 768 * 1024
    assert train_flops_per_token(PRESETS["gpt2"](), 1024) == expected


def test_llama_counts_its_untied_head_once_and_its_input_table_not():
    config = PRESETS["llama3-8b"]()
    weights = parameter_count(config) - 128_256 * 4096 - 65 * 4096  # without the input table and the norms
    assert train_flops_per_token(config, 8192) == 6 * weights + 32 * 6 * 4096 * 8192


def test_compilers_count_agrees():
    """Forward and backward of a model whose cost is nearly all products, by XLA's own count."""
    from jaxllm.models import AttentionConfig, MLPConfig, decoder_spec
    from jaxllm.models.declare import abstract
    from jaxllm.objectives.next_token import next_token

    config = ModelConfig(
        vocab_size=256,
        context_length=64,
        d_model=128,
        num_layers=1,
        attention=AttentionConfig(num_heads=4),
        mlp=MLPConfig(d_ff=512),
    )
    types = {"tokens": "int32", "targets": "int32", "weights": "float32", "segment_ids": "int32", "positions": "int32"}
    batch = {name: jax.ShapeDtypeStruct((4, 64), t) for name, t in types.items()}
    step = jax.jit(jax.value_and_grad(next_token(config), has_aux=True))
    counted = step.lower(abstract(decoder_spec(config)), batch).compile().cost_analysis()["flops"]
    # The compiler counts the masked half of attention and, of loops, one round: the loss has two.
    assert counted == pytest.approx(4 * 64 * train_flops_per_token(config, 64), rel=0.2)


class Device:
    platform = "gpu"

    def __init__(self, kind):
        self.device_kind = kind


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H200", 989e12),
        ("unheard of", None),
    ],
)
def test_peaks_by_name(kind, peak):
    assert peak_flops(Device(kind)) == peak


def test_an_unknown_device_is_said_to_be_unknown():
    peak, why = machine_peak([Device("unheard of")])
    assert peak is None and "unheard of" in why


def test_a_cpu_is_measured():
    peak, why = machine_peak(jax.devices())
    assert peak > 1e9 and "measured" in why


# Mixers by hand


def one_layer(mixer, **settings):
    return ModelConfig(vocab_size=64, d_model=64, num_layers=1, pattern=(Block(mixer, "none"),), **settings)


def mixing(mixer, length, decoding=False):
    """Operations of the layer that no weight has a part in."""
    work = forward_flops(one_layer(mixer), length, decoding=decoding)
    return sum(value for name, value in work.items() if name != "weights")


@pytest.mark.parametrize(
    ("dials", "mean_keys", "last_keys"),
    [
        ({}, 512, 1024),
        ({"window": 256}, 256 - 256**2 / 2048, 256),
        ({"window": 4096}, 512, 1024),
        ({"chunk": 128}, 64, 128),
        ({"causal": False}, 1024, 1024),
    ],
)
def test_keys_of_attention(dials, mean_keys, last_keys):
    mixer = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, **dials)
    assert mixing(mixer, 1024) == 4 * 4 * 16 * mean_keys
    assert mixing(mixer, 1024, decoding=True) == 4 * 4 * 16 * last_keys


def test_windows_by_counting():
    """The mean over positions of what each sees, but for the half key that the rule of thumb leaves out."""
    mixer = AttentionConfig(num_heads=4, head_dim=16, window=300)
    counted = sum(min(position + 1, 300) for position in range(1024)) / 1024
    assert mixing(mixer, 1024) / (4 * 4 * 16) == pytest.approx(counted, abs=0.5)


def test_latent_attention_is_absorbed_when_decoding():
    mixer = LatentAttentionConfig(num_heads=4, q_rank=32, kv_rank=24, nope_dim=16, rope_dim=8, value_dim=12)
    assert mixing(mixer, 100) == 2 * 4 * (16 + 8 + 12) * 50
    assert mixing(mixer, 100, decoding=True) == 2 * 4 * (2 * 24 + 8) * 100


@pytest.mark.parametrize(
    ("config", "length", "keys"),
    [
        # The paper's: an eleventh of 64k keys, its figure for decoding.
        (SparseAttentionConfig(), 65_536, 4095 + 1024 + 512),
        # Blocks that do not overlap.
        (SparseAttentionConfig(compress_block=64, compress_stride=64, num_selected=16), 65_536, 1024 + 1024 + 512),
        (SparseAttentionConfig(compress_block=64, compress_stride=64, num_selected=16), 131_072, 2048 + 1024 + 512),
    ],
)
def test_keys_of_sparse_attention(config, length, keys):
    assert sum(sparse_reads(config, View(length, decoding=True)).values()) == keys


def test_recurrent_mixers_do_not_care_for_the_length():
    for mixer in (
        MambaConfig(),
        Mamba2Config(head_dim=16),
        GatedDeltaConfig(num_heads=4, num_key_heads=2),
        RWKVConfig(),
    ):
        assert mixing(mixer, 100) == mixing(mixer, 100_000) == mixing(mixer, 100_000, decoding=True) > 0
    assert mixing(MambaConfig(), 8) == 128 * (6 * 16 + 2 * 4)


def test_only_active_experts_count():
    dense, sparse = PRESETS["mistral-7b"](), PRESETS["mixtral-8x7b"]()
    expert = 3 * 4096 * 14_336
    assert product_weights(sparse) == product_weights(dense) + 32 * (expert + 4096 * 8)


def test_training_takes_three_forward_passes():
    model = PRESETS["jamba-v0.1"]()
    assert train_flops_per_token(model, 4096) == 3 * sum(forward_flops(model, 4096).values())


def test_a_mixer_without_a_rule_is_named():
    class Novel:
        kind = "novel"

    with pytest.raises(ValueError, match="no rule for the operations of Novel"):
        mixing_flops(ModelConfig(), Novel(), View(8, decoding=False))


def test_six_n_d_of_a_seven_billion_model():
    """8.4e22 operations at 40% of 989 TFLOP/s, and at $2.50 an hour."""
    cost = training_cost(6 * 7e9 * 2e12, hardware("h100"), 1024, 0.4, 2.5)
    assert round(cost["device_hours"]) == 58_982
    assert round(cost["dollars"]) == 147_455
