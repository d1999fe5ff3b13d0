"""A tokenizer as a directory, the way Hugging Face's models carry it.

`tokenizer.json` says how text becomes ids, `tokenizer_config.json` what some tokens are for, and a chat template stands
in that file or beside it in `chat_template.jinja`.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.formats import storage, tokenizer_json
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.stages import Vocabulary

CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# The names under which a token that ends a document is known, where no file says which one it is.
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>", "[SEP]")


def write_folder(tokenizer: PipelineTokenizer, directory: str | PathLike[str]) -> None:
    """Writes the directory whole or not at all. Raises ValueError for what tokenizer.json can't express."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokenizer.roles}
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    storage.write(
        directory,
        {storage.FILE_NAME: storage.dump(tokenizer_json.describe(tokenizer)), CONFIG_FILE: storage.dump(config)},
    )


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
