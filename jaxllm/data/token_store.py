"""Tokenized documents on disk: written once, atomically, and read through memory maps.

A store is a directory of four files: `tokens.bin` (the ids of all documents end to end, little-endian uint16, or
uint32 for a vocabulary of more than 65,536), `offsets.bin` (int64, one more than there are documents), `bytes.bin`
(int64, UTF-8 bytes of each document) and `manifest.json`. The ids carry no end-of-text; packing puts it around each
document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from jaxllm.data.atomic import new_directory

if TYPE_CHECKING:
    from jaxllm.data.documents import Document
    from jaxllm.tokenizers import Tokenizer

FORMAT = 1
"""The number of this layout; a store of another number is refused."""

# One call of encode_batch gets at most this many documents, and stops taking more at this many characters.
_CHUNK_DOCUMENTS = 1024
_CHUNK_CHARACTERS = 1 << 22


class TokenStoreError(ValueError):
    """A token store is missing, damaged, of another format, or made by another tokenizer."""


@dataclass(frozen=True)
class Manifest:
    """What a store says about itself."""

    format: int
    documents: int
    """documents with at least one token; the others are counted below and not stored"""
    empty_documents: int
    tokens: int
    bytes: int
    """UTF-8 bytes of all documents"""
    dtype: str
    """"<u2" or "<u4", the type of the ids in the token file"""
    vocab_size: int
    end_of_text: int
    tokenizer: str
    """fingerprint of the tokenizer"""
    sha256: str
    """of the token file"""
    source: str
    """where the documents came from, in words"""


@dataclass(frozen=True, eq=False)
class TokenStore:
    """An open store. `tokens` is one flat array; document i is `tokens[offsets[i] : offsets[i + 1]]`."""

    directory: Path
    manifest: Manifest
    tokens: np.ndarray
    offsets: np.ndarray
    document_bytes: np.ndarray

    @classmethod
    def open(cls, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> TokenStore:
        """Opens a store without reading its tokens.

        Raises TokenStoreError if there is none, if its files don't have the sizes that its manifest states, or if
        `tokenizer` is given and is not the one the store was made with. Changed bytes are found by verify().
        """
        directory = Path(directory)
        manifest = _read_manifest(directory)
        if tokenizer is not None:
            check_fingerprint(str(directory), manifest.tokenizer, tokenizer)
        offsets = _map(directory / "offsets.bin", "<i8", manifest.documents + 1)
        if offsets[0] != 0 or offsets[-1] != manifest.tokens or (np.diff(offsets) <= 0).any():
            raise TokenStoreError(f"{directory}: offsets.bin is damaged; remove the directory and prepare it again")
        return cls(
            directory=directory,
            manifest=manifest,
            tokens=_map(directory / "tokens.bin", manifest.dtype, manifest.tokens),
            offsets=offsets,
            document_bytes=_map(directory / "bytes.bin", "<i8", manifest.documents),
        )

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
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64."""
        return np.diff(self.offsets)

    def tokens_of(self, document: int) -> np.ndarray:
        """The ids of one document, a view of the file. Raises IndexError if the store has no such document."""
        if not 0 <= document < self.documents:
            raise IndexError(f"the store has documents 0 .. {self.documents - 1}, asked for {document}")
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]

    def verify(self) -> None:
        """Reads all tokens once; raises TokenStoreError if they are not those that were written."""
        digest = hashlib.sha256(self.tokens).hexdigest()
        if digest != self.manifest.sha256:
            raise TokenStoreError(
                f"{self.directory}: tokens.bin has SHA-256 {digest}, its manifest says {self.manifest.sha256}; "
                "remove the directory and prepare it again"
            )


def check_fingerprint(where: str, recorded: str, tokenizer: Tokenizer) -> None:
    """Raises TokenStoreError unless `recorded` is the fingerprint of the tokenizer."""
    if recorded != tokenizer.fingerprint():
        raise TokenStoreError(
            f"{where}: was made with tokenizer {recorded}, but the tokenizer in use is {tokenizer.fingerprint()}; "
            "use that tokenizer, or another directory, or remove this one"
        )


