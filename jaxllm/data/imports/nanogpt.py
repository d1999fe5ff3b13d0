"""nanoGPT's `train.bin` and `val.bin`: ids as little-endian uint16 and nothing else, each document followed by the
end-of-text id. llm.c's and modded-nanogpt's files are the same after a header of 256 int32, which is recognized.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxllm.data.imports.mapped import MappedDocuments, TokenFileError, between, map_tokens

# Of llm.c's header: the first number, and the version in which ids are uint16 (those of Llama 3 have versions of 7 and
# ids of uint32).
_MAGIC, _HEADER_BYTES = 20240520, 1024
_MAGIC_OF_UINT32 = 20240801
_DTYPES = {(_MAGIC, 1): "<u2", (_MAGIC_OF_UINT32, 7): "<u4"}


def open_nanogpt(path: str | Path, *, end_of_text: int = 50256, vocab_size: int = 0) -> MappedDocuments:
    """Opens such a file where it is; its documents are what stands between end-of-text ids.

    A file without any, such as nanoGPT's of characters, is one document. vocab_size: above 0, all ids are checked.
    Raises TokenFileError for a file that is missing, cut short or empty, or whose header says otherwise.
    """
    path = Path(path)
    dtype, offset, stated = _read_header(path)
    tokens = map_tokens(path, dtype, offset)
    if stated is not None and len(tokens) != stated:
        raise TokenFileError(f"{path}: its header tells of {stated} tokens, the file holds {len(tokens)}")
    documents = MappedDocuments.of(path, tokens, *between(tokens, end_of_text), end_of_text)
    if vocab_size:
        documents.check_ids(vocab_size)
    return documents


def _read_header(path: Path) -> tuple[str, int, int | None]:
    """(type of the ids, bytes before them, how many there are if that is said)"""
    try:
        with open(path, "rb") as file:
            begin = file.read(_HEADER_BYTES)
    except OSError as error:
        raise TokenFileError(f"{path}: can't be read: {error.strerror}") from error
    if len(begin) < _HEADER_BYTES:
        return "<u2", 0, None
    magic, version, tokens = np.frombuffer(begin, "<i4")[:3].tolist()
    if magic not in (_MAGIC, _MAGIC_OF_UINT32):
        return "<u2", 0, None
    if (magic, version) not in _DTYPES:
        raise TokenFileError(f"{path}: has a header of llm.c with the unknown version {version}; known are 1 and 7")
    return _DTYPES[magic, version], _HEADER_BYTES, tokens
