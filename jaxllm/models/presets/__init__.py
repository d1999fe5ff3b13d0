"""Published architectures by name; the tests assert their parameter counts to the unit."""

from __future__ import annotations

from collections.abc import Callable

from jaxllm.config import did_you_mean
from jaxllm.models.config import ModelConfig
from jaxllm.models.presets import deepseek, google, laboratories, meta, mistral, openai, qwen, recurrent

MAKERS = (openai, meta, mistral, qwen, google, deepseek, laboratories, recurrent)

PRESETS: dict[str, Callable[[], ModelConfig]] = {name: make for maker in MAKERS for name, make in maker.PRESETS.items()}


def preset(name: str) -> ModelConfig:
    """The published architecture of that name. Raises ValueError, naming the likeliest, where there is none."""
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}{did_you_mean(name, PRESETS)}\nknown: {', '.join(PRESETS)}")
    return PRESETS[name]()
