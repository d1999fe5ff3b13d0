"""The whole life of a language model in JAX: from raw text to a model that talks.

    lm = jaxllm.load(path)                                     LanguageModel(config, params, tokenizer)
    logits = jaxllm.forward(lm.params, lm.config, tokens)      [B, T] int32 -> [B, T, V] float32
    text = jaxllm.generate(lm, prompt)
    jaxllm.save(lm, path)

These names are imported when they are first used, so that `import jaxllm` and `jaxllm --help` do not wait for jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxllm.lazy_names import lazy_names

if TYPE_CHECKING:
    from jaxllm.inference import LanguageModel, generate, load, save
    from jaxllm.models import forward

__version__ = "0.1.0"

__all__ = ["LanguageModel", "forward", "generate", "load", "save"]

_HOME = {
    "LanguageModel": "jaxllm.inference",
    "forward": "jaxllm.models",
    "generate": "jaxllm.inference",
    "load": "jaxllm.inference",
    "save": "jaxllm.inference",
}

__getattr__, __dir__ = lazy_names(globals(), _HOME)
