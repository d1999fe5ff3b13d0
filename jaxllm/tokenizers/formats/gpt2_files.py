"""A byte-level BPE in GPT-2's two files: the ids of tokens as JSON, and the merges, one a line.

They are called vocab.json and merges.txt, or encoder.json and vocab.bpe as GPT-2 was released. They hold no pattern,
and don't say which tokens are special.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

from jaxllm.tokenizers.formats import storage
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.vocabularies.byte_alphabet import to_bytes, to_text
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.byte_level import byte_level_tokenizer

VOCABULARY_NAMES, MERGES_NAMES = ("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")


def read_gpt2(
    directory: str | PathLike[str],
    *,
    split: str = SPLIT_PATTERNS["gpt2"],
    special_tokens: tuple[str, ...] = (END_OF_TEXT,),
) -> PipelineTokenizer:
    """The tokenizer of a directory with both files. special_tokens: which tokens are no text; the first ends documents.

    Raises ValueError, naming the file, for one that is missing or malformed, and for special tokens without an id.
    """
    vocabulary_file = _present(directory, VOCABULARY_NAMES)
    merges_file = _present(directory, MERGES_NAMES)
    ids = storage.read_object(vocabulary_file)
    try:
        special = _pop_special(ids, special_tokens)
        tokens = {to_bytes(text): i for text, i in ids.items()}
    except ValueError as error:
        raise ValueError(f"{vocabulary_file}: {error}") from error
    merges = read_merges(merges_file)
    try:
        vocabulary = ByteLevelBPE(tokens, merges)
        return byte_level_tokenizer(vocabulary, split, special, special_tokens[0])
    except ValueError as error:
        raise ValueError(f"{vocabulary_file} and {merges_file.name}: {error}") from error


def _pop_special(ids: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    for text, i in ids.items():
        if type(i) is not int:
            raise ValueError(f"the id of {text!r} is {i!r}, not an integer")
    absent = [name for name in names if name not in ids]
    if absent:
        raise ValueError(f"the special tokens {absent} have no id; name those that the vocabulary has")
    return {name: ids.pop(name) for name in names}


def _present(directory: str | PathLike[str], names: tuple[str, ...]) -> Path:
    found = next((Path(directory) / name for name in names if (Path(directory) / name).is_file()), None)
    if found is None:
        raise ValueError(f"{directory}: has neither {' nor '.join(names)}; a byte-level BPE of GPT-2's kind needs it")
    return found


def read_merges(path: str | PathLike[str]) -> list[tuple[bytes, bytes]]:
    """The merges, the lowest rank first. Raises ValueError, naming the file and the line, for what is no merge."""
    merges = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        match line.split(" "):
            case [left, right] if left and right:
                try:
                    merges.append((to_bytes(left), to_bytes(right)))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
            case _:
                raise ValueError(f"{path}, line {number}: expected two tokens and a space between, found {line[:80]!r}")
    return merges


def write_gpt2(directory: str | PathLike[str], tokenizer: PipelineTokenizer) -> None:
    """Writes vocab.json and merges.txt. Raises ValueError unless the vocabulary is a byte-level BPE of merges.

    What these files can't say is lost: the pattern, and which tokens are special.
    """
    vocabulary = tokenizer.vocabulary
    if not isinstance(vocabulary, ByteLevelBPE):
        raise ValueError(f"vocab.json and merges.txt hold a byte-level BPE, not a {type(vocabulary).__name__}")
    if vocabulary.ignore_merges:
        raise ValueError(
            "vocab.json and merges.txt can't say that a whole piece that is a token becomes it at once "
            "(ignore_merges); write tokenizer.json instead"
        )
    ids = {text: i for i, text in vocabulary.tokens()} | {token.content: token.id for token in tokenizer.added_tokens}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(f"{to_text(left)} {to_text(right)}" for left, right in vocabulary.merges), ""]
    storage.replace_file(directory / "merges.txt", "\n".join(lines).encode("utf-8"))
    ordered = dict(sorted(ids.items(), key=lambda item: item[1]))
    storage.replace_file(directory / "vocab.json", json.dumps(ordered, ensure_ascii=False).encode("utf-8"))
