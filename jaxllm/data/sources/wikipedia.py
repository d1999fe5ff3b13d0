"""MediaWiki XML dumps (Wikipedia, Wiktionary, ...): a document for each page, read as a stream.

Only the pages are parsed as XML, each alone, so neither the size of a dump nor damage between pages matters, and the
parts of a multistream dump can be read in any order. Of a page with its history the last revision counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

from jaxllm.data.documents import Document
from jaxllm.data.extraction.wikitext import wikitext_to_text
from jaxllm.data.sources.reading import Input, too_long

_OPEN, _CLOSE = b"<page>", b"</page>"
_SITE_BYTES = 1 << 16


@dataclass(frozen=True)
class _Site:
    """What the head of a dump says of its wiki."""

    address: str = ""
    language: str = ""


def is_wiki_dump(begin: bytes) -> bool:
    """Whether a file's plain bytes begin as a dump does."""
    return b"<mediawiki" in begin[:4096]


def read_wiki(source: Input) -> Iterator[Document]:
    """The pages between `start` and `stop` that are in the wanted namespaces and lead nowhere else."""
    site = _site(source)
    seen: set[str] = set()
    for offset, block in _pages(source):
        where = f"page at offset {offset}"
        try:
            root = ElementTree.fromstring(block)
        except ElementTree.ParseError as error:
            source.problem(f"is not well-formed XML: {error}", where)
            continue
        number = root.findtext("id", "")
        if number in seen:
            source.problem(f"there is another page with the id {number} in front of it", where)
            continue
        seen.add(number)
        try:
            document = _document(source, root, site)
        except ValueError as error:
            source.problem(str(error), where)
            continue
        if document is not None and document.text and not document.text.isspace():
            yield document


def _site(source: Input) -> _Site:
    """Read from the begin of the file, wherever this part of it begins."""
    from dataclasses import replace

    head = b""
    for piece in replace(source, start=0, report=lambda _: None).pieces():
        head += piece.data
        if b"</siteinfo>" in head or len(head) > _SITE_BYTES:
            break
    text = head.decode("utf-8", errors="replace")
    base = re.search(r"<base>\s*(https?://[^<\s]+/)", text)
    language = re.search(r'<mediawiki[^>]*\sxml:lang="([\w-]+)"', text)
    return _Site(base[1] if base else "", language[1] if language else "")


def _pages(source: Input) -> Iterator[tuple[str, bytes]]:
    """Each page element with its place: the offset of its compressed member, or of itself in a plain file."""
    limit, held, offset = source.settings.max_document_bytes, bytearray(), source.start
    for piece in source.pieces():
        if piece.gap:
            offset += len(held)
            held.clear()
            continue
        held += piece.data
        while True:
            begin = held.find(_OPEN)
            end = held.find(_CLOSE, begin) if begin >= 0 else -1
            if end < 0:
                break
            end += len(_CLOSE)
            yield str(piece.member if source.compression else offset + begin), bytes(held[begin:end])
            offset += end
            del held[:end]
        if begin < 0:  # nothing but the tail may belong to a page
            drop = max(0, len(held) - len(_OPEN))
        else:
            drop = begin
            if len(held) - begin > limit:
                source.problem(f"the page {too_long(limit)}", f"offset {piece.member or offset + begin}")
                drop = len(held) - len(_CLOSE)
        offset += drop
        del held[:drop]
    if held.find(_OPEN) >= 0:
        source.problem("the file ends inside a page", f"page at offset {offset}")


def _document(source: Input, page: ElementTree.Element, site: _Site) -> Document | None:
    namespace = page.findtext("ns", "0")
    if not re.fullmatch(r"-?[0-9]{1,9}", namespace.strip()):
        raise ValueError(f"its namespace must be a number, found {namespace[:40]!r}")
    if int(namespace) not in source.settings.wiki_namespaces or page.find("redirect") is not None:
        return None
    revision = page.findall("revision")[-1:]
    if not revision or revision[0].findtext("model", "wikitext") != "wikitext":
        return None
    title, markup = page.findtext("title", ""), revision[0].findtext("text", "")
    text = markup if source.settings.markup == "raw" else wikitext_to_text(markup)
    metadata = {
        "title": title,
        "url": site.address + quote(title.replace(" ", "_"), safe="/:(),!*'@") if site.address else "",
        "language": site.language,
        "date": revision[0].findtext("timestamp", ""),
        "namespace": int(namespace),
        "page_id": page.findtext("id", ""),
        "revision_id": revision[0].findtext("id", ""),
    }
    return Document(f"{source.name}:{page.findtext('id', '')}", text, {k: v for k, v in metadata.items() if v != ""})
