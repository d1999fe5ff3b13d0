"""WARC and WET files: records, damage, parts; and agreement with warcio."""

import gzip
import time
import zlib

import pytest

from jaxllm.data.sources import Files, warc

PARAGRAPH = "The harbour of the old town was quiet that morning, and nobody had seen the ships come in. " * 2


def record(
    kind: str, content: bytes, number: int, content_type: str = "application/http; msgtype=response", **more
) -> bytes:
    fields = {
        "WARC-Type": kind,
        "WARC-Target-URI": f"https://site.example/{number}",
        "WARC-Date": "2024-05-01T00:00:00Z",
        "WARC-Record-ID": f"<urn:uuid:00000000-0000-0000-0000-{number:012}>",
        "Content-Type": content_type,
        "Content-Length": str(len(content)),
        **more,
    }
    head = "WARC/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"\r\n" + content + b"\r\n\r\n"


def response(number: int, body: bytes | str, headers: str = "Content-Type: text/html", status: str = "200 OK") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return record("response", f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body, number)


def page(number: int) -> str:
    return f"<html lang=en><title>Page {number}</title><p>Number {number}. {PARAGRAPH}</p></html>"


def wet(number: int) -> bytes:
    more = {"WARC-Identified-Content-Language": "eng"}
    return record("conversion", f"Text {number}: {PARAGRAPH}".encode(), number, "text/plain", **more)


INFO = record("warcinfo", b"software: none\r\n", 0, "application/warc-fields")


def read(path, **settings):
    problems = []
    return [d for shard in Files(str(path), **settings).shards() for d in shard.read(problems.append)], problems


def write(path, records):
    compressed = path.name.endswith(".gz")
    path.write_bytes(b"".join(gzip.compress(one, mtime=0) if compressed else one for one in records))
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_responses_and_conversions_become_documents(tmp_path, suffix):
    records = [INFO, record("request", b"GET / HTTP/1.1\r\n\r\n", 1), response(1, page(1)), wet(2)]
    path = write(tmp_path / f"a.warc{suffix}", records)
    [html, text], problems = read(path)
    assert not problems
    assert html.text == f"Number 1. {PARAGRAPH}".strip() and text.text == f"Text 2: {PARAGRAPH}"
    offsets = [sum(len(gzip.compress(r, mtime=0) if suffix else r) for r in records[:i]) for i in (2, 3)]
    assert [html.name, text.name] == [f"a.warc{suffix}:{offset}" for offset in offsets]
    assert html.metadata == {
        "url": "https://site.example/1",
        "date": "2024-05-01T00:00:00Z",
        "record_id": "<urn:uuid:00000000-0000-0000-0000-000000000001>",
        "charset": "utf-8",
        "title": "Page 1",
        "language": "en",
    }
    assert text.metadata["language"] == "eng"


def test_what_is_no_page_is_passed_over(tmp_path):
    records = [
        response(1, page(1), status="404 Not Found"),
        response(2, b"\x89PNG", "Content-Type: image/png"),
        response(3, "", "Content-Type: text/html"),
        record("metadata", b"x: y", 4, "application/warc-fields"),
        response(5, "just text", "Content-Type: text/plain; charset=utf-8"),
    ]
    documents, problems = read(write(tmp_path / "a.warc.gz", records))
    assert [document.text for document in documents] == ["just text"] and not problems


@pytest.mark.parametrize(
    ("charset", "header", "meta"),
    [
        ("utf-8", "", ""),
        ("windows-1252", "; charset=ISO-8859-1", ""),
        ("shift_jis", "; charset=Shift_JIS", ""),
        ("koi8-r", "", "<meta charset=koi8-r>"),
        ("koi8-r", "; charset=utf-8", "<meta charset=koi8-r>"),
        ("gb18030", "", '<meta http-equiv="Content-Type" content="text/html; charset=gb2312">'),
        ("euc-kr", '; charset="euc-kr"', ""),
    ],
)
def test_the_encoding_is_found(tmp_path, charset, header, meta):
    text = {
        "shift_jis": "日本語の文章。",
        "koi8-r": "Русский текст.",
        "gb18030": "中文文本。",
        "euc-kr": "한국어 글.",
    }.get(charset, "Déjà vu – naïve.")
    html = f"<html>{meta}<p>{text * 20}</p>"
    path = write(tmp_path / "a.warc", [response(1, html.encode(charset), f"Content-Type: text/html{header}")])
    [document], _ = read(path)
    assert document.text == text * 20


@pytest.mark.parametrize("encoding", ["chunked", "gzip", "deflate", "gzip, but unpacked by the crawler"])
def test_transfer_and_content_encodings(tmp_path, encoding):
    body = page(1).encode()
    header = f"Content-Encoding: {encoding.partition(',')[0]}"
    match encoding:
        case "chunked":
            header = "Transfer-Encoding: chunked"
            body = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + b"0\r\n\r\n"
        case "gzip":
            body = gzip.compress(body)
        case "deflate":
            body = zlib.compress(body)
    [document], problems = read(write(tmp_path / "a.warc", [response(1, body, f"Content-Type: text/html\r\n{header}")]))
    assert document.text.startswith("Number 1.") and not problems


