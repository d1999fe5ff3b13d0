"""A language model is a value: a config, parameters and a tokenizer; loaded from what training or `save` wrote."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath

from jaxllm import config as configs
from jaxllm import tokenizers
from jaxllm.data.atomic import new_directory
from jaxllm.inference.text_encoder import TextEncoder, load_text_encoder
from jaxllm.interop.gguf import is_gguf, load_gguf
from jaxllm.interop.huggingface import load_huggingface, save_huggingface
from jaxllm.interop.huggingface.beyond_decoders import is_other_model
from jaxllm.interop.llama2c import load_llama2c
from jaxllm.interop.named_models import NAMED_MODELS, files_of
from jaxllm.models import Decoder, ModelConfig, decoder_spec
from jaxllm.models.config.migrations import model_from_version_1
from jaxllm.models.declare import abstract
from jaxllm.parallel.sharding import Layout, param_shardings
from jaxllm.tokenizers import Tokenizer
from jaxllm.tokenizers.template import Template
from jaxllm.training.checkpoints import flatten
from jaxllm.training.digest import digests
from jaxllm.training.history import read_history
from jaxllm.training.remote_run import copy_small_files, is_remote
from jaxllm.training.shipped import restore_params

MODEL_FILE = "model.json"
FORMATS = ("jaxllm", "huggingface")
Begin = Literal["end_of_text", "tokenizer"]
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
    family: str = ""
    """model_type of the Hugging Face directory that it was read from."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """Everything that turns text into text.

    Raises ValueError when the tokenizer has tokens that the model has no row for.
    """

    config: ModelConfig
    params: Decoder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    origin: Origin = Origin()
    stop_tokens: tuple[int, ...] = ()
    """Ids that end an answer besides the tokenizer's end of text, such as the end of a turn."""
    begin: Begin = "end_of_text"
    """What stands before a text: the mark between documents, as in training here, or what the tokenizer puts there, as
    in models of other programs."""

    def __post_init__(self):
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens, the model only {self.config.vocab_size}: "
                "they do not belong together"
            )
        if wrong := [token for token in self.stop_tokens if not 0 <= token < self.config.vocab_size]:
            raise ValueError(f"stop_tokens has {wrong[0]}, but the ids are 0 to {self.config.vocab_size - 1}")

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids after which the model has said what it wanted to."""
        ends = self.stop_tokens
        if self.begin == "end_of_text" or "eos_token" in self.tokenizer.roles:
            ends = (self.tokenizer.end_of_text, *ends)
        return tuple(dict.fromkeys(ends))

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text at the beginning of a document; of "" at least one, for the model to begin by itself."""
        tokenizer = self.tokenizer
        if self.begin == "end_of_text":
            return [tokenizer.end_of_text, *tokenizer.encode(text)]
        ids = tokenizer.encode(text, add_special_tokens=True)
        if ids:
            return ids
        begin = tokenizer.roles.get("bos_token")
        return [tokenizer.end_of_text if begin is None else tokenizer.special_tokens[begin]]


def load(
    path: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    tokenizer: str | PathLike[str] | None = None,
    layout: Layout | None = None,
    dtype: Any = None,
) -> LanguageModel | TextEncoder:
    """The model at `path`: a run directory (its newest whole checkpoint), also one in a bucket (gs://, s3://), one
    checkpoint in it, or what `save` wrote; a Hugging Face directory (config.json, safetensors, tokenizer); a GGUF file
    (a list of files: its parts); a checkpoint of llama2.c; or the name of a model in an installed package. A directory
    of BERT or its relatives gives a `TextEncoder`.

    Of a run it takes the parameters that the run evaluates: their moving average where one is kept. `tokenizer` names
    the vocabulary of a model that does not bring its own (llama2.c); `layout` is how the parameters are sharded, by
    default they lie on the first local device; `dtype` is that of the parameters, and of the computation, float32 or
    bfloat16; by default float32. Raises ValueError when `path` is none of these, and when what it holds is damaged, not
    supported or from a newer version.
    """
    if isinstance(path, str | PathLike) and is_remote(path):
        return _sharded(_load_from_bucket(epath.Path(path), dtype), layout)
    if isinstance(path, str | PathLike) and not _is_run(Path(path)) and is_other_model(Path(path)):
        return load_text_encoder(path, layout=layout, dtype=dtype)
    return _sharded(_load(path, tokenizer, layout, dtype), layout)


def _sharded(lm: LanguageModel, layout: Layout | None) -> LanguageModel:
    if layout is None:
        return lm
    shardings = param_shardings(decoder_spec(lm.config), layout)  # which is where those of large models lie already
    return replace(lm, params=jax.device_put(lm.params, shardings))


def _load(path: Any, tokenizer: str | PathLike[str] | None, layout: Layout | None, dtype: Any) -> LanguageModel:
    if not isinstance(path, str | PathLike):
        return _load_gguf(path, layout, dtype)
    if (found := _foreign(Path(path), tokenizer, layout, dtype)) is not None:
        return found
    if tokenizer is not None:
        raise ValueError(f"tokenizer names the vocabulary of a llama2.c checkpoint; {path} has its own")
    return _cast(_load_own(Path(path)), dtype)


def _cast(lm: LanguageModel, dtype: Any) -> LanguageModel:
    if dtype is None:
        return lm
    params = jax.tree.map(lambda x: x.astype(dtype), lm.params)
    return replace(lm, params=params, config=replace(lm.config, compute_dtype=jnp.dtype(dtype).name))


