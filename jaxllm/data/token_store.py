"""Tokenized documents on disk: shards of memory maps and a manifest over them.

A store is a directory of shards (jaxllm/data/token_shard.py) and `manifest.json`. A store appears as a whole
(`create_token_store`, `write_token_store`), or shard by shard: written in a row and taken up again after a kill
(`resume_token_store`), or by any processes in any order (`write_shard`, and `join_shards` when all are there). The same
documents, tokenizer and shard size give the same bytes each way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from jaxllm.data.atomic import new_directory, new_file
from jaxllm.data.shard_writer import PLAIN, Layout, ShardWriter, write_shard
from jaxllm.data.token_shard import (
    FORMAT,
    Shard,
    ShardManifest,
    TokenStoreError,
    check_fields,
    check_fingerprint,
    check_size,
    read_json,
)

if TYPE_CHECKING:
    from jaxllm.data.documents import Document
    from jaxllm.tokenizers import Tokenizer

__all__ = [
    "Layout",
    "Manifest",
    "TokenStore",
    "TokenStoreError",
    "check_fingerprint",
    "create_token_store",
    "join_shards",
    "resume_token_store",
    "write_shard",
    "write_token_store",
]


@dataclass(frozen=True)
class Manifest:
    """What a store says about itself: the sums of its shards, and what these have in common."""

    format: int
    documents: int
    empty_documents: int
    tokens: int
    bytes: int
    dtype: str
    vocab_size: int
    end_of_text: int
    tokenizer: str
    encoding: str
    sha256: str
    """of the ids; of several shards, the SHA-256 of their hashes one after another"""
    source: str
    shards: dict[str, ShardManifest]
    """each shard's directory and what it says, in order"""

    @classmethod
    def over(cls, shards: dict[str, ShardManifest], source: str, where: str) -> Manifest:
        """Raises TokenStoreError where shards do not belong together or hold no document at all."""
        parts = list(shards.values())
        first = parts[0]
        for name, part in shards.items():
            if part.same_kind() != first.same_kind():
                raise TokenStoreError(
                    f"{where}: shard {name} was made otherwise than shard {next(iter(shards))} (tokenizer, encoding or "
                    "compression); write it again"
                )
        total = lambda field: sum(getattr(part, field) for part in parts)  # noqa: E731
        if not total("documents"):
            raise TokenStoreError(
                f"there is nothing to store: {total('empty_documents')} documents, none of them with text"
            )
        hashes = "".join(part.sha256 for part in parts)
        return cls(
            format=FORMAT,
            documents=total("documents"),
            empty_documents=total("empty_documents"),
            tokens=total("tokens"),
            bytes=total("bytes"),
            dtype=first.dtype,
            vocab_size=first.vocab_size,
            end_of_text=first.end_of_text,
            tokenizer=first.tokenizer,
            encoding=first.encoding,
            sha256=first.sha256 if len(parts) == 1 else hashlib.sha256(hashes.encode()).hexdigest(),
            source=source,
            shards=shards,
        )

    def write(self, directory: Path) -> None:
        """By a rename, so that a directory is a store from one moment to the next."""
        with new_file(directory / "manifest.json") as file:
            file.write(json.dumps(asdict(self), indent=2).encode())


