"""WARC files (ISO 28500), in which Common Crawl keeps pages as they were fetched, and WET files, their text.

Read are `response` and `resource` records that hold HTML or plain text, and `conversion` records; all others are passed
over. A document is named by the place of its record in the file, as in a CDX index: the offset of its gzip member, or
of the record itself where the file is not compressed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from jaxllm.data.documents import Document
from jaxllm.data.sources.charset import decode
from jaxllm.data.sources.pages import page
from jaxllm.data.sources.reading import Input, too_long

_VERSION = re.compile(rb"WARC/\d\.\d+\r?\n")
_NEXT = re.compile(rb"\nWARC/\d\.\d+\r?\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")

# No header of a record is longer; one that is does not end.
_LONGEST_HEADER = 1 << 20

_HTML = {"text/html", "application/xhtml+xml"}
_TEXT = {"text/plain", "text/markdown"}


def read_warc(source: Input) -> Iterator[Document]:
    for offset, header, content in _records(source):
        try:
            document = _document(source, f"{source.name}:{offset}", header, content)
        except ValueError as error:
            source.problem(str(error), f"record at offset {offset}")
            continue
        if document is not None and document.text and not document.text.isspace():
            yield document


class _Buffer:
    """The plain bytes of the file around the record at hand, and where each byte comes from."""

    def __init__(self, source: Input):
        self._pieces = source.pieces()
        self._compressed = bool(source.compression)
        self._member = self._in_member = 0
        self.data = bytearray()
        self.offset = source.start
        self.gap = False

    def place(self) -> str:
        """Where the record that the data begin with is to be found: "offset", or "offset+within" inside a member."""
        if not self._compressed:
            return str(self.offset)
        within = self._in_member - len(self.data)
        return f"{self._member}+{within}" if within > 0 else str(self._member)

    def more(self) -> bool:
        """Takes in the next piece; False at the end of the file, and at a gap, which then has to be passed."""
        piece = None if self.gap else next(self._pieces, None)
        if piece is None:
            return False
        if piece.gap:
            self.gap = True
            return False
        if piece.member != self._member:
            self._member, self._in_member = piece.member, 0
        self._in_member += len(piece.data)
        self.data += piece.data
        return True

    def drop(self, size: int) -> None:
        self.offset += size
        del self.data[:size]

    def pass_gap(self) -> bool:
        """Whether there was a gap; what lies before it is of no use any more."""
        if not self.gap:
            return False
        self.gap = False
        self.drop(len(self.data))
        return True


def _records(source: Input) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Each record's place, header fields (names in lower case) and content; damage is reported and stepped over."""
    buffer = _Buffer(source)
    while True:
        while buffer.data[:1] in (b"\r", b"\n"):
            buffer.drop(1)
        if len(buffer.data) < 16:
            if buffer.more() or buffer.pass_gap():
                continue
            if not buffer.data:
                return
        place = buffer.place()
        header, problem = _read_header(buffer), ""
        lost = isinstance(header, str)
        if lost:
            problem = "" if buffer.gap else header
        else:
            length = int(header["content-length"])
            if length > source.settings.max_document_bytes:
                problem = too_long(source.settings.max_document_bytes)
                if not _skip(buffer, length):
                    problem += "; the file ends inside it"
            elif _fill(buffer, length):
                content = bytes(buffer.data[:length])
                buffer.drop(length)
                yield place, header, content
            else:
                lost = True
                problem = "" if buffer.gap else "the file ends inside this record"
        if problem:
            source.problem(problem, f"record at offset {place}")
        if (lost or buffer.gap) and not _find_next(buffer):
            return


def _read_header(buffer: _Buffer) -> dict[str, str] | str:
    """The header fields of the record that the data begin with, which is taken off; or what is wrong with it."""
    searched = 0
    while not (end := _HEADER_END.search(buffer.data, searched)):
        searched = max(0, len(buffer.data) - 3)  # the end may lie across two pieces
        if len(buffer.data) > _LONGEST_HEADER or not buffer.more():
            break
    if not _VERSION.match(buffer.data):
        return f"expected WARC/1.0 or WARC/1.1, found {bytes(buffer.data[:20])!r}"
    if not end:
        return "the header of this record has no end"
    fields = _fields(bytes(buffer.data[: end.start()]))
    length = fields.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        return f"Content-Length must be a number of bytes, found {length[:40]!r}"
    buffer.drop(end.end())
    return fields


