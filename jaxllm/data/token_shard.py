"""One shard of a token store: a directory that is there as a whole or not at all, read through memory maps.

Its files: `tokens.bin`, the ids of all documents end to end, little-endian uint16, or uint32 for a vocabulary of more
than 65,536, or `tokens.zst`, the same in zstd frames of so many ids each, with `blocks.bin` (int64, where each frame
begins, and the end); `offsets.bin` (int64, where each document begins, and the end); `bytes.bin` (int64, UTF-8 bytes of
each document); `ids.bin` and `id_offsets.bin`, the documents' ids as UTF-8 and where each begins; and `manifest.json`.
The tokens carry no end-of-text; packing puts it around each document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxllm.tokenizers import Tokenizer

Compression = Literal["none", "zstd"]

FORMAT = 2
"""The number of this layout. Stores of format 1, which had one shard and no ids, are still opened."""

# Decompressed blocks that a shard keeps at hand: documents of one row are seldom neighbours, pieces of one are.
_KEPT_BLOCKS = 16


class TokenStoreError(ValueError):
    """A token store is missing, damaged, of another format, or made by another tokenizer."""


@dataclass(frozen=True)
class ShardManifest:
    """What a shard says about itself."""

    format: int
    documents: int
    """documents with at least one token; the others are counted below and not stored"""
    empty_documents: int
    tokens: int
    bytes: int
    """UTF-8 bytes of all documents"""
    dtype: str
    """"<u2" or "<u4", the type of the ids"""
    vocab_size: int
    end_of_text: int
    tokenizer: str
    """fingerprint of the tokenizer"""
    encoding: str
    """what was done to documents besides tokenizing them, "" for nothing"""
    compression: str
    block_tokens: int
    """ids in a compressed frame, but for the last; 0 without compression"""
    sha256: str
    """of the ids as they are without compression"""
    names: str
    """SHA-256 over the ids of all documents taken, the empty ones included: a resumed writer compares it"""
    files: dict[str, tuple[int, str]]
    """size and SHA-256 of each file"""
    source: str
    """where the documents came from, in words"""

    def same_kind(self) -> tuple[Any, ...]:
        """What all shards of a store have in common."""
        return (
            self.dtype,
            self.vocab_size,
            self.end_of_text,
            self.tokenizer,
            self.encoding,
            self.compression,
            self.block_tokens,
        )

    @classmethod
    def read(cls, directory: Path) -> ShardManifest:
        """Raises TokenStoreError where there is none, or none of this format."""
        path = directory / "manifest.json"
        return cls.of(read_json(path, "a shard of a token store"), str(path))

    @classmethod
    def of(cls, stated: Mapping[str, Any], where: str) -> ShardManifest:
        """From JSON values; `where` begins the message of TokenStoreError."""
        stated = check_fields(stated, cls, where)
        return cls(**{**stated, "files": {name: tuple(known) for name, known in stated["files"].items()}})

    def write(self, directory: Path) -> None:
        (directory / "manifest.json").write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


class Shard:
    """An open shard; token i of it is any of 0 .. tokens - 1, document d is the tokens offsets[d] : offsets[d + 1]."""

    def __init__(self, directory: Path, manifest: ShardManifest):
        """Checks that the files have their sizes. Raises TokenStoreError; changed bytes are found by verify()."""
        self.directory, self.manifest = directory, manifest
        for name, (size, _) in manifest.files.items():
            check_size(directory / name, size)
        documents = manifest.documents
        self.offsets = map_file(directory / "offsets.bin", "<i8", documents + 1)
        self.document_bytes = map_file(directory / "bytes.bin", "<i8", documents)
        if self.offsets[0] != 0 or self.offsets[-1] != manifest.tokens or (np.diff(self.offsets) <= 0).any():
            raise TokenStoreError(f"{directory}: offsets.bin is damaged; remove the directory and prepare it again")
        if manifest.compression == "zstd":
            self.read = _Blocks(directory, manifest).read
        else:
            self._tokens = map_file(directory / "tokens.bin", manifest.dtype, manifest.tokens)
            self.read = self._view

    def _view(self, begin: int, end: int) -> np.ndarray:
        """The ids from token `begin` to before `end`, a view of the file."""
        return self._tokens[begin:end]

    def id_of(self, document: int, number: int) -> str:
        """A document's id; in a store of format 1, which kept none, its number in the store."""
        if "ids.bin" not in self.manifest.files:
            return str(number)
        begin, end = (int(offset) for offset in self._id_offsets()[document : document + 2])
        with open(self.directory / "ids.bin", "rb") as file:
            file.seek(begin)
            return file.read(end - begin).decode("utf-8", errors="surrogatepass")

    def ids(self, number: int) -> Iterator[str]:
        """The ids of all documents; `number` is that of the first in the store."""
        if "ids.bin" not in self.manifest.files:
            yield from map(str, range(number, number + self.manifest.documents))
            return
        raw, offsets = (self.directory / "ids.bin").read_bytes(), self._id_offsets().tolist()
        for begin, end in pairwise(offsets):
            yield raw[begin:end].decode("utf-8", errors="surrogatepass")

    def _id_offsets(self) -> np.ndarray:
        return map_file(self.directory / "id_offsets.bin", "<i8", self.manifest.documents + 1)

    def verify(self) -> None:
        """Reads every file once; raises TokenStoreError unless each is as it was written."""
        for name, (_, expected) in self.manifest.files.items():
            with open(self.directory / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != expected:
                raise TokenStoreError(
                    f"{self.directory}: {name} has SHA-256 {digest}, its manifest says {expected}; "
                    "remove the directory and prepare it again"
                )


_of_thread = local()


def _decompressor() -> Any:
    """This thread's: one can't be shared, and making one costs more than a block."""
    import zstandard

    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    return _of_thread.decompressor


class _Blocks:
    """The ids of tokens.zst, a frame at a time."""

    def __init__(self, directory: Path, manifest: ShardManifest):
        self._path, self._manifest = directory / "tokens.zst", manifest
        blocks = -(-manifest.tokens // manifest.block_tokens)
        self._begins = map_file(directory / "blocks.bin", "<i8", blocks + 1)
        size = manifest.files["tokens.zst"][0]
        if self._begins[0] != 0 or self._begins[-1] != size or (np.diff(self._begins) <= 0).any():
            raise TokenStoreError(f"{directory}: blocks.bin is damaged; remove the directory and prepare it again")
        self._raw = map_file(self._path, "u1", size)
        self._block = lru_cache(_KEPT_BLOCKS)(self._decompress)

    def read(self, begin: int, end: int) -> np.ndarray:
        """The ids from token `begin` to before `end`."""
        size = self._manifest.block_tokens
        first, last = begin // size, max(begin, end - 1) // size
        if begin >= end:
            return np.empty(0, self._manifest.dtype)
        pieces = [self._block(number) for number in range(first, last + 1)]
        joined = pieces[0] if first == last else np.concatenate(pieces)
        return joined[begin - first * size : end - first * size]

    def _decompress(self, number: int) -> np.ndarray:
        import zstandard

        manifest, size = self._manifest, self._manifest.block_tokens
        ids = min(size, manifest.tokens - number * size)
        frame = self._raw[self._begins[number] : self._begins[number + 1]]
        try:
            raw = _decompressor().decompress(frame, max_output_size=ids * np.dtype(manifest.dtype).itemsize)
            block = np.frombuffer(raw, manifest.dtype)
        except (zstandard.ZstdError, ValueError) as error:
            block, why = None, str(error)
        else:
            why = f"{len(block)} ids instead of {ids}"
        if block is None or len(block) != ids:
            raise TokenStoreError(
                f"{self._path}: block {number} is damaged ({why}); remove the directory and prepare it again"
            )
        return block


def check_fingerprint(where: str, recorded: str, tokenizer: Tokenizer) -> None:
    """Raises TokenStoreError unless `recorded` is the fingerprint of the tokenizer."""
    if recorded != tokenizer.fingerprint():
        raise TokenStoreError(
            f"{where}: was made with tokenizer {recorded}, but the tokenizer in use is {tokenizer.fingerprint()}; "
            "use that tokenizer, or another directory, or remove this one"
        )


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A manifest's values. Raises TokenStoreError, saying that its directory is not `what`, where there is none."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TokenStoreError(f"{path.parent}: is not {what}: it has no {path.name}") from error
    except ValueError as error:
        raise TokenStoreError(f"{path}: is not readable: {error}") from error
    return stated if isinstance(stated, dict) else {}


def check_fields(stated: Mapping[str, Any], cls: type, where: str, form: int = FORMAT) -> dict[str, Any]:
    """The values, after checking that they are those of a manifest of this class and format."""
    if stated.get("format") != form:
        raise TokenStoreError(
            f"{where}: has format {stated.get('format')}, this version reads formats 1 and {FORMAT}; "
            "prepare the store again"
        )
    expected = {field.name for field in fields(cls)}
    if stated.keys() != expected:
        raise TokenStoreError(f"{where}: the fields {sorted(stated.keys() ^ expected)} are missing or unknown")
    if stated["dtype"] not in ("<u2", "<u4"):
        raise TokenStoreError(f'{where}: dtype must be "<u2" or "<u4", found {stated["dtype"]!r}')
    return dict(stated)


def check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        raise TokenStoreError(
            f"{path}: expected {expected} bytes, found {'no file' if found is None else found}; "
            "remove the directory and prepare it again"
        )


def map_file(path: Path, dtype: str, count: int) -> np.ndarray:
    """The whole file as a read-only array, after checking that it has the stated size."""
    check_size(path, count * np.dtype(dtype).itemsize)
    if not count:
        return np.empty(0, dtype)  # what can't be mapped
    # A plain view of the map: indexing np.memmap itself costs several times more per call.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))
