"""BERT's vocab.txt: a token a line, whose id is the number of the line, from 0."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from jaxllm.tokenizers.formats import storage


def read_vocab(path: str | PathLike[str]) -> dict[str, int]:
    """The id of each token. Raises ValueError for a file that is not UTF-8, is empty, or has a token twice."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}; convert it first") from error
    # Only these end a line: a token may be any other separator of Unicode, such as U+2028.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise ValueError(f"{path} has no tokens; expected a token on each line")
    vocab: dict[str, int] = {}
    for i, token in enumerate(lines):
        if vocab.setdefault(token, i) != i:
            raise ValueError(
                f"{path}: line {i + 1} has the token {token!r}, which line {vocab[token] + 1} has too; the id of a "
                "token is the number of its line, so each may occur once"
            )
    return vocab


def write_vocab(path: str | PathLike[str], vocab: Mapping[str, int]) -> None:
    """Writes what read_vocab reads. Raises ValueError, and writes nothing, for what such a file can't say."""
    tokens = {i: token for token, i in vocab.items()}
    missing = next((i for i in range(len(vocab)) if i not in tokens), None)
    if missing is not None:
        raise ValueError(
            f"the ids of a vocab.txt are 0 .. {len(vocab) - 1}, each once, but none of the tokens has {missing}; write "
            "tokenizer.json instead"
        )
    lines = [tokens[i] for i in range(len(vocab))]
    bad = next((token for token in lines if not token or "\n" in token or token.endswith("\r")), None)
    if bad is not None:
        raise ValueError(f"the token {bad!r} can't be a line of a vocab.txt; write tokenizer.json instead")
    storage.replace_file(path, "".join(f"{token}\n" for token in lines).encode("utf-8"))
