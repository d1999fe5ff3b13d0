"""A tokenizer as a directory, the way Hugging Face's models carry it.

`tokenizer.json` (or SentencePiece's `tokenizer.model`) says how text becomes ids, `tokenizer_config.json` what some
tokens are for, and a chat template stands in that file or beside it in `chat_template.jinja`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.formats import storage, tokenizer_json
from jaxllm.tokenizers.formats.sentencepiece_model import read_sentencepiece, serialize_sentencepiece
from jaxllm.tokenizers.formats.sentencepiece_tokenizer import is_sentencepiece, model_of_tokenizer, tokenizer_of_model
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.stages import Vocabulary
from jaxllm.tokenizers.template import simple_template

CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
MODEL_NAMES = ("tokenizer.model", "spiece.model")  # the second is T5's

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# The names under which a token that ends a document is known, where no file says which one it is.
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>", "[SEP]")


def write_folder(tokenizer: PipelineTokenizer, directory: str | PathLike[str]) -> None:
    """Writes the directory whole or not at all: with SentencePiece's own model where a text is prepared as it does it,
    else with a tokenizer.json. Raises ValueError for what that can't express."""
    config = {"clean_up_tokenization_spaces": False, **tokenizer.roles}
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    name, content = _content(tokenizer)
    if name in MODEL_NAMES:
        config |= {"tokenizer_class": "LlamaTokenizer", **_ends(tokenizer)}
    else:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    storage.write(directory, {name: content, CONFIG_FILE: storage.dump(config).encode()})


def fingerprint(tokenizer: PipelineTokenizer) -> str:
    """What is written of it, but for its chat template, as a SHA-256 in hexadecimal digits."""
    name, content = _content(tokenizer)
    if name in MODEL_NAMES:
        described = {"model": hashlib.sha256(content).hexdigest(), **_ends(tokenizer)}
    else:
        described = tokenizer_json.describe(tokenizer)
    everything = {"tokenizer": described, "roles": tokenizer.roles}
    text = json.dumps(everything, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _content(tokenizer: PipelineTokenizer) -> tuple[str, bytes]:
    """The file that says how text becomes ids."""
    if is_sentencepiece(tokenizer):
        return MODEL_NAMES[0], serialize_sentencepiece(model_of_tokenizer(tokenizer))
    return storage.FILE_NAME, storage.dump(tokenizer_json.describe(tokenizer)).encode()


def _ends(tokenizer: PipelineTokenizer) -> dict[str, bool]:
    """Whether the template puts tokens around a text: the roles' own, or it can't be said."""
    head, tail = tokenizer.template.around() if tokenizer.template else ([], [])
    ids = {role: tokenizer.special_tokens.get(name) for role, name in tokenizer.roles.items()}
    if head not in ([], [ids.get("bos_token")]) or tail not in ([], [ids.get("eos_token")]):
        raise ValueError(
            "beside SentencePiece's model only a bos_token before a text and an eos_token behind it can be said, but "
            f"the template has the ids {head} and {tail}"
        )
    return {"add_bos_token": bool(head), "add_eos_token": bool(tail)}


def read_model_folder(file: Path) -> PipelineTokenizer:
    """The tokenizer of a SentencePiece model, with what the files beside it say of it.

    Raises ValueError, naming the file, if one is damaged or asks for what is not supported.
    """
    tokenizer = tokenizer_of_model(read_sentencepiece(file))
    config_file = file.parent / CONFIG_FILE
    if not config_file.is_file():
        return tokenizer
    config = storage.read_object(config_file)
    try:
        roles = tokenizer.roles | _present(_roles(config), tokenizer.vocabulary, tokenizer.added_tokens)
        ids = {role: tokenizer.special_tokens.get(name) for role, name in roles.items()}
        ends = [
            ids.get(role) if config.get(name) is True else None
            for name, role in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token"))
        ]
        template = _chat_template(config, file.parent)
        return tokenizer.replace(roles=roles, template=simple_template(*ends), chat_template=template)
    except ValueError as error:
        raise ValueError(f"{config_file}: {error}") from error


def read_folder(path: str | PathLike[str]) -> PipelineTokenizer:
    """The tokenizer of a directory, or of a tokenizer.json; what lies beside that file belongs to it.

    Raises ValueError, naming the file, if it is not there, damaged, or asks for what is not supported.
    """
    file, description = storage.read(path)
    beside = file.parent if Path(path).is_dir() or file.name == storage.FILE_NAME else None
    config_file = beside / CONFIG_FILE if beside else None
    config = storage.read_object(config_file) if config_file and config_file.is_file() else {}
    try:
        template = _chat_template(config, beside)
        roles = _roles(config)
    except ValueError as error:
        raise ValueError(f"{config_file}: {error}") from error
    try:
        parts = tokenizer_json.parts(description)
        roles = _present(roles, parts["vocabulary"], parts["added_tokens"]) or _guessed(parts["added_tokens"])
        return PipelineTokenizer(**parts, roles=roles, chat_template=template)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _roles(config: dict[str, Any]) -> dict[str, str]:
    """A token is given by its content, or by an object that has it."""
    roles = {}
    for role in ROLES:
        match config.get(role):
            case None:
                pass
            case str(content) | {"content": str(content)}:
                roles[role] = content
            case other:
                raise ValueError(f"{role} must be a token, found {other!r}")
    return roles


def _present(roles: dict[str, str], vocabulary: Vocabulary, added: Sequence[AddedToken]) -> dict[str, str]:
    """Configs name tokens that their vocabulary never got, such as a pad_token; an end of text must be there."""
    known = {token for _, token in vocabulary.tokens()} | {token.content for token in added}
    return {role: name for role, name in roles.items() if name in known or role == "eos_token"}


def _guessed(added: Sequence[AddedToken]) -> dict[str, str]:
    special = {token.content for token in added if token.special}
    end = next((name for name in _ENDS if name in special), None)
    return {"eos_token": end} if end else {}


def _chat_template(config: dict[str, Any], directory: Path | None) -> str | None:
    if directory and (directory / TEMPLATE_FILE).is_file():
        return (directory / TEMPLATE_FILE).read_text(encoding="utf-8")
    match config.get("chat_template"):
        case None | str() as template:
            return template
        case [*named]:
            # Several under names; the one named default is for ordinary conversations.
            for entry in named:
                match entry:
                    case {"name": "default", "template": str(template)}:
                        return template
    raise ValueError("chat_template must be a text, or a list with one that is named default")
