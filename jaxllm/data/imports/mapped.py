"""Documents as ranges of one flat array of ids: what the token files of most programs come down to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Bytes of the begin and the end of a file that go into its fingerprint, besides its size and its documents: all of a
# file of terabytes would take hours to read.
_SAMPLED = 2**20


class TokenFileError(ValueError):
    """A file of tokens is missing, damaged, or not of the kind that was asked for."""


@dataclass(frozen=True, eq=False)
class MappedDocuments:
    """A `TokenSource`: document d is tokens[begins[d] : ends[d]]. Documents without tokens are left out."""

    path: Path
    tokens: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    end_of_text: int
    fingerprint: str

    @classmethod
    def of(cls, path: Path, tokens: np.ndarray, begins: np.ndarray, ends: np.ndarray, end: int) -> MappedDocuments:
        """Raises TokenFileError where no document has any token."""
        kept = ends > begins
        begins, ends = begins[kept].astype(np.int64), ends[kept].astype(np.int64)
        if not len(begins):
            raise TokenFileError(f"{path}: holds no document with any token")
        digest = hashlib.sha256(f"{tokens.dtype.str} {len(tokens)} {end}".encode())
        sampled = _SAMPLED // tokens.itemsize
        for part in (tokens[:sampled], tokens[-sampled:], begins, ends):
            digest.update(np.ascontiguousarray(part))
        return cls(path, tokens, begins, ends, end, digest.hexdigest())

    @property
    def documents(self) -> int:
        return len(self.begins)

    num_bytes = 0
    """of text: not known"""

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def lengths(self) -> np.ndarray:
        return self.ends - self.begins

    def lengths_of(self, begin: int, end: int) -> np.ndarray:
        return self.ends[begin:end] - self.begins[begin:end]

    def read(self, document: int, begin: int, end: int) -> np.ndarray:
        start, stop = int(self.begins[document]), int(self.ends[document])
        return self.tokens[start + begin : min(start + end, stop)]

    def check_ids(self, vocab_size: int) -> None:
        """Reads all ids once. Raises TokenFileError, naming its place, for one outside a vocabulary of this size."""
        step = 2**24
        for at in range(0, len(self.tokens), step):
            wrong = np.flatnonzero((self.tokens[at : at + step] >= vocab_size) | (self.tokens[at : at + step] < 0))
            if len(wrong):
                place = at + int(wrong[0])
                raise TokenFileError(
                    f"{self.path}: token {place} is {int(self.tokens[place])}, outside a vocabulary of {vocab_size}: "
                    "the file was made with another tokenizer, or its type is not the one read"
                )


def map_tokens(path: Path, dtype: str, offset: int = 0) -> np.ndarray:
    """A file's ids from byte `offset` on. Raises TokenFileError where it is missing or not of whole ids."""
    try:
        size = path.stat().st_size - offset
    except OSError as error:
        raise TokenFileError(f"{path}: can't be read: {error.strerror}") from error
    width = np.dtype(dtype).itemsize
    if size % width or size < width:
        raise TokenFileError(
            f"{path}: {size} bytes of tokens are no whole number of {width}-byte ids: the file is cut short, empty, or "
            "of another kind"
        )
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset))


def between(tokens: np.ndarray, separator: int) -> tuple[np.ndarray, np.ndarray]:
    """(begins, ends) of the stretches between separators; reads every id once, a piece at a time."""
    step = 2**24
    found = [at + np.flatnonzero(tokens[at : at + step] == separator) for at in range(0, len(tokens), step)]
    cuts = np.concatenate(found).astype(np.int64)
    return np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(tokens)]])
