"""Megatron's indexed datasets: `NAME.bin` with ids, and `NAME.idx` that says where sequences and documents begin.

The index, all little-endian: the nine bytes "MMIDIDX\\0\\0"; version, uint64, 1; a code for the type of the ids, uint8;
the number of sequences and that of document indices, uint64; then the length of each sequence, int32; then the first
byte of each in the .bin, int64; then each document's first sequence and, last, the number of sequences, int64. A
multimodal index has an int8 for each sequence after that.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from jaxllm.data.imports.mapped import MappedDocuments, TokenFileError, map_tokens

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
# Codes 6 and 7 are floats, which are no ids.
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def open_megatron(prefix: str | Path, *, end_of_text: int, vocab_size: int = 0) -> MappedDocuments:
    """Opens the dataset whose files are `prefix`.bin and `prefix`.idx, as Megatron's own tools name it.

    A document is all its sequences; the end-of-text id that preprocessing may have put at its end (--append-eod) is
    left out, since packing puts it there. vocab_size: above 0, all ids are checked.
    Raises TokenFileError for files that are missing, cut short, of another kind, or that contradict each other.
    """
    prefix = str(prefix).removesuffix(".idx").removesuffix(".bin")
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    dtype, lengths, pointers, firsts = _read_index(index)
    tokens = map_tokens(data, dtype)
    width = tokens.itemsize
    ends = pointers // width + lengths
    if len(lengths) and ((pointers % width).any() or pointers.min() < 0 or int(ends.max()) > len(tokens)):
        raise TokenFileError(
            f"{data}: holds {len(tokens)} ids, its index {index.name} points to id {int(ends.max())}: one of the two "
            "is cut short or belongs to another dataset"
        )
    # Sequences of a document lie one after another, as every writer leaves them: a document is one range.
    begins, stops = _document_ranges(index, pointers // width, ends, firsts)
    stops = stops - ((stops > begins) & (tokens[np.maximum(stops - 1, 0)] == end_of_text))
    documents = MappedDocuments.of(data, tokens, begins, stops, end_of_text)
    if vocab_size:
        documents.check_ids(vocab_size)
    return documents


def _read_index(path: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(type of the ids, lengths of the sequences, their first bytes, the documents' first sequences and the end)"""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TokenFileError(f"{path}: can't be read: {error.strerror}") from error
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise TokenFileError(f"{path}: is no index of Megatron: it does not begin with {_MAGIC!r}")
    _, version, code, sequences, documents = _HEADER.unpack_from(raw)
    if version != 1:
        raise TokenFileError(f"{path}: has version {version}, known is version 1")
    if code not in _DTYPES:
        raise TokenFileError(f"{path}: has ids of type code {code}; known are {sorted(_DTYPES)} (6 and 7 are floats)")
    expected = _HEADER.size + 12 * sequences + 8 * documents
    if len(raw) not in (expected, expected + sequences):
        raise TokenFileError(
            f"{path}: tells of {sequences} sequences and {documents} document indices, which take {expected} bytes; it "
            f"has {len(raw)}"
        )
    at = _HEADER.size
    lengths = np.frombuffer(raw, "<i4", sequences, at).astype(np.int64)
    pointers = np.frombuffer(raw, "<i8", sequences, at + 4 * sequences)
    firsts = np.frombuffer(raw, "<i8", documents, at + 12 * sequences)
    if (lengths < 0).any():
        raise TokenFileError(f"{path}: sequence {int((lengths < 0).argmax())} has a negative length")
    return _DTYPES[code], lengths, pointers, firsts


def _document_ranges(
    path: Path, begins: np.ndarray, ends: np.ndarray, firsts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    sequences = len(begins)
    if not len(firsts) or firsts[0] != 0 or firsts[-1] != sequences or (np.diff(firsts) < 0).any():
        raise TokenFileError(
            f"{path}: its document indices do not lead from sequence 0 to {sequences} without going back"
        )
    if not sequences:
        raise TokenFileError(f"{path}: holds no sequence")
    gaps = np.flatnonzero(begins[1:] != ends[:-1]) + 1
    inside = np.setdiff1d(gaps, firsts)
    if len(inside):
        raise TokenFileError(f"{path}: sequence {int(inside[0])} does not follow the one before it in its document")
    filled = np.diff(firsts) > 0
    return begins[firsts[:-1][filled]], ends[firsts[1:][filled] - 1]
