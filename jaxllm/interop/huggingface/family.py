"""What a family of models is: data and three functions; and how a model and its config.json are told from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.config import did_you_mean
from jaxllm.interop.huggingface.config_file import CONFIG_FILE, ConfigFile, read_object
from jaxllm.interop.huggingface.equivalence import difference
from jaxllm.interop.huggingface.weight_map import WeightMap


@dataclass(frozen=True)
class Family:
    """A model_type of transformers."""

    model_type: str
    architecture: str
    """The class of transformers that a written config.json names."""
    config_from: Callable[[ConfigFile], Any]
    """Raises ValueError, naming it, for an option that can't be honoured."""
    config_to: Callable[[Any], dict[str, Any]]
    """The entries of config.json but for architecture, type and tokens. It need not check that the model is one of the
    family's: whoever calls it reads the entries back and compares."""
    weights: Callable[[Any], WeightMap]

    def read(self, hf: ConfigFile) -> Any:
        """The config that the entries describe. Raises ValueError, naming the file, for one that can't be honoured and
        for one that nothing asked for."""
        try:
            config = self.config_from(hf)
        except ValueError as error:
            raise error if str(error).startswith(hf.source) else hf.error(str(error)) from error
        hf.finish()
        return config

    def written(self, config: Any) -> dict[str, Any]:
        """The entries of config.json without those of tokens. Raises ValueError, saying what is in the way, for a model
        that they can't express exactly."""
        entries = {"model_type": self.model_type, **self.config_to(config)}
        if reason := difference(config, self.read(ConfigFile(entries))):
            raise ValueError(reason)
        return {"architectures": [self.architecture], **entries}


def config_file(directory: Path) -> ConfigFile:
    """Raises ValueError where there is none."""
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{directory} has no {CONFIG_FILE}: it is no model of Hugging Face's")
    return ConfigFile(read_object(file), str(file))


def names_one_of(directory: Path, families: Mapping[str, Family]) -> bool:
    """Whether a config.json there names the model_type of one of these."""
    file = directory / CONFIG_FILE
    return file.is_file() and read_object(file).get("model_type") in families


def family_of(hf: ConfigFile, families: Mapping[str, Family]) -> Family:
    """Raises ValueError, naming what is known, for another model_type."""
    model_type = hf.text("model_type")
    if model_type not in families:
        raise hf.error(
            f"model_type {model_type!r} is not known{did_you_mean(model_type, families)}; known: "
            f"{', '.join(sorted(families))}"
        )
    return families[model_type]


def expressing(config: Any, families: Iterable[Family]) -> tuple[Family, dict[str, Any]]:
    """The first family that can express a model exactly, and what it writes; see `Family.written`.

    Raises ValueError, saying what is in the way of each, if none can.
    """
    reasons = []
    for family in families:
        try:
            return family, family.written(config)
        except ValueError as error:
            reasons.append(f"  {family.model_type}: {error}")
    kind = type(config).__name__
    raise ValueError(f"no family of transformers can express this {kind}:\n" + "\n".join(reasons))
