"""Lists of layers, and the pattern that says them in few."""

from dataclasses import replace

import pytest

from jaxllm.interop.huggingface.layer_pattern import arranged
from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig
from jaxllm.models.config import MoEConfig

FULL, EXPERTS, MLP = AttentionConfig(num_heads=4), MoEConfig(), MLPConfig(d_ff=8)
LOCAL = replace(FULL, window=5)
KINDS = {
    "F": Block(FULL, MLP),
    "L": Block(LOCAL, MLP),
    "E": Block(FULL, EXPERTS),
    "M": Block(LOCAL, EXPERTS),
}


@pytest.mark.parametrize(
    ("layers", "prologue", "pattern"),
    [
        ("FFFF", "", "F"),
        ("LFLF", "", "LF"),
        ("LLFLLFL", "", "LLF"),
        ("FFLLLL", "FF", "L"),
        ("FEEEE", "F", "E"),
        ("LFMEMEME", "LF", "ME"),
        ("FEMLFE", "", "FEML"),
    ],
)
def test_the_least_that_says_it(layers, prologue, pattern):
    blocks = [KINDS[kind] for kind in layers]
    fields = arranged(blocks)
    config = ModelConfig(d_model=8, num_layers=len(blocks), **fields)
    assert list(config.blocks()) == blocks
    assert (len(fields["prologue"]), len(fields["pattern"])) == (len(prologue), len(pattern))
    named = {block.mixer for block in fields["prologue"] + fields["pattern"]}
    assert "attention" in named