def _foreign(
    path: Path, tokenizer: str | PathLike[str] | None, layout: Layout | None, dtype: Any
) -> LanguageModel | None:
    """A model of another program; None if there is none at this path."""
    if not path.exists() and str(path) in NAMED_MODELS:
        return _load_gguf(files_of(str(path)), layout, dtype)
    if path.is_dir() and (path / "config.json").is_file() and not ((path / MODEL_FILE).exists() or _is_run(path)):
        return _load_huggingface(path, tokenizer, layout, dtype)
    if not path.is_file():
        return None
    if is_gguf(path):
        return _load_gguf(path, layout, dtype)
    if path.suffix == ".bin":
        config, params, vocabulary, stops = load_llama2c(path, tokenizer=tokenizer, dtype=dtype)
        return LanguageModel(config, params, vocabulary, Origin(path.stem), stops, "tokenizer")
    return None


def _load_huggingface(
    path: Path, vocabulary: str | PathLike[str] | None, layout: Layout | None, dtype: Any
) -> LanguageModel:
    config, params, tokenizer, stops, family = load_huggingface(path, layout=layout, dtype=dtype)
    if vocabulary is not None:
        tokenizer = tokenizers.load(vocabulary)
    if tokenizer is None:
        raise ValueError(
            f"{path} has no tokenizer: copy tokenizer.json and tokenizer_config.json into it, name one with "
            "load(path, tokenizer=...), or read the parameters alone with "
            "jaxllm.interop.huggingface.load_huggingface"
        )
    return LanguageModel(config, params, tokenizer, Origin(path.resolve().name, family=family), stops, "tokenizer")


def _load_gguf(source: Any, layout: Layout | None, dtype: Any) -> LanguageModel:
    name, config, params, tokenizer, stops = load_gguf(source, layout=layout, dtype=dtype)
    return LanguageModel(config, params, tokenizer, Origin(name), stops, "tokenizer")


def _load_own(path: Path) -> LanguageModel:
    if (path / MODEL_FILE).is_file():
        return _load_saved(path)
    if _is_run(path):
        return _load_run(path)
    if path.is_dir() and path.name.isdigit() and _is_run(path.parent.parent):
        return _load_run(path.parent.parent, int(path.name))
    found = f"{path} is no model" if path.exists() else f"there is no {path}"
    raise ValueError(
        f"{found}: looked for a run directory (config.json, checkpoints/), a checkpoint of a run "
        f"(RUN/checkpoints/STEP), a saved model ({MODEL_FILE}, params/, tokenizer/), a Hugging Face directory "
        f"(config.json, *.safetensors), a GGUF file, a checkpoint of llama2.c (.bin) and the names "
        f"{', '.join(NAMED_MODELS)}"
    )


def save(lm: LanguageModel, path: str | Path, format: str = "jaxllm") -> None:
    """Write a model to a new directory, whole or not at all, for `load` to read on any machine.

    The format "huggingface" is what transformers reads. Raises ValueError for a format that is not supported, for a
    model that it can't express, and for a path that is in use or cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; supported: {', '.join(FORMATS)}")
    path = Path(path).absolute()
    try:
        _save_huggingface(lm, path) if format == "huggingface" else _save_own(lm, path)
    except OSError as error:
        raise ValueError(f"the model cannot be saved to {path}: {error}") from error


def _save_huggingface(lm: LanguageModel, path: Path) -> None:
    tokenizer = lm.tokenizer
    if lm.begin == "end_of_text" and tokenizer.template is None:
        # There it is the tokenizer that puts a mark before a text, or nothing does.
        tokenizer = tokenizer.replace(template=Template(single=((tokenizer.end_of_text, 0), ("A", 0))))
    save_huggingface(path, lm.config, lm.params, tokenizer, stop_tokens=lm.ends, family=lm.origin.family)


def _save_own(lm: LanguageModel, path: Path) -> None:
    arrays = flatten(lm.params)
    card = ModelCard(
        origin=lm.origin,
        model=lm.config,
        tokenizer=lm.tokenizer.fingerprint(),
        stop_tokens=lm.stop_tokens,
        begin=lm.begin,
        digests=tuple(Digest(name, value) for name, value in digests(arrays).items()),
    )
    with new_directory(path) as staged:
        _write_arrays(staged / "params", arrays)
        lm.tokenizer.save(staged / "tokenizer")
        (staged / MODEL_FILE).write_text(configs.to_json(card) + "\n", encoding="utf-8")


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
    stop_tokens: tuple[int, ...] = ()
    """Ids that end an answer besides the end of text."""
    begin: Begin = "end_of_text"
    """What stands before a text."""
    version: int = 2
    """Version of these fields."""


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _load_from_bucket(address: epath.Path, dtype: Any) -> LanguageModel:
    """A run or one checkpoint of it; its small files are read from a copy, its arrays where they are."""
    step = int(address.name) if address.name.isdigit() else None
    run = address if step is None else address.parent.parent
    if not (run / "config.json").exists():
        raise ValueError(f"there is no run at {run}: no config.json. Of other models, copy the directory here first")
    with tempfile.TemporaryDirectory() as copy:
        copy_small_files(run, Path(copy))
        return _cast(_load_run(Path(copy), step, arrays=run), dtype)


def _load_run(run: Path, step: int | None = None, arrays: PathLike[str] | None = None) -> LanguageModel:
    """`arrays` is the run whose checkpoints are read, where they do not lie beside the rest."""
    arrays = run if arrays is None else arrays
    experiment, params, step = restore_params(arrays, step)
    rows = [row for row in read_history(run).evaluations if row["step"] == step]
    scores = {name: rows[-1][name] for name in ("val_loss", "val_bpb") if rows and _is_finite(rows[-1].get(name))}
    name = epath.Path(arrays).name if is_remote(arrays) else Path(arrays).resolve().name
    origin = Origin(name=name, step=step, **scores)
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
    return LanguageModel(card.model, params, tokenizer, card.origin, card.stop_tokens, card.begin)


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