def _fields(block: bytes) -> dict[str, str]:
    """The fields of a header block behind its first line; a folded line goes on with the one before."""
    text = decode(block)[0].replace("\r\n", "\n")
    found = {}
    for line in re.sub(r"\n[ \t]+", " ", text).split("\n")[1:]:
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    return found


def _fill(buffer: _Buffer, length: int) -> bool:
    while len(buffer.data) < length:
        if not buffer.more():
            return False
    return True


def _skip(buffer: _Buffer, length: int) -> bool:
    while length:
        taken = min(length, len(buffer.data))
        buffer.drop(taken)
        length -= taken
        if length and not buffer.more():
            return False
    return True


def _find_next(buffer: _Buffer) -> bool:
    """Goes to the next record behind damage; False if there is none."""
    if buffer.pass_gap():
        return True  # a member begins behind a gap, and a record begins with its member
    while not (found := _NEXT.search(buffer.data)):
        buffer.drop(max(0, len(buffer.data) - 16))
        if not buffer.more():
            return buffer.pass_gap()
    buffer.drop(found.start() + 1)
    return True


# From a record to a document


def _document(source: Input, name: str, header: dict[str, str], content: bytes) -> Document | None:
    kind = header.get("warc-type")
    metadata = {
        key: header[field]
        for key, field in (
            ("url", "warc-target-uri"),
            ("date", "warc-date"),
            ("record_id", "warc-record-id"),
            ("language", "warc-identified-content-language"),
            ("truncated", "warc-truncated"),
        )
        if field in header
    }
    mime, charset = _content_type(header.get("content-type", ""))
    if kind == "response" and mime == "application/http":
        parsed = _http_body(content)
        if parsed is None:
            return None
        mime, charset, content = parsed
    elif kind not in ("conversion", "resource"):
        return None
    if mime in _HTML:
        return page(source, name, content, charset, metadata)
    if mime in _TEXT:
        return Document(name, decode(content, charset)[0], metadata)
    return None


def _content_type(value: str) -> tuple[str, str]:
    mime, _, rest = value.partition(";")
    found = re.search(r"charset\s*=\s*[\"']?([\w:.-]+)", rest, re.IGNORECASE)
    return mime.strip().lower(), found[1] if found else ""


def _http_body(message: bytes) -> tuple[str, str, bytes] | None:
    """Type, declared encoding and body of a successful HTTP response; None for another. Raises ValueError."""
    end = _HEADER_END.search(message)
    head, body = (message[: end.start()], message[end.end() :]) if end else (message, b"")
    status = re.match(rb"HTTP/\d(?:\.\d)?\s+(\d{3})", head)
    if not status:
        raise ValueError(f"expected an HTTP response, found {head[:20]!r}")
    if status[1] != b"200":
        return None
    fields = _fields(head)
    mime, charset = _content_type(fields.get("content-type", ""))
    if mime not in _HTML | _TEXT:
        return None
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = _joined_chunks(body)
    match fields.get("content-encoding", "identity").lower():
        case "gzip" | "x-gzip" if body.startswith(b"\x1f\x8b"):
            body = _unpacked(body)
        case "deflate" if body[:1] == b"\x78":
            body = _unpacked(body)
        case "br" | "zstd" as encoding:
            raise ValueError(f"the content encoding {encoding!r} is not supported")
        case _:  # crawlers often keep the field when they have unpacked the body
            pass
    return mime, charset, body


def _joined_chunks(body: bytes) -> bytes:
    """The body of a chunked transfer; a body that is none, since the crawler joined it already, stays as it is."""
    joined, at = [], 0
    while size := re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,99}\r\n").match(body, at):
        length = int(size[1], 16)
        joined.append(body[size.end() : size.end() + length])
        at = size.end() + length + 2
        if not length:
            break
    return b"".join(joined) or body


# A page is never larger once unpacked; more is a bomb.
_LARGEST_PAGE = 64 << 20


def _unpacked(body: bytes) -> bytes:
    try:
        plain = zlib.decompressobj(wbits=47).decompress(body, _LARGEST_PAGE + 1)
    except zlib.error as error:
        raise ValueError(f"damaged compressed page: {error}") from error
    if len(plain) > _LARGEST_PAGE:
        raise ValueError(f"the page unpacks to more than {_LARGEST_PAGE:,} bytes")
    return plain
