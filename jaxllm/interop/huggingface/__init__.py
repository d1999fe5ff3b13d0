"""Models in the directories of Hugging Face's transformers: config.json, safetensors, tokenizer."""

from jaxllm.interop.huggingface.directory import (
    HuggingFaceModel,
    is_huggingface,
    load_huggingface,
    read_config,
    save_huggingface,
)

__all__ = ["HuggingFaceModel", "is_huggingface", "load_huggingface", "read_config", "save_huggingface"]
