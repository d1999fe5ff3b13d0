"""Text files, a document each, and JSON lines, a document a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jaxllm.data.documents import Document
from jaxllm.data.sources.reading import Input, lines

# NaN and Infinity, which Python reads, are no JSON; as metadata they could not be written again.
_JSON = json.JSONDecoder(parse_constant=lambda _: None)


def read_text(source: Input) -> Iterator[Document]:
    raw = source.whole()
    text = raw and source.text(raw)
    if text and not text.isspace():
        yield Document(source.name, text)


def read_jsonl(source: Input) -> Iterator[Document]:
    for line in lines(source):
        text = source.text(line.raw, line.offset, f"line {line.number}")
        if not text or text.isspace():
            continue
        try:
            row = _JSON.decode(text)
        except (ValueError, RecursionError) as error:
            if not line.cut:
                source.problem(f"is not valid JSON: {error}", f"line {line.number}")
            continue
        document = _document(source, row, f"{source.name}:{line.number}", "\\u" in text)
        if isinstance(document, str):
            source.problem(document, f"line {line.number}")
        else:
            yield document


def _document(source: Input, row: Any, name: str, escapes: bool) -> Document | str:
    """A row as a document, or what is wrong with it."""
    field, kept = source.settings.text_field, source.settings.metadata_fields
    if not isinstance(row, dict):
        return f"expected an object with a field {field!r}, found {type(row).__name__}"
    if field not in row:
        return f"has no field {field!r}; its fields are {sorted(row)}"
    text = row.pop(field)
    if not isinstance(text, str):
        return f"the field {field!r} must be a string, found {type(text).__name__}"
    metadata = row if kept is None else {key: row[key] for key in kept if key in row}
    # JSON may escape half of a UTF-16 pair, which no encoding of Unicode text can hold.
    if escapes:
        for what, value in ((field, text), *metadata.items()):
            if any("\ud800" <= character <= "\udfff" for character in json.dumps([what, value], ensure_ascii=False)):
                return f"the field {what!r} holds an unpaired surrogate escape, which is not Unicode text"
    return Document(name, text, metadata)
