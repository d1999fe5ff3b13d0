"""Caches, sampling and decoding: how a trained model writes."""

from jaxllm.inference.engine import Decoding, generate_tokens
from jaxllm.inference.generation import Completions, Generation, complete, generate, generate_stream
from jaxllm.inference.language_model import LanguageModel, Origin, load, save
from jaxllm.inference.sampling import SamplingConfig, sample
from jaxllm.inference.vocabulary import add_tokens, prune_vocabulary

__all__ = [
    "Completions",
    "Decoding",
    "Generation",
    "LanguageModel",
    "Origin",
    "SamplingConfig",
    "add_tokens",
    "complete",
    "generate",
    "generate_stream",
    "generate_tokens",
    "load",
    "prune_vocabulary",
    "sample",
    "save",
]
