"""The other mixers over tensor and context together, all in one model: loss and gradients equal one device's."""

from dataclasses import replace

from jaxllm.models.config import (
    AttentionConfig,
    Block,
    DifferentialAttentionConfig,
    GatedDeltaConfig,
    Mamba2Config,
    RWKVChannelConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.parallel.mesh import MeshConfig
from tests.parallel.tiny_models import DENSE, assert_equal_to_one_device

SPARSE = SparseAttentionConfig(
    num_heads=8, num_kv_heads=4, compress_block=4, compress_stride=2, select_block=4, num_selected=3, window=4
)
BLOCKS = (
    Block(mixer=Mamba2Config(d_state=4, head_dim=4, chunk=8), channel="none"),
    Block(mixer=GatedDeltaConfig(num_heads=4, num_key_heads=4, key_dim=4, value_dim=4, chunk=8), channel="none"),
    Block(mixer=RWKVConfig(chunk=8), channel=RWKVChannelConfig(d_ff=32)),
    Block(mixer=SPARSE, channel="none"),
    Block(mixer=DifferentialAttentionConfig(num_heads=4, num_kv_heads=2, window=6), channel="none"),
    Block(mixer=AttentionConfig(num_heads=4, num_kv_heads=2, window=5, softcap=4.0, sinks=True), channel="none"),
)
ZOO = replace(DENSE, num_layers=len(BLOCKS), pattern=BLOCKS)


def test_all_of_them():
    assert_equal_to_one_device(ZOO, MeshConfig(data=2, tensor=2, context=2))
