"""Caches, sampling and decoding: how a trained model writes."""

from jaxllm.inference.engine import Decoding, generate_tokens
from jaxllm.inference.generation import Completions, Generation, complete, generate, generate_stream
from jaxllm.inference.language_model import LanguageModel, Origin, load, save
from jaxllm.inference.sampling import SamplingConfig, sample
from jaxllm.inference.sequence_to_sequence import write_target
from jaxllm.inference.text_encoder import TextEncoder, embed_texts, load_text_encoder
from jaxllm.inference.vision_language import write_about_images
from jaxllm.inference.vocabulary import add_tokens, prune_vocabulary

__all__ = [
    "Completions",
    "Decoding",
    "Generation",
    "LanguageModel",
    "Origin",
    "SamplingConfig",
    "TextEncoder",
    "add_tokens",
    "complete",
    "embed_texts",
    "generate",
    "generate_stream",
    "generate_tokens",
    "load",
    "load_text_encoder",
    "prune_vocabulary",
    "sample",
    "save",
    "write_about_images",
    "write_target",
]
