"""What a family of models is: data and three functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.weight_map import WeightMap
from jaxllm.models import ModelConfig


@dataclass(frozen=True)
class Family:
    """A model_type of transformers."""

    model_type: str
    architecture: str
    """The class of transformers that a written config.json names."""
    config_from: Callable[[ConfigFile], ModelConfig]
    """Raises ValueError, naming it, for an option that can't be honoured."""
    config_to: Callable[[ModelConfig], dict[str, Any]]
    """The entries of config.json but for architecture, type and tokens. It need not check that the model is one of the
    family's: whoever calls it reads the entries back and compares."""
    weights: Callable[[ModelConfig], WeightMap]