def test_parts_of_a_file_together_are_the_file(tmp_path):
    path = write(tmp_path / "a.warc.gz", [INFO, *(response(i, page(i)) for i in range(60))])
    whole, _ = read(path)
    shards = Files(str(path), shard_bytes=2000).shards()
    assert len(shards) > 4 and len(whole) == 60
    assert [document for shard in shards for document in shard.read()] == whole


# Damage


def test_a_damaged_member_loses_only_its_record(tmp_path):
    records = [gzip.compress(response(i, page(i)), mtime=0) for i in range(5)]
    bad = bytearray(records[2])
    bad[60:70] = bytes(10)
    (tmp_path / "a.warc.gz").write_bytes(b"".join([*records[:2], bytes(bad), *records[3:]]))
    documents, [problem] = read(tmp_path)
    assert [document.metadata["title"] for document in documents] == ["Page 0", "Page 1", "Page 3", "Page 4"]
    assert problem.where == f"offset {len(records[0]) + len(records[1])}" and "damaged gzip" in problem.message


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_truncated_file_keeps_its_whole_records(tmp_path, suffix):
    path = write(tmp_path / f"a.warc{suffix}", [response(i, page(i)) for i in range(3)])
    path.write_bytes(path.read_bytes()[:-100])
    documents, [problem] = read(path)
    assert len(documents) == 2 and "ends inside" in problem.message and "offset" in problem.where


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"Content-Length: ", b"Content-Length: x", "Content-Length must be a number"),
        (b"WARC/1.0", b"CRAW/1.0", "expected WARC/1.0 or WARC/1.1, found b'CRAW/1.0"),
        (b"HTTP/1.1 200", b"HXXP/1.1 200", "expected an HTTP response"),
        (
            b"Content-Type: text/html",
            b"Content-Type: text/html\r\nContent-Encoding: br",
            "encoding 'br' is not supported",
        ),
    ],
)
def test_a_record_that_is_none(tmp_path, suffix, old, new, message):
    records = [response(i, page(i)) for i in range(3)]
    head, content = records[1].split(b"\r\n\r\n", 1)
    grown = len(new) - len(old) if old in content else 0
    head = head.replace(b"Content-Length: %d" % (len(content) - 4), b"Content-Length: %d" % (len(content) - 4 + grown))
    records[1] = (head + b"\r\n\r\n" + content).replace(old, new, 1)
    documents, [problem] = read(write(tmp_path / f"a.warc{suffix}", records))
    assert [document.metadata["title"] for document in documents] == ["Page 0", "Page 2"]
    assert message in problem.message
    offset = len(gzip.compress(records[0], mtime=0)) if suffix else len(records[0])
    assert problem.where == f"record at offset {offset}"


def test_a_record_that_is_too_long_is_passed_over(tmp_path):
    records = [response(1, page(1)), response(2, page(2) * 2000), response(3, page(3))]
    documents, [problem] = read(write(tmp_path / "a.warc.gz", records), max_document_bytes=100_000)
    assert [document.metadata["title"] for document in documents] == ["Page 1", "Page 3"]
    assert "longer than a document may be" in problem.message


def test_a_page_that_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(warc, "_LARGEST_PAGE", 1 << 20)
    body = gzip.compress(bytes(2 << 20))
    headers = "Content-Type: text/html\r\nContent-Encoding: gzip"
    documents, [problem] = read(write(tmp_path / "a.warc", [response(1, body, headers), wet(2)]))
    assert len(documents) == 1 and "unpacks to more than" in problem.message


def test_warcio_reads_the_same_records(tmp_path):
    archive = pytest.importorskip("warcio.archiveiterator", reason="needs warcio (make parity)")
    writer = pytest.importorskip("warcio.warcwriter", reason="needs warcio (make parity)")
    headers = pytest.importorskip("warcio.statusandheaders", reason="needs warcio (make parity)")
    path = tmp_path / "a.warc.gz"
    import io

    with open(path, "wb") as file:
        made = writer.WARCWriter(file, gzip=True)
        for i in range(5):
            status = headers.StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            payload = io.BytesIO(page(i).encode())
            made.write_record(
                made.create_warc_record(f"http://a/{i}", "response", payload=payload, http_headers=status)
            )
    documents, problems = read(path, markup="raw")
    with open(path, "rb") as file:
        theirs = []
        iterator = archive.ArchiveIterator(file)
        for one in iterator:
            html = one.content_stream().read().decode()
            theirs.append((f"a.warc.gz:{iterator.get_record_offset()}", html, one.rec_headers["WARC-Target-URI"]))
    assert [(d.name, d.text, d.metadata["url"]) for d in documents] == theirs and not problems


def test_lengths_that_are_no_numbers_python_reads(tmp_path):
    bad = response(1, page(1)).replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5000)
    documents, problems = read(write(tmp_path / "a.warc", [bad, response(2, page(2))]))
    assert [d.metadata["url"] for d in documents] == ["https://site.example/2"]
    assert "Content-Length" in str(problems[0])


def test_a_header_in_many_small_members_takes_no_more_time(tmp_path):
    head = b"WARC/1.0\r\n" + b"".join(b"Field-%06d: x" % i for i in range(20_000))
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(head[at : at + 13], 1, mtime=0) for at in range(0, len(head), 13)))
    start = time.process_time()
    read(path)
    assert time.process_time() - start < 4
