"""Training on tokens that are there already: a token store, or the token files of nanoGPT, llm.c or Megatron."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxllm.data.config import DataConfig
from jaxllm.data.split import split_of
from jaxllm.data.token_source import TokenSource
from jaxllm.data.token_store import TokenStore

if TYPE_CHECKING:
    from jaxllm.tokenizers import Tokenizer

# With fewer documents than this, whole documents are too coarse a unit to split by.
DOCUMENTS_FOR_NAME_SPLIT = 20


def is_prepared(path: str) -> bool:
    """Whether a path names tokens rather than text: the directory of a store, or a file .bin or .idx.

    Raises ValueError for the whole output of a recipe, where text that was kept lies beside text that was dropped.
    """
    if Path(path).suffix in (".bin", ".idx"):
        return True
    try:
        stated = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if isinstance(stated, dict) and stated.keys() >= {"made_from", "levels", "files"}:
        raise ValueError(
            f"data.path={path!r} is the output of `jaxllm data prepare`, which also holds what was dropped: name "
            f"{Path(path) / 'tokens'} or {Path(path) / 'documents'}"
        )
    # Other folders have manifests too; those of a store tell of its tokens.
    return isinstance(stated, dict) and stated.keys() >= {"format", "tokens", "tokenizer", "end_of_text"}


def open_tokens(path: str, tokenizer: Tokenizer) -> TokenSource:
    """Raises TokenStoreError for a store of another tokenizer, TokenFileError for ids outside its vocabulary, and both
    for what is damaged."""
    if Path(path).suffix not in (".bin", ".idx"):
        return TokenStore.open(path, tokenizer=tokenizer)
    if Path(path).with_suffix(".idx").is_file():
        from jaxllm.data.imports.megatron import open_megatron

        return open_megatron(path, end_of_text=tokenizer.end_of_text, vocab_size=tokenizer.vocab_size)
    from jaxllm.data.imports.nanogpt import open_nanogpt

    return open_nanogpt(path, end_of_text=tokenizer.end_of_text, vocab_size=tokenizer.vocab_size)


class PreparedTokens:
    """Tokens in place of documents, for `data.corpus`: they are split, not read."""

    def __init__(self, config: DataConfig):
        """Raises ValueError where the config asks for what can only be done to text."""
        turned = config.fill_in_the_middle
        if turned.rate and turned.scope == "document":
            raise ValueError(
                f"data.path={config.path!r} holds tokens, of which whole documents can't be turned any more: set "
                "data.fill_in_the_middle.scope=context"
            )
        self.config = config

    def texts(self, part: str) -> Iterator[str]:
        """There is no text: raises ValueError when it is asked for."""
        raise ValueError(
            f"data.path={self.config.path!r} holds tokens, on which no tokenizer can be trained: name the one that "
            "made them in tokenizer.path"
        )
        yield

    def split(self, tokenizer: Tokenizer) -> tuple[DocumentView, DocumentView, Literal["name", "tail"]]:
        """(training part, validation part, how they were split). Raises ValueError for a part without tokens."""
        source, config = open_tokens(self.config.path, tokenizer), self.config
        method = config.split
        held_out = np.zeros(source.documents, bool)
        if method != "tail":
            names = source.ids() if isinstance(source, TokenStore) else map(str, range(source.documents))
            held_out[:] = [split_of(name, config.validation_fraction) == "validation" for name in names]
        if method == "auto":
            enough = source.documents >= DOCUMENTS_FOR_NAME_SPLIT and held_out.any() and not held_out.all()
            method = "name" if enough else "tail"
        everything, lengths = np.arange(source.documents), source.lengths
        if method == "name":
            train, validation = (
                DocumentView.of(source, documents, np.zeros(len(documents), np.int64), lengths[documents])
                for documents in (everything[~held_out], everything[held_out])
            )
        else:
            cuts = ((1 - config.validation_fraction) * lengths).astype(np.int64)
            train = DocumentView.of(source, everything, np.zeros_like(cuts), cuts)
            validation = DocumentView.of(source, everything, cuts, lengths)
        for part, view in (("train", train), ("validation", validation)):
            if not view.documents:
                raise ValueError(
                    f"the {part} part of {config.path!r} has no tokens (split by {method}, "
                    f"data.validation_fraction={config.validation_fraction}): change that, or use data.split=tail"
                )
        return train, validation, method


@dataclass(frozen=True, eq=False)
class DocumentView:
    """A `TokenSource` of some documents of another, or of parts of them: document d is tokens begins[d] to before
    ends[d] of its document chosen[d]."""

    source: TokenSource
    chosen: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    fingerprint: str

    @classmethod
    def of(cls, source: TokenSource, chosen: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> DocumentView:
        """Parts without tokens are left out."""
        kept = ends > begins
        arrays = [np.ascontiguousarray(array[kept], np.int64) for array in (chosen, begins, ends)]
        digest = hashlib.sha256(source.fingerprint.encode())
        for array in arrays:
            digest.update(array)
        return cls(source, *arrays, digest.hexdigest())

    @property
    def documents(self) -> int:
        return len(self.chosen)

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the documents; of parts and of other programs' files, 0 for not known."""
        store = self.source
        if not isinstance(store, TokenStore) or not np.array_equal(self.lengths, store.lengths[self.chosen]):
            return 0
        return int(store.document_bytes[self.chosen].sum())

    @property
    def end_of_text(self) -> int:
        return self.source.end_of_text

    @property
    def lengths(self) -> np.ndarray:
        return self.ends - self.begins

    def lengths_of(self, begin: int, end: int) -> np.ndarray:
        return self.ends[begin:end] - self.begins[begin:end]

    def read(self, document: int, begin: int, end: int) -> np.ndarray:
        first, last = int(self.begins[document]), int(self.ends[document])
        return self.source.read(int(self.chosen[document]), first + begin, min(first + end, last))