class TokenStoreWriter:
    """Takes documents one by one; made by create_token_store."""

    def __init__(self, staged: Path, tokens_file: BinaryIO, tokenizer: Tokenizer, source: str):
        self._staged = staged
        self._file = tokens_file
        self._tokenizer = tokenizer
        self._source = source
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._waiting: list[Document] = []
        self._waiting_characters = 0
        self._lengths: list[int] = []
        self._bytes: list[int] = []
        self._empty = 0
        self._digest = hashlib.sha256()

    def add(self, document: Document) -> None:
        """Takes one document; it is encoded together with those around it."""
        self._waiting.append(document)
        self._waiting_characters += len(document.text)
        if len(self._waiting) >= _CHUNK_DOCUMENTS or self._waiting_characters >= _CHUNK_CHARACTERS:
            self._encode_waiting()

    def _encode_waiting(self) -> None:
        waiting, self._waiting, self._waiting_characters = self._waiting, [], 0
        if not waiting:
            return
        encoded = self._tokenizer.encode_batch([document.text for document in waiting])
        for document, ids in zip(waiting, encoded, strict=True):
            if not len(ids):
                self._empty += 1
                continue
            raw = _checked(ids, document.name, self._tokenizer.vocab_size).astype(self._dtype).tobytes()
            self._file.write(raw)
            self._digest.update(raw)
            self._lengths.append(len(ids))
            self._bytes.append(len(document.text.encode("utf-8")))

    def _finish(self) -> None:
        self._encode_waiting()
        if not self._lengths:
            raise TokenStoreError(f"there is nothing to store: {self._empty} documents, none of them with text")
        manifest = Manifest(
            format=FORMAT,
            documents=len(self._lengths),
            empty_documents=self._empty,
            tokens=sum(self._lengths),
            bytes=sum(self._bytes),
            dtype=self._dtype.str,
            vocab_size=self._tokenizer.vocab_size,
            end_of_text=self._tokenizer.end_of_text,
            tokenizer=self._tokenizer.fingerprint(),
            sha256=self._digest.hexdigest(),
            source=self._source,
        )
        np.cumsum([0, *self._lengths], dtype="<i8").tofile(self._staged / "offsets.bin")
        np.array(self._bytes, dtype="<i8").tofile(self._staged / "bytes.bin")
        (self._staged / "manifest.json").write_text(json.dumps(asdict(manifest), indent=2), encoding="utf-8")


@contextmanager
def create_token_store(directory: str | Path, tokenizer: Tokenizer, *, source: str = "") -> Iterator[TokenStoreWriter]:
    """Gives a writer; the store is at `directory`, complete, once the `with` block has ended without an error.

    source: where the documents come from, in words, for the manifest.
    Raises FileExistsError if `directory` exists and is not empty, and TokenStoreError if no document has any text or
    the tokenizer gives an id outside its vocabulary; nothing is at `directory` then.
    """
    with new_directory(Path(directory)) as staged, open(staged / "tokens.bin", "wb") as tokens_file:
        writer = TokenStoreWriter(staged, tokens_file, tokenizer, source)
        yield writer
        writer._finish()


def write_token_store(
    directory: str | Path, documents: Iterable[Document], tokenizer: Tokenizer, *, source: str = ""
) -> TokenStore:
    """Tokenizes the documents into a new store and opens it; see create_token_store for what is raised."""
    with create_token_store(directory, tokenizer, source=source) as writer:
        for document in documents:
            writer.add(document)
    return TokenStore.open(directory)


def _checked(ids: Sequence[int], name: str, vocab_size: int) -> np.ndarray:
    array = np.asarray(ids, dtype=np.int64)
    if array.min() < 0 or array.max() >= vocab_size:
        wrong = int(array.min() if array.min() < 0 else array.max())
        raise TokenStoreError(
            f"document {name!r}: the tokenizer gave id {wrong}, outside its vocabulary of {vocab_size}"
        )
    return array


def _read_manifest(directory: Path) -> Manifest:
    path = directory / "manifest.json"
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TokenStoreError(f"{directory}: is not a token store: it has no manifest.json") from error
    except ValueError as error:
        raise TokenStoreError(f"{path}: is not readable: {error}") from error
    if not isinstance(stated, dict) or stated.get("format") != FORMAT:
        found = stated.get("format") if isinstance(stated, dict) else None
        raise TokenStoreError(
            f"{path}: has format {found}, this version reads format {FORMAT}; prepare the store again"
        )
    expected = {field.name for field in fields(Manifest)}
    if stated.keys() != expected:
        raise TokenStoreError(f"{path}: the fields {sorted(stated.keys() ^ expected)} are missing or unknown")
    if stated["dtype"] not in ("<u2", "<u4"):
        raise TokenStoreError(f'{path}: dtype must be "<u2" or "<u4", found {stated["dtype"]!r}')
    return Manifest(**stated)


def _map(path: Path, dtype: str, count: int) -> np.ndarray:
    """The whole file as a read-only array, after checking that it has the stated size."""
    expected = count * np.dtype(dtype).itemsize
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        raise TokenStoreError(
            f"{path}: expected {expected} bytes, found {'no file' if found is None else found}; "
            "remove the directory and prepare it again"
        )
    # A plain view of the map: indexing np.memmap itself costs several times more per call.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))
