"""A language model is a value: a config, parameters and a tokenizer; loaded from what training or `save` wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from jaxllm import config as configs
from jaxllm import tokenizers
from jaxllm.data.atomic import new_directory
from jaxllm.models import Decoder, ModelConfig, decoder_spec
from jaxllm.models.config.migrations import model_from_version_1
from jaxllm.models.declare import abstract
from jaxllm.tokenizers import Tokenizer
from jaxllm.training.checkpoints import flatten
from jaxllm.training.digest import digests
from jaxllm.training.history import read_history
from jaxllm.training.shipped import restore_params

MODEL_FILE = "model.json"
FORMATS = ("jaxllm",)
CARD_MIGRATIONS = {1: lambda card: {**card, "model": model_from_version_1(card.get("model", {}))}}


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as far as it is known."""

    name: str = ""
    """What to call it."""
    step: int | None = None
    """Optimizer steps it was trained for."""
    val_loss: float | None = None
    """Validation loss at that step, nats per token."""
    val_bpb: float | None = None
    """The same in bits per byte of text."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """Everything that turns text into text.

    Raises ValueError when the tokenizer has tokens that the model has no row for.
    """

    config: ModelConfig
    params: Decoder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    origin: Origin = Origin()

    def __post_init__(self):
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens, the model only {self.config.vocab_size}: "
                "they do not belong together"
            )


def load(path: str | Path) -> LanguageModel:
    """The model at `path`: a run directory (its newest whole checkpoint), one checkpoint in it, or what `save` wrote.

    Of a run it takes the parameters that the run evaluates: their moving average where one is kept. Raises ValueError
    when `path` is none of these, and when what it holds is damaged or from a newer version.
    """
    path = Path(path)
    if (path / MODEL_FILE).is_file():
        return _load_saved(path)
    if _is_run(path):
        return _load_run(path)
    if path.is_dir() and path.name.isdigit() and _is_run(path.parent.parent):
        return _load_run(path.parent.parent, int(path.name))
    found = f"{path} is no model" if path.exists() else f"there is no {path}"
    raise ValueError(
        f"{found}: looked for a run directory (config.json, checkpoints/), a checkpoint of a run "
        f"(RUN/checkpoints/STEP) and a saved model ({MODEL_FILE}, params/, tokenizer/)"
    )


def save(lm: LanguageModel, path: str | Path, format: str = "jaxllm") -> None:
    """Write a model to a new directory, whole or not at all, for `load` to read on any machine.

    Raises ValueError for a format that is not supported and for a path that is in use or cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; supported: {', '.join(FORMATS)}")
    path = Path(path).absolute()
    arrays = flatten(lm.params)
    card = ModelCard(
        origin=lm.origin,
        model=lm.config,
        tokenizer=lm.tokenizer.fingerprint(),
        digests=tuple(Digest(name, value) for name, value in digests(arrays).items()),
    )
    try:
        with new_directory(path) as staged:
            _write_arrays(staged / "params", arrays)
            lm.tokenizer.save(staged / "tokenizer")
            (staged / MODEL_FILE).write_text(configs.to_json(card) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the model cannot be saved to {path}: {error}") from error


@dataclass(frozen=True)
class Digest:
    """What an array's content adds up to."""

    name: str
    """Dotted path of the parameter."""
    value: int
    """`jaxllm.training.digest` of it."""


@dataclass(frozen=True)
class ModelCard:
    """What `model.json` holds."""

    origin: Origin
    """Where the model comes from."""
    model: ModelConfig
    """Architecture."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    digests: tuple[Digest, ...]
    """What the parameters are checked against."""
    version: int = 2
    """Version of these fields."""


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _load_run(run: Path, step: int | None = None) -> LanguageModel:
    experiment, params, step = restore_params(run, step)
    rows = [row for row in read_history(run).evaluations if row["step"] == step]
    scores = {name: rows[-1][name] for name in ("val_loss", "val_bpb") if rows and _is_finite(rows[-1].get(name))}
    origin = Origin(name=run.resolve().name, step=step, **scores)
    return LanguageModel(experiment.model, params, tokenizers.load(run / "tokenizer"), origin)


def _load_saved(path: Path) -> LanguageModel:
    source = path / MODEL_FILE
    card = configs.from_json(
        source.read_text(encoding="utf-8"), ModelCard, source=str(source), migrations=CARD_MIGRATIONS
    )
    tokenizer = tokenizers.load(path / "tokenizer")
    if tokenizer.fingerprint() != card.tokenizer:
        raise ValueError(f"{path / 'tokenizer'} is not the tokenizer that the model was saved with")
    target = abstract(decoder_spec(card.model))
    arrays = _read_arrays(path.absolute() / "params", flatten(target))
    actual = digests(arrays)
    broken = [digest.name for digest in card.digests if actual.get(digest.name) != digest.value]
    if broken:
        raise ValueError(f"{path / 'params'} is damaged: {', '.join(broken[:4])} differ from what was saved")
    params = jax.tree.unflatten(jax.tree.structure(target), arrays.values())
    return LanguageModel(card.model, params, tokenizer, card.origin)


def _write_arrays(directory: Path, arrays: dict[str, jax.Array]) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, arrays)


def _read_arrays(directory: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Arrays on the first local device, in the type they were saved in and the order of `wanted`."""
    import orbax.checkpoint as ocp

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            found = checkpointer.metadata(directory).item_metadata
            _refuse_misfits(directory, wanted, found)
            target = {n: jax.ShapeDtypeStruct(x.shape, found[n].dtype, sharding=here) for n, x in wanted.items()}
            arrays = checkpointer.restore(directory, target)
        except Misfit:
            raise
        except Exception as error:  # orbax and tensorstore have many for files that are absent, cut or foreign
            reason = str(error).splitlines() or [type(error).__name__]
            raise ValueError(f"{directory} cannot be read: {reason[0]}") from error
    return {name: arrays[name] for name in wanted}


class Misfit(ValueError):
    """Parameters that are whole, but of another model."""


def _refuse_misfits(directory: Path, wanted: dict[str, jax.ShapeDtypeStruct], found: Mapping[str, Any]) -> None:
    expected = {name: tuple(array.shape) for name, array in wanted.items()}
    actual = {name: tuple(array.shape) for name, array in found.items()}
    problems = [
        f"  {name}: expected {expected.get(name, 'none')}, found {actual.get(name, 'none')}"
        for name in {**expected, **actual}
        if expected.get(name) != actual.get(name)
    ]
    if problems:
        raise Misfit(f"{directory} holds other parameters than the model has:\n" + "\n".join(problems[:20]))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
