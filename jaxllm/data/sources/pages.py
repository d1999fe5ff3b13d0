"""HTML files, a document each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxllm.data.documents import Document
from jaxllm.data.extraction.html import extract
from jaxllm.data.sources.charset import decode
from jaxllm.data.sources.reading import Input


def read_html(source: Input) -> Iterator[Document]:
    raw = source.whole()
    if raw:
        document = page(source, source.name, raw)
        if document.text:
            yield document


def page(source: Input, name: str, raw: bytes, declared: str = "", metadata: dict[str, Any] | None = None) -> Document:
    """An HTML page as a document: its main text, or the page as it is where the settings say markup="raw".

    declared: the encoding that the server named. The text is "" if the page has no main text.
    """
    html, charset = decode(raw, declared, html=True)
    metadata = {**(metadata or {}), "charset": charset}
    if source.settings.markup == "raw":
        return Document(name, html, metadata)
    found = extract(html)
    return Document(name, found.text, {**metadata, **found.metadata})