class TokenStore:
    """An open store: documents 0 .. documents - 1, each a run of ids. Shards are mapped when they are first read."""

    def __init__(self, directory: Path, manifest: Manifest):
        self.directory, self.manifest = directory, manifest
        self._parts = list(manifest.shards.items())
        self._open: list[Shard | None] = [None] * len(self._parts)
        self._lock = Lock()
        documents = [part.documents for part in manifest.shards.values()]
        self._first = np.cumsum([0, *documents])

    @classmethod
    def open(cls, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> TokenStore:
        """Opens a store without reading its tokens.

        Raises TokenStoreError if there is none, if its files don't have the sizes that its manifest states, or if
        `tokenizer` is given and is not the one the store was made with. Changed bytes are found by verify(), damaged
        offsets also when their shard is first read.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory)
        if tokenizer is not None:
            check_fingerprint(str(directory), manifest.tokenizer, tokenizer)
        for name, part in manifest.shards.items():
            for file, (size, _) in part.files.items():
                check_size(directory / name / file, size)
        return cls(directory, manifest)

    @property
    def documents(self) -> int:
        return self.manifest.documents

    @property
    def num_tokens(self) -> int:
        return self.manifest.tokens

    @property
    def num_bytes(self) -> int:
        return self.manifest.bytes

    @property
    def end_of_text(self) -> int:
        return self.manifest.end_of_text

    @property
    def fingerprint(self) -> str:
        """Of the ids in their order; what a saved position in the data refers to."""
        return self.manifest.sha256

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64."""
        return self.lengths_of(0, self.documents)

    @property
    def document_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each document, int64."""
        return np.concatenate([self._shard(number).document_bytes for number in range(len(self._parts))])

    def lengths_of(self, begin: int, end: int) -> np.ndarray:
        """Tokens of the documents from `begin` to before `end`, int64; only their shards are looked at."""
        pieces = []
        for number in range(len(self._parts)):
            first, last = self._first[number : number + 2]
            if first < end and begin < last:
                offsets = self._shard(number).offsets
                pieces.append(np.diff(offsets[max(begin - first, 0) : min(end, last) - first + 1]))
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def read(self, document: int, begin: int, end: int) -> np.ndarray:
        """Ids `begin` to before `end` of one document, those past its end left out; where nothing is compressed, a view
        of the file."""
        number = int(np.searchsorted(self._first, document, side="right")) - 1 if len(self._parts) > 1 else 0
        shard = self._open[number] or self._shard(number)
        inside = document - int(self._first[number])
        start, stop = int(shard.offsets[inside]), int(shard.offsets[inside + 1])
        return shard.read(start + begin, min(start + end, stop))

    def tokens_of(self, document: int) -> np.ndarray:
        """The ids of one document. Raises IndexError if the store has no such document."""
        shard, inside = self._place(document)
        return shard.read(int(shard.offsets[inside]), int(shard.offsets[inside + 1]))

    def id_of(self, document: int) -> str:
        """The id under which a document came. Raises IndexError if the store has no such document."""
        shard, inside = self._place(document)
        return shard.id_of(inside, document)

    def ids(self) -> Iterator[str]:
        """The ids of all documents in order."""
        for number in range(len(self._parts)):
            yield from self._shard(number).ids(int(self._first[number]))

    def trace(self, begin: int, end: int) -> list[tuple[str, int, int]]:
        """Which documents the store's tokens `begin` to before `end` are from, all documents end to end: for each its
        id and the range of its own tokens. Raises IndexError for a range that is not in the store."""
        if not 0 <= begin <= end <= self.num_tokens:
            raise IndexError(f"the store has tokens 0 .. {self.num_tokens - 1}, asked for {begin} .. {end - 1}")
        found, past = [], 0
        for number, (_, part) in enumerate(self._parts):
            low, high = max(begin - past, 0), min(end - past, part.tokens)
            if low < high:
                shard = self._shard(number)
                offsets = shard.offsets
                first, last = np.searchsorted(offsets, [low, high - 1], side="right") - 1
                for inside in range(first, last + 1):
                    start, stop = int(offsets[inside]), int(offsets[inside + 1])
                    name = self.id_of(int(self._first[number]) + inside)
                    found.append((name, max(low, start) - start, min(high, stop) - start))
            past += part.tokens
        return found

    def verify(self) -> None:
        """Reads every file once; raises TokenStoreError unless each is as it was written."""
        for number in range(len(self._parts)):
            self._shard(number).verify()

    def _place(self, document: int) -> tuple[Shard, int]:
        if not 0 <= document < self.documents:
            raise IndexError(f"the store has documents 0 .. {self.documents - 1}, asked for {document}")
        number = int(np.searchsorted(self._first, document, side="right")) - 1
        return self._shard(number), document - int(self._first[number])

    def _shard(self, number: int) -> Shard:
        with self._lock:
            if self._open[number] is None:
                name, part = self._parts[number]
                self._open[number] = Shard(self.directory / name, part)
            return self._open[number]


# Writing


@contextmanager
def create_token_store(
    directory: str | Path, tokenizer: Tokenizer, *, source: str = "", layout: Layout = PLAIN
) -> Iterator[ShardWriter]:
    """Gives a writer; the store is at `directory`, complete, once the `with` block has ended without an error.

    source: where the documents come from, in words, for the manifest.
    Raises FileExistsError if `directory` exists and is not empty, and TokenStoreError if no document has any text or
    the tokenizer gives an id outside its vocabulary; nothing is at `directory` then.
    """
    with new_directory(Path(directory)) as staged:
        writer = ShardWriter(staged, tokenizer, source, layout)
        with writer:
            yield writer
        Manifest.over(writer.written, source, str(directory)).write(staged)


def write_token_store(
    directory: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    source: str = "",
    layout: Layout = PLAIN,
) -> TokenStore:
    """Tokenizes the documents into a new store and opens it; see create_token_store for what is raised."""
    with create_token_store(directory, tokenizer, source=source, layout=layout) as writer:
        for document in documents:
            writer.add(document)
    return TokenStore.open(directory)


def resume_token_store(
    directory: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    source: str = "",
    layout: Layout = PLAIN,
) -> TokenStore:
    """As write_token_store, but each shard that is finished stays: called again with the same documents after whatever
    ended it, it passes over those that are in whole shards and goes on. A store that is complete is opened.

    Raises TokenStoreError where the shards were begun from other documents, with another tokenizer, encoding or
    compression, and ValueError while another process writes there.
    """
    directory = Path(directory)
    if not (directory / "manifest.json").exists():
        writer = ShardWriter.resumed(directory, tokenizer, source, layout)
        with writer:
            for document in writer.unwritten(documents):
                writer.add(document)
        Manifest.over(writer.written, source, str(directory)).write(directory)
    return TokenStore.open(directory, tokenizer=tokenizer)


def join_shards(directory: str | Path, shards: Sequence[str], *, source: str = "") -> TokenStore:
    """Makes a store of shards that were written into `directory` by write_shard, in this order.

    Raises TokenStoreError, naming the shard, where one is missing, damaged, or made with another tokenizer.
    """
    directory = Path(directory)
    if not shards:
        raise TokenStoreError(f"{directory}: there are no shards to join")
    read = {name: ShardManifest.read(directory / name) for name in shards}
    Manifest.over(read, source, str(directory)).write(directory)
    return TokenStore.open(directory)


def _read_manifest(directory: Path) -> Manifest:
    path = directory / "manifest.json"
    stated = read_json(path, "a token store")
    if stated.get("format") == 1:
        return _format_1(stated, path)
    checked = check_fields(stated, Manifest, str(path))
    shards = {name: ShardManifest.of(part, f"{path}, shard {name}") for name, part in checked["shards"].items()}
    return Manifest(**{**checked, "shards": shards})


_FORMAT_1_FIELDS = {field.name for field in fields(Manifest)} - {"encoding", "shards"}


def _format_1(stated: dict, path: Path) -> Manifest:
    """A store of the first layout as one shard, which is the directory itself."""
    if stated.keys() != _FORMAT_1_FIELDS or stated["dtype"] not in ("<u2", "<u4"):
        raise TokenStoreError(
            f"{path}: the fields {sorted(stated.keys() ^ _FORMAT_1_FIELDS)} are missing or unknown, or its dtype "
            f"{stated.get('dtype')!r} is neither '<u2' nor '<u4'"
        )
    width, documents = np.dtype(stated["dtype"]).itemsize, stated["documents"]
    files = {"tokens.bin": (stated["tokens"] * width, stated["sha256"])}
    shard = ShardManifest(**stated, encoding="", compression="none", block_tokens=0, names="", files=files)
    for name, size in (("offsets.bin", 8 * documents + 8), ("bytes.bin", 8 * documents)):
        check_size(path.parent / name, size)
    return Manifest(**stated, encoding="", shards={".": shard})
