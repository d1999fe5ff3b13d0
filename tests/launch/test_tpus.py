"""TPU slices against Google's tables, and the names that do not exist."""

import pytest

from launch.tpus import GENERATIONS, parse_slice


# From the pages of each generation and "Plan TPUs in GKE": type, chips, hosts.
@pytest.mark.parametrize(
    "text, accelerator, chips, hosts, chips_per_host",
    [
        ("v4:2x2x1", "v4-8", 4, 1, 4),
        ("v4:4x4x4", "v4-128", 64, 16, 4),
        ("v4:8x16x16", "v4-4096", 2048, 512, 4),
        ("v5e:1x1", "v5litepod-1", 1, 1, 1),
        ("v5e:2x2", "v5litepod-4", 4, 1, 4),
        ("v5e:2x4", "v5litepod-8", 8, 1, 8),
        ("v5e:4x4", "v5litepod-16", 16, 4, 4),
        ("v5e:16x16", "v5litepod-256", 256, 64, 4),
        ("v5p:2x2x1", "v5p-8", 4, 1, 4),
        ("v5p:2x2x2", "v5p-16", 8, 2, 4),
        ("v5p:2x4x4", "v5p-64", 32, 8, 4),
        ("v5p:4x8x8", "v5p-512", 256, 64, 4),
        ("v5p:8x8x8", "v5p-1024", 512, 128, 4),
        ("v5p:16x16x24", "v5p-12288", 6144, 1536, 4),
        ("v6e:2x4", "v6e-8", 8, 1, 8),
        ("v6e:16x16", "v6e-256", 256, 64, 4),
        ("tpu7x:4x4x4", "tpu7x-128", 64, 16, 4),
    ],
)
def test_published_slices(text, accelerator, chips, hosts, chips_per_host):
    tpu = parse_slice(text)
    assert (tpu.accelerator_type, tpu.chips, tpu.hosts, tpu.chips_per_host) == (
        accelerator,
        chips,
        hosts,
        chips_per_host,
    )
    assert str(tpu) == text and tpu.usual == tpu


def test_labels_and_software():
    labels = {name: (generation.label, generation.runtime) for name, generation in GENERATIONS.items()}
    assert labels == {
        "v4": ("tpu-v4-podslice", "tpu-ubuntu2204-base"),
        "v5e": ("tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        "v5p": ("tpu-v5p-slice", "v2-alpha-tpuv5"),
        "v6e": ("tpu-v6e-slice", "v2-alpha-tpuv6e"),
        "tpu7x": ("tpu7x", None),
    }


@pytest.mark.parametrize(
    "text, usual", [("v4:4x4x16", "v4:4x8x8"), ("v5p:4x4x32", "v5p:8x8x8"), ("v5p:4x8x16", "v5p:8x8x8")]
)
def test_unusual_shapes_exist_too(text, usual):
    assert str(parse_slice(text).usual) == usual


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("v5p", r"which topology of v5p\? Write v5p:TOPOLOGY"),
        ("v5p-1024", "named by its topology: write v5p:8x8x8, of 512 chips, for v5p-1024"),
        ("v5e-64", "write v5e:8x8, of 64 chips, for v5e-64"),
        ("v5litepod-16", "write v5e:4x4, of 16 chips, for v5litepod-16"),
        ("v5p:8x8", "there is no TPU slice v5p:8x8: v5p comes as 2x2x1, .* 64 chips are v5p:4x4x4"),
        ("v5p:8x8x4", "A <= B <= C, .* 256 chips are v5p:4x4x16 or v5p:4x8x8"),
        ("v5p:2x2x3", "there is no TPU slice v5p:2x2x3"),
        ("v5p:16x24x24", "up to 6144 chips$"),
        ("v5p:0x4x4", "there is no TPU slice"),
        ("v5p:4x4x4x", "there is no TPU slice"),
        ("v5p:", "there is no TPU slice"),
        ("v5e:4x4x4", "v5e comes as 1x1, .* 64 chips are v5e:8x8"),
        ("v6e:3x3", "there is no TPU slice v6e:3x3: v6e comes as 1x1"),
        ("tpu7:2x2x1", r"unknown kind of TPU 'tpu7', did you mean 'tpu7x'\?; known: v4, v5e, v5p, v6e, tpu7x"),
        ("h100:8", "unknown kind of TPU 'h100'; known: v4"),
    ],
)
def test_slices_that_do_not_exist(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_slice(text)
