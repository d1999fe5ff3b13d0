"""Documents of ids in ArrayRecord files, the random-access format that grain reads.

A record is a JSON object {"id", "dtype", "bytes"}, a line feed, and the ids as bytes of that type, so that any program
reads it without this one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxllm.data.imports.mapped import TokenFileError
from jaxllm.data.token_store import TokenStore

# One record a group: each can be reached without decompressing others.
_OPTIONS = "group_size:1"


def write_array_record(path: str | Path, store: TokenStore) -> int:
    """Writes every document of a store as a record of one file, by a rename at the end; returns how many.

    Raises FileExistsError where the file is there.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} already exists; name another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        staged = Path(scratch) / path.name
        writer = ArrayRecordWriter(str(staged), _OPTIONS)
        sizes = store.document_bytes
        for document in range(store.documents):
            ids = store.tokens_of(document)
            head = {"id": store.id_of(document), "dtype": ids.dtype.str, "bytes": int(sizes[document])}
            writer.write(json.dumps(head).encode() + b"\n" + ids.tobytes())
        writer.close()
        os.rename(staged, path)
    return store.documents


class ArrayRecordDocuments:
    """The documents of ArrayRecord files as a random-access source for grain: (id, ids) by number.

    Raises TokenFileError for a file that is missing, damaged or empty, and for records of another kind.
    """

    def __init__(self, *paths: str | Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        names = [os.fspath(path) for path in paths]
        for name in names:
            if not os.path.isfile(name) or not os.path.getsize(name):
                raise TokenFileError(f"{name}: is no file with any record")
        try:
            self._source = ArrayRecordDataSource(names)
            self._count = len(self._source)
        except (RuntimeError, ValueError) as error:
            raise TokenFileError(f"{', '.join(names)}: can't be read as ArrayRecord: {error}") from error
        self._names = names

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[str, np.ndarray]:
        try:
            head, _, raw = self._source[number].partition(b"\n")
            stated = json.loads(head)
            return stated["id"], np.frombuffer(raw, stated["dtype"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TokenFileError(
                f"{', '.join(self._names)}: record {number} is not a document of ids: {error}"
            ) from error

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return (self[number] for number in range(len(self)))
