"""config.json, of which every entry that changes the computation must be asked for: what is left over is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxllm.config import did_you_mean

T = TypeVar("T")
CONFIG_FILE = "config.json"

# Entries that say nothing of what the model computes: names and versions, special tokens (read elsewhere), how it was
# or would be trained, what its Python class returns.
HARMLESS = frozenset({
    *("_name_or_path", "_commit_hash", "architectures", "auto_map", "finetuning_task", "model_type", "prefix"),
    *("problem_type", "task_specific_params", "tokenizer_class", "transformers.js_config", "transformers_version"),
    *("unsloth_fixed", "unsloth_version"),
    # Tokens, labels.
    *("bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id"),
    *("forced_eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "bad_words_ids"),
    *("begin_suppress_tokens", "id2label", "label2id"),
    # How its Python class computes and what it returns.
    *("_attn_implementation", "_attn_implementation_autoset", "chunk_size_feed_forward", "dtype", "is_decoder"),
    *("gradient_checkpointing", "keys_to_ignore_at_inference", "max_length", "output_attentions"),
    *("output_hidden_states", "output_router_logits", "pretraining_tp", "return_dict", "torch_dtype", "torchscript"),
    *("use_bfloat16", "use_cache", "use_flash_attn", "use_mamba_kernels"),
    # Training: initial values, dropout, further losses.
    *("initializer_range", "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout"),
    *("embd_pdrop", "embedding_dropout", "hidden_dropout", "hidden_dropout_prob", "resid_dropout", "resid_pdrop"),
    *("aux_loss_alpha", "router_aux_loss_coef", "router_jitter_noise", "seq_aux"),
    # The head of a classifier made of it.
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
})  # fmt: skip

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}


class ConfigFile:
    """The entries of a config.json; each question marks an entry as honoured. A null counts as not there."""

    def __init__(self, entries: Mapping[str, Any], source: str = CONFIG_FILE):
        self._entries, self.source = dict(entries), source
        self._left = {name for name, value in entries.items() if name not in HARMLESS and not _is_off(value)}

    def __contains__(self, name: str) -> bool:
        return self._entries.get(name) is not None

    def mentions(self, name: str) -> bool:
        """Whether it is there, be it as null: where a family's default is not nothing, null says nothing."""
        return name in self._entries

    def is_text(self, name: str) -> bool:
        return isinstance(self._entries.get(name), str)

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.source}: {message}")

    def integer(self, name: str, default: int | None = None) -> int:
        return self._typed(name, default, "a whole number", lambda value: type(value) is int)

    def number(self, name: str, default: float | None = None) -> float:
        accepted = self._typed(name, default, "a number", lambda value: type(value) in (int, float))
        return float(accepted)

    def flag(self, name: str, default: bool | None = None) -> bool:
        return self._typed(name, default, "true or false", lambda value: type(value) is bool)

    def text(self, name: str, default: str | None = None) -> str:
        return self._typed(name, default, "a text", lambda value: type(value) is str)

    def object(self, name: str) -> dict[str, Any]:
        """{} where it is not there."""
        return self._typed(name, {}, "an object", lambda value: type(value) is dict)

    def list(self, name: str, default: list | None = None) -> list:
        return self._typed(name, default, "a list", lambda value: type(value) is list)

    def one_of(self, name: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """What the text stands for. Raises ValueError, naming the choices, for another one."""
        value = self.text(name, default)
        if value not in choices:
            raise self.error(f"{name}={value!r} is not supported; supported: {', '.join(map(repr, choices))}")
        return choices[value]

    def activation(self, name: str = "hidden_act", default: str = "silu") -> Any:
        return self.one_of(name, _ACTIVATIONS, default)

    def only(self, name: str, *supported: Any) -> None:
        """Raises ValueError unless the entry is absent or one of these."""
        self._left.discard(name)
        value = self._entries.get(name)
        same_kind = lambda one: isinstance(one, bool) == isinstance(value, bool)  # noqa: E731 - 1 is not true
        if value is not None and not any(value == one and same_kind(one) for one in supported):
            raise self.error(
                f"{name}={json.dumps(value)} is not supported; supported: {', '.join(map(json.dumps, supported))}"
            )

    def ignore(self, *names: str) -> None:
        """Of these only this family knows that they change nothing."""
        self._left.difference_update(names)

    def finish(self) -> None:
        """Raises ValueError when entries are left that nothing asked for."""
        if self._left:
            listed = ", ".join(f"{name}={json.dumps(self._entries[name])[:60]}" for name in sorted(self._left))
            raise self.error(f"not supported for model_type {self._entries.get('model_type')!r}: {listed}")

    def _typed(self, name: str, default: Any, expected: str, is_right: Callable[[Any], bool]) -> Any:
        self._left.discard(name)
        value = self._entries.get(name)
        if value is None:
            if default is None:
                raise self.error(f"{name} is missing{did_you_mean(name, self._entries)}")
            return default
        if not is_right(value):
            raise self.error(f"{name} must be {expected}, found {json.dumps(value)[:60]}")
        return value


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in (0, "", [], {})


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError if it is none."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must be a JSON object, found a {type(entries).__name__}")
    return entries


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
