"""GGUF files of a few bytes, written by hand so that they can be wrong in any way."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

F32 = 0
_KINDS = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}


class Tensor(NamedTuple):
    """What a file says of a tensor, true or not."""

    shape: tuple[int, ...]
    data: bytes
    kind: int = F32
    offset: int | None = None
    """None: where it is."""


def of(array: np.ndarray) -> Tensor:
    return Tensor(array.shape, np.ascontiguousarray(array, np.float32).tobytes())


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def setting(name: str, value: Any) -> bytes:
    return text(name) + _value(value)


def _value(value: Any) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + text(value)
        case list():
            inner = [_value(one) for one in value]
            return struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(value)) + b"".join(x[4:] for x in inner)
    kind, code = _KINDS[type(value)]
    return struct.pack(f"<I{code}", kind, value)


def gguf_bytes(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, count: int | None = None, alignment: int = 32
) -> bytes:
    """The content of a file. `count` is how many tensors it claims to have."""
    described, data = b"", b""
    for name, tensor in tensors.items():
        data += bytes(-len(data) % alignment)
        offset = len(data) if tensor.offset is None else tensor.offset
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        described += text(name) + dimensions + struct.pack("<IQ", tensor.kind, offset)
        data += tensor.data
    claimed = len(tensors) if count is None else count
    head = struct.pack("<4sIQQ", b"GGUF", 3, claimed, len(settings))
    head += b"".join(setting(name, value) for name, value in settings.items()) + described
    return head + bytes(-len(head) % alignment) + data


LETTERS = "▁abcdefghijklmnopqrstuvwxyz.,"


def vocabulary(size: int) -> dict[str, Any]:
    """Settings of a SentencePiece vocabulary of letters, filled up with tokens that mean nothing."""
    tokens = ["<unk>", "<s>", "</s>", *LETTERS]
    tokens += [f"<filler{i}>" for i in range(size - len(tokens))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens[:size],
        "tokenizer.ggml.scores": [-float(i) for i in range(size)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (size - 3),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


def byte_level_vocabulary(size: int) -> dict[str, Any]:
    """The same as a byte-level vocabulary, of few bytes."""
    fields = vocabulary(size)
    fields["tokenizer.ggml.tokens"] = ["Ġ" if token == "▁" else token for token in fields["tokenizer.ggml.tokens"]]
    fields["tokenizer.ggml.tokens"][-1] = "ab"
    del fields["tokenizer.ggml.scores"]
    return fields | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"]}


def random(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)


def small_llama(seed: int = 0, *, tied: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and tensors of a model of Llama's architecture with odd sizes."""
    D, F, H, G, K, V, layers = 24, 20, 6, 2, 6, 37, 2
    settings = {
        "general.architecture": "llama",
        "general.name": "small",
        "llama.block_count": layers,
        "llama.context_length": 64,
        "llama.embedding_length": D,
        "llama.feed_forward_length": F,
        "llama.attention.head_count": H,
        "llama.attention.head_count_kv": G,
        "llama.attention.key_length": K,
        "llama.attention.value_length": K,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 500.0,
        "llama.rope.dimension_count": K,
        "llama.vocab_size": V,
        **vocabulary(V),
    }
    shapes = {"token_embd": (V, D), "output_norm": (D,)} | ({} if tied else {"output": (V, D)})
    for i in range(layers):
        block = {"attn_norm": (D,), "attn_q": (H * K, D), "attn_k": (G * K, D), "attn_v": (G * K, D)}
        block |= {"attn_output": (D, H * K), "ffn_norm": (D,)}
        block |= {"ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    rng = np.random.default_rng(seed)
    return settings, {f"{name}.weight": random(shape, rng) for name, shape in shapes.items()}
