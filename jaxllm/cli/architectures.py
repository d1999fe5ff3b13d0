"""What a user means by MODEL: a published architecture, an experiment, a run, or a saved model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

MODEL = (
    "name of a published architecture (jaxllm plan --list), an experiment, a run directory, a saved model, or a "
    "Hugging Face directory"
)


def find_architecture(source: str, dtype: str = "") -> tuple[Any, tuple[str, ...]]:
    """(an Experiment with that model, notes on what was assumed). Only configs are read, no weights.

    `dtype` replaces the compute type; published models are planned in bfloat16 without it. Raises ValueError where
    there is no such thing.
    """
    from jaxllm.models.presets import PRESETS
    from jaxllm.training.experiment import Experiment, TrainingConfig

    if source in PRESETS:
        # One text a step and only layers' inputs kept: the least that training can do with.
        training = TrainingConfig(batch_size=1, remat="full")
        experiment = Experiment(name=source, model=PRESETS[source](), training=training)
        return _in_type(experiment, dtype or "bfloat16"), ()
    found = _saved(Path(source))
    if found is None:
        found = _experiment(source)
    experiment, notes = _with_vocabulary(found)
    return _in_type(experiment, dtype or experiment.model.compute_dtype), notes


def _saved(path: Path) -> Any:
    """The experiment of a directory, or of the config.json of one; None where it is neither."""
    from jaxllm.config import from_json
    from jaxllm.training.experiment import Experiment
    from jaxllm.training.run_directory import read_config

    if path.name == "config.json" and path.is_file():
        path = path.parent
    if (path / "model.json").is_file():
        from jaxllm.inference.language_model import CARD_MIGRATIONS, ModelCard

        file = path / "model.json"
        card = from_json(file.read_text(encoding="utf-8"), ModelCard, source=str(file), migrations=CARD_MIGRATIONS)
        return Experiment(name=path.name, model=card.model)
    file = path / "config.json"
    if not file.is_file():
        return None
    if _names_model_type(file):
        from jaxllm.interop.huggingface.directory import read_config as read_huggingface

        return Experiment(name=path.name, model=read_huggingface(path))
    return read_config(file)


def _names_model_type(file: Path) -> bool:
    """As the config.json of a Hugging Face directory does."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False  # the reader of runs says what is wrong with it
    return isinstance(values, dict) and "model_type" in values


def _experiment(source: str) -> Any:
    from jaxllm.config import did_you_mean, experiments, load_experiment
    from jaxllm.models.presets import PRESETS
    from jaxllm.training.experiment import Experiment

    name = source.removeprefix("experiments/").removesuffix(".py")
    if Path(source).suffix == ".py" or name in experiments():
        return load_experiment(source if Path(source).suffix == ".py" else name, Experiment)
    known = (*PRESETS, *experiments())
    raise ValueError(
        f"there is no model {source!r}{did_you_mean(source, known)}\n"
        f"It is neither a published architecture ({', '.join(PRESETS)}),\n"
        f"nor an experiment ({', '.join(experiments()) or 'none here'}), "
        "nor a directory with a model.json or a config.json"
    )


def _with_vocabulary(experiment: Any) -> tuple[Any, tuple[str, ...]]:
    """An experiment that leaves the vocabulary to its tokenizer gets the size the tokenizer was asked for."""
    from jaxllm.pipeline.pretrain import VOCAB_MULTIPLE

    if experiment.model.vocab_size:
        return experiment, ()
    wanted = experiment.tokenizer.vocab_size
    size = -(-wanted // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    note = f"vocabulary: {size:,} rows assumed, from tokenizer.vocab_size={wanted}; set --model.vocab_size to change it"
    return replace(experiment, model=replace(experiment.model, vocab_size=size)), (note,)


def _in_type(experiment: Any, dtype: str) -> Any:
    return replace(experiment, model=replace(experiment.model, compute_dtype=dtype))
