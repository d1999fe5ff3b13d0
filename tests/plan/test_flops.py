import jax
import pytest

from jaxllm.models import PRESETS, ModelConfig
from jaxllm.plan.flops import machine_peak, parameter_count, peak_flops, train_flops_per_token


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
