"""A byte-level BPE as Hugging Face's tokenizer.json, and back.

What is written is read by the `tokenizers` library, which then gives the same ids, except that it always makes a
special token of text that looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxllm.tokenizers.byte_alphabet import to_bytes, to_text

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

# Features of the BPE model that change ids, with the values that mean that they are not used.
_UNUSED_FEATURES = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False, None),
    "ignore_merges": (False, None),
}


class Parts(NamedTuple):
    """What a byte-level BPE is made of, in the order of ByteBPE's arguments."""

    vocabulary: dict[bytes, int]
    merges: list[tuple[bytes, bytes]]
    split_pattern: str
    special_tokens: dict[str, int]


def describe(
    vocabulary: Mapping[bytes, int],
    merges: Sequence[tuple[bytes, bytes]],
    split_pattern: str,
    special_tokens: Mapping[str, int],
) -> dict[str, Any]:
    """The JSON object."""
    split = {"type": "Split", "pattern": {"Regex": split_pattern}, "behavior": "Isolated", "invert": False}
    ids = {to_text(token): i for token, i in vocabulary.items()} | dict(special_tokens)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]},
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(ids.items(), key=lambda item: item[1])),
            "merges": [f"{to_text(left)} {to_text(right)}" for left, right in merges],
        },
    }


def parse(description: Mapping[str, Any]) -> Parts:
    """The parts that describe() was given.

    Raises ValueError for a file that is malformed, or that asks for anything but a byte-level BPE of this form: what
    is not supported is named.
    """
    model = _object(description.get("model"), "model")
    if model.get("type") != "BPE":
        raise ValueError(f'the model is of type {model.get("type")!r}; only "BPE" is supported')
    for feature, unused in _UNUSED_FEATURES.items():
        if model.get(feature) not in unused:
            raise ValueError(f"the model's feature {feature}={model[feature]!r} is not supported")
    for step in ("normalizer", "post_processor", "truncation", "padding"):
        found = description.get(step)
        # ByteLevel as a post-processor moves offsets, not ids.
        if found is not None and not (step == "post_processor" and _object(found, step).get("type") == "ByteLevel"):
            raise ValueError(f"the {step} {_type_of(found)} is not supported")
    if _object(description.get("decoder"), "decoder").get("type") != "ByteLevel":
        raise ValueError(f"the decoder {_type_of(description['decoder'])} is not supported; expected ByteLevel")
    special = _special_tokens(description.get("added_tokens"))
    return Parts(
        _vocabulary(model.get("vocab"), special),
        [_merge(entry, rank) for rank, entry in enumerate(_list(model.get("merges"), "merges"))],
        _split_pattern(description.get("pre_tokenizer")),
        special,
    )


def _split_pattern(pre_tokenizer: Any) -> str:
    expected = "a Sequence of an isolating Split by a Regex and a ByteLevel that neither splits nor adds a space"
    found = _object(pre_tokenizer, "pre_tokenizer")
    match found:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    inside = [_type_of(step) for step in found.get("pretokenizers") or ()]
    described = _type_of(found) + (f" of {', '.join(inside)}" if inside else "")
    raise ValueError(f"the pre_tokenizer {described} is not supported in this form; expected {expected}")


def _special_tokens(added: Any) -> dict[str, int]:
    special: dict[str, int] = {}
    for entry in _list(added, "added_tokens"):
        match entry:
            case {"content": str(name), "id": int(token)} if name:
                pass
            case _:
                raise ValueError(f"an added token must have a content and an id, found {entry!r}")
        if name in special:
            raise ValueError(f"the added token {name!r} occurs twice")
        flags = [flag for flag in ("single_word", "lstrip", "rstrip", "normalized") if entry.get(flag)]
        if flags or not entry.get("special"):
            raise ValueError(f"the added token {name!r} is {', '.join(flags) or 'not special'}, which is not supported")
        special[name] = token
    return special


def _vocabulary(vocab: Any, special: Mapping[str, int]) -> dict[bytes, int]:
    vocabulary: dict[bytes, int] = {}
    for text, token in _object(vocab, "vocab").items():
        if type(token) is not int:
            raise ValueError(f"the id of {text!r} is {token!r}, not an integer")
        if text not in special:
            vocabulary[to_bytes(text)] = token
        elif token != special[text]:
            raise ValueError(f"the added token {text!r} has the id {special[text]}, but {token} in the vocabulary")
    return vocabulary


def _merge(entry: Any, rank: int) -> tuple[bytes, bytes]:
    """A merge is two tokens: a list of them in newer files, with a space between them in older ones."""
    parts = entry.split(" ") if isinstance(entry, str) else entry
    match parts:
        case [str(left), str(right)] if left and right:
            return to_bytes(left), to_bytes(right)
    raise ValueError(f"merge {rank} must be two tokens, found {entry!r}")


def _type_of(step: Any) -> str:
    return str(step["type"]) if isinstance(step, Mapping) and "type" in step else repr(step)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, found {type(value).__name__}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, found {type(value).__name__}")
    return value
