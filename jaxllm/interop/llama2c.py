"""Models of llama2.c: Llama's architecture in a file of 32-bit floats behind seven sizes, and its vocabulary.

    int32 d_model, d_ff, layers, heads, key/value heads, vocabulary (negative: the head is a table of its own), context
    float32 tensors, each for all layers at once, in a fixed order

The vocabulary: int32 longest token; then for each token float32 score, int32 bytes, the bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxllm.interop.gguf.head_rows import halves_of_pairs
from jaxllm.interop.huggingface.families.llama_like import llama_weights
from jaxllm.interop.huggingface.parameters import read_params
from jaxllm.interop.huggingface.safetensors_files import StoredTensor
from jaxllm.models import AttentionConfig, Decoder, MLPConfig, ModelConfig, NormConfig, decoder_spec
from jaxllm.parallel.sharding import Layout
from jaxllm.tokenizers import Tokenizer
from jaxllm.tokenizers.formats.gguf_tokenizer import tokenizer_of
from jaxllm.tokenizers.formats.gguf_vocabulary import GGUFVocabulary, TokenType
from jaxllm.tokenizers.preparation.metaspace import META

_SIZES = struct.Struct("<7i")
_LATER_MAGIC = 0x616B3432  # "ak42", which later versions of the format begin with
_UNKNOWN, _BOS, _EOS, _FIRST_BYTE = 0, 1, 2, 3


class Llama2cModel(NamedTuple):
    """What the two files hold."""

    config: ModelConfig
    params: Decoder
    tokenizer: Tokenizer
    stop_tokens: tuple[int, ...]
    """The tokens that begin and end a text: this program ends at the next beginning."""


def load_llama2c(
    path: str | PathLike[str],
    *,
    tokenizer: str | PathLike[str] | None = None,
    layout: Layout | None = None,
    dtype: Any = None,
    allow_nonfinite: bool = False,
) -> Llama2cModel:
    """Read a checkpoint of the format's first version, and its vocabulary.

    The vocabulary is `tokenizer`, or tokenizer.bin or tokN.bin (N tokens) beside the model. Raises ValueError for files
    that are missing, damaged, of a later version or not of one another; the other arguments are those of
    `load_huggingface`.
    """
    path = Path(path)
    config = read_sizes(path)
    vocabulary = Path(tokenizer) if tokenizer else _beside(path, config.vocab_size)
    read = read_tokenizer(vocabulary)
    if read.vocab_size != config.vocab_size:
        raise ValueError(f"{vocabulary} has {read.vocab_size} tokens, the model {path} has {config.vocab_size}")
    dtype = jnp.dtype(dtype or jnp.float32)
    if dtype == jnp.bfloat16:
        config = replace(config, compute_dtype="bfloat16")
    params = read_params(
        decoder_spec(config),
        llama_weights(config),
        _tensors(path, config),
        str(path),
        layout=layout,
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
    )
    return Llama2cModel(config, params, read, (_BOS, _EOS))


def read_sizes(path: Path) -> ModelConfig:
    """The architecture. Raises ValueError unless the file has exactly the bytes that its sizes ask for."""
    with path.open("rb") as file:
        head = file.read(_SIZES.size)
    if len(head) < _SIZES.size:
        raise ValueError(f"{path} has {len(head)} bytes: a checkpoint of llama2.c begins with seven sizes")
    if int.from_bytes(head[:4], "little") == _LATER_MAGIC:
        version = int.from_bytes(head[4:8], "little")
        raise ValueError(f"{path} is of version {version} of llama2.c's format; export it with --version 0")
    width, hidden, layers, heads, kv_heads, vocabulary, context = _SIZES.unpack(head)
    names = ("width", "hidden", "layers", "heads", "key/value heads", "vocabulary", "context")
    sizes = ", ".join(f"{name} {size}" for name, size in zip(names, _SIZES.unpack(head), strict=True))
    if min(width, hidden, layers, heads, kv_heads, context, abs(vocabulary)) < 1 or width % (2 * heads):
        raise ValueError(f"{path} is no checkpoint of llama2.c: its sizes are {sizes}")
    try:
        config = ModelConfig(
            vocab_size=abs(vocabulary),
            context_length=context,
            d_model=width,
            num_layers=layers,
            attention=AttentionConfig(num_heads=heads, num_kv_heads=kv_heads),
            mlp=MLPConfig(d_ff=hidden, activation="silu", gated=True),
            norm=NormConfig(epsilon=1e-5),
            tie_embeddings=vocabulary > 0,
        )
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of llama2.c: {error}") from error
    expected = _SIZES.size + 4 * sum(math.prod(shape) for _, shape in _order(config))
    if (found := path.stat().st_size) != expected:
        raise ValueError(
            f"{path} has {found:,} bytes, but a checkpoint of llama2.c with its sizes ({sizes}) has {expected:,}: it "
            "is cut off, or no such file"
        )
    return config


def _order(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """What stands in the file one after the other; "" is not needed."""
    L, D, F, V = config.num_layers, config.d_model, config.mlp.d_ff, config.vocab_size
    H, G, K = config.attention.num_heads, config.num_kv_heads, config.head_dim
    angles = ("", (config.context_length, K // 2))
    return [
        ("model.embed_tokens.weight", (V, D)),
        ("input_layernorm.weight", (L, D)),
        ("self_attn.q_proj.weight", (L, H * K, D)),
        ("self_attn.k_proj.weight", (L, G * K, D)),
        ("self_attn.v_proj.weight", (L, G * K, D)),
        ("self_attn.o_proj.weight", (L, D, H * K)),
        ("post_attention_layernorm.weight", (L, D)),
        ("mlp.gate_proj.weight", (L, F, D)),
        ("mlp.down_proj.weight", (L, D, F)),
        ("mlp.up_proj.weight", (L, F, D)),
        ("model.norm.weight", (D,)),
        angles,
        angles,
        *([] if config.tie_embeddings else [("lm_head.weight", (V, D))]),
    ]


def _tensors(path: Path, config: ModelConfig) -> dict[str, StoredTensor]:
    """Layer by layer, under the names of transformers."""
    data = np.memmap(path, "<f4", "r", offset=_SIZES.size)
    tensors: dict[str, np.ndarray] = {}
    place = 0
    for name, shape in _order(config):
        array = data[place : place + math.prod(shape)].reshape(shape)
        place += array.size
        if len(shape) == 2 and name and not name.startswith(("model.", "lm_head.")) or len(shape) == 3:
            tensors |= {f"model.layers.{i}.{name}": layer for i, layer in enumerate(array)}
        elif name:
            tensors[name] = array
    # The program turns neighbouring pairs.
    heads = {".q_proj.": config.attention.num_heads, ".k_proj.": config.num_kv_heads}
    for name, array in tensors.items():
        for part, count in heads.items():
            if part in name:
                tensors[name] = halves_of_pairs(array, count)
    return {
        name: StoredTensor(name, path, array.dtype, array.shape, array.reshape(-1).view(np.uint8))
        for name, array in tensors.items()
    }


def _beside(path: Path, vocab_size: int) -> Path:
    names = ("tokenizer.bin", f"tok{vocab_size}.bin")
    for name in names:
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise ValueError(f"{path} has no vocabulary beside it ({' or '.join(names)}): name it with tokenizer=FILE")


def read_tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """The vocabulary of llama2.c: SentencePiece's byte pair encoding, with spaces where that has its own mark.

    Raises ValueError for a file that is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no vocabulary {path}")
    data = path.read_bytes()
    tokens, scores, place = [], [], 4
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError(f"{path} ends within token {len(tokens)}")
        score, size = struct.unpack_from("<fi", data, place)
        place += 8 + size
        if not 0 < size <= len(data) or place > len(data) or not math.isfinite(score):
            raise ValueError(
                f"{path} is cut off or no vocabulary of llama2.c: token {len(tokens)} has {size} bytes, score {score}"
            )
        try:
            tokens.append(data[place - size : place].decode("utf-8").replace(" ", META))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: token {len(tokens)} is not UTF-8: {error}") from error
        scores.append(score)
    if len(tokens) <= _FIRST_BYTE + 256:
        raise ValueError(f"{path} has {len(tokens)} tokens; a vocabulary of llama2.c has three marks, 256 bytes, more")
    # The file writes them with line ends around them, as the program prints them.
    tokens[_UNKNOWN], tokens[_BOS], tokens[_EOS] = "<unk>", "<s>", "</s>"
    kinds = [TokenType.NORMAL] * len(tokens)
    kinds[_UNKNOWN], kinds[_BOS], kinds[_EOS] = TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL
    kinds[_FIRST_BYTE : _FIRST_BYTE + 256] = [TokenType.BYTE] * 256
    try:
        return tokenizer_of(
            GGUFVocabulary(
                "llama",
                tuple(tokens),
                scores=tuple(scores),
                token_type=tuple(map(int, kinds)),
                roles={"unk_token": _UNKNOWN, "bos_token": _BOS, "eos_token": _EOS},
                add_bos_token=True,
                add_eos_token=False,
                add_space_prefix=True,
            )
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
