from dataclasses import replace

import pytest

from jaxllm.models import PRESETS
from jaxllm.plan.hardware import HARDWARE, Hardware, hardware, hardware_of, measured_cpu, together
from jaxllm.plan.picker import fitting
from jaxllm.plan.roofline import decode, prefill, train_step, weights_read
from jaxllm.plan.units import read_bytes, show_bytes, show_seconds

LLAMA = replace(PRESETS["llama2-70b"](), compute_dtype="bfloat16")


def test_decoding_waits_for_the_weights():
    """A 70B model in bfloat16 on 2 TB/s: 69 ms a token, however few operations it takes."""
    device = Hardware("2 TB/s", 312e12, 80e9, 2e12)
    one = decode(LLAMA, 128, 1)
    assert device.balance == 156
    assert one.bound(device) == "memory"
    assert one.seconds(device) == pytest.approx(0.069, abs=0.001)
    many = prefill(LLAMA, 4096, 8)
    assert many.bound(device) == "compute"
    assert many.seconds(device) == many.flops / device.flops


def test_a_batch_shares_the_weights():
    one, many = decode(LLAMA, 1024, 1), decode(LLAMA, 1024, 64)
    cache = 327_680 * 1024
    assert many.bytes - one.bytes == 63 * cache
    assert many.flops == 64 * one.flops


def test_tables_are_read_where_they_are_heads():
    tied = replace(PRESETS["gpt2"](), compute_dtype="bfloat16")
    assert weights_read(tied, 1) == 2 * (124_439_808 - 1024 * 768)
    assert weights_read(LLAMA, 1) == 2 * (68_976_648_192 - 32_000 * 8192)


def test_few_tokens_touch_few_experts():
    mixtral = replace(PRESETS["mixtral-8x7b"](), compute_dtype="bfloat16")
    table = 32_000 * 4096
    assert weights_read(mixtral, 1) == pytest.approx(2 * (12_879_925_248 - table))
    assert weights_read(mixtral, 10_000) == pytest.approx(2 * (46_702_792_704 - table))
    assert weights_read(mixtral, 1) < weights_read(mixtral, 4) < weights_read(mixtral, 16)


def test_a_training_step():
    step = train_step(LLAMA, 4096, 8192, 100, 200)
    assert step.bytes == 2 * 100 + 2 * 100 + 2 * (200 + 100)
    assert step.flops == pytest.approx(6 * 69e9 * 8192, rel=0.05)


def test_devices_by_name():
    assert hardware("h200") is HARDWARE["h200"]
    with pytest.raises(ValueError, match=r"unknown hardware 'h1000'; did you mean h100\?"):
        hardware("h1000")
    assert hardware_of("NVIDIA A100-SXM4-40GB").memory == 40e9
    assert hardware_of("NVIDIA A100-SXM4-80GB").memory == 80e9
    assert hardware_of("TPU v5 lite").flops == 197e12
    assert hardware_of("TPU v5p").flops == 459e12
    assert hardware_of("abacus") is None
    assert together(HARDWARE["h100"], 8).bandwidth == 8 * 3350e9


def test_this_machine_is_measured():
    here = measured_cpu(seconds=0.05)
    assert here.flops > 1e9 and here.bandwidth > 1e8 and here.memory > 1e8
    assert "measured" in here.source


def test_amounts():
    assert show_bytes(16 * 2**30) == "17.18 GB (16 GiB)"
    assert show_bytes(0) == "0 B (0 B)"
    assert show_bytes(999_990_000) == "1 GB (953.7 MiB)"
    assert [show_seconds(s) for s in (3e-5, 0.0694, 42, 300, 86_400 * 54)] == [
        "30 µs",
        "69.4 ms",
        "42 s",
        "5 min",
        "54 days",
    ]
    assert [read_bytes(t) for t in ("24GB", "16 GiB", "80e9", "512M")] == [24 * 10**9, 2**34, 80 * 10**9, 512 * 10**6]
    for wrong in ("much", "24 QB", "", "GB"):
        with pytest.raises(ValueError, match="is no amount of memory: write 24GB"):
            read_bytes(wrong)


def test_what_fits():
    found = fitting(24e9, 8192)
    sizes = [candidate.total for candidate in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(candidate.bytes <= 24e9 and candidate.context_length >= 8192 for candidate in found)
    names = {candidate.name for candidate in found}
    assert {"llama3-8b", "gemma2-9b"} <= names
    assert names.isdisjoint({"llama2-7b", "qwen2.5-14b", "gpt2"})
    quantized = {candidate.name for candidate in fitting(24e9, 8192, weight_bits=4.5)}
    assert "qwen2.5-32b" in quantized and names < quantized
