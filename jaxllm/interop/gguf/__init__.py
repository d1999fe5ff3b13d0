"""Models in GGUF files, as llama.cpp has them: settings, tensors in blocks, vocabulary and chat template in one."""

from jaxllm.interop.gguf.block_tensor import BlockTensor
from jaxllm.interop.gguf.block_types import BLOCK_TYPES, BlockType, block_type_named
from jaxllm.interop.gguf.gguf_file import GGUFFile, is_gguf, read_gguf
from jaxllm.interop.gguf.model import GGUFModel, load_gguf

__all__ = [
    "BLOCK_TYPES",
    "BlockTensor",
    "BlockType",
    "GGUFFile",
    "GGUFModel",
    "block_type_named",
    "is_gguf",
    "load_gguf",
    "read_gguf",
]
