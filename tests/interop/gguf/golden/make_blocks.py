"""Writes blocks.json: random blocks of each type, and their values by the gguf package's own dequantization.

python tests/interop/gguf/golden/make_blocks.py
"""

import json
from pathlib import Path

import gguf
import numpy as np

BLOCKS = 2
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16", "F16")

rng = np.random.default_rng(0)
cases = {}
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    while True:
        blocks = rng.integers(0, 256, (BLOCKS, size * (16 if size == 2 else 1)), np.uint8)
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(blocks, kind)
        if np.isfinite(values).all():
            break
    cases[name] = {"blocks": blocks.tobytes().hex(), "values": values.astype("<f4").tobytes().hex()}
Path(__file__).with_name("blocks.json").write_text(json.dumps(cases, indent=1) + "\n")
