"""How fast documents are read, cleaned and searched for personal data, in MB of UTF-8 text a second on one core.

    python experiments/benchmarks/data_sources.py [--data FILE_OR_FOLDER] [--megabytes 20]

Without --data, the text is Python's own documentation and source code. Each format is written once to a temporary
folder and read back from there; of WARC, the pages are the texts in a minimum of HTML.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import tempfile
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jaxllm.data.cleaning import Clean
from jaxllm.data.documents import read_documents
from jaxllm.data.pii import find
from jaxllm.data.sources import Files
from jaxllm.data.stdlib import stdlib_documents


def warc_record(number: int, text: str) -> bytes:
    html = f"<html><title>{number}</title><body><p>{escape(text)}</p></body></html>".encode()
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(body)}\r\n\r\n"
    return gzip.compress(head.encode() + body + b"\r\n\r\n", 6)


def write_all(texts: list[str], folder: Path) -> None:
    lines = "".join(json.dumps({"text": text, "url": f"https://a/{i}"}) + "\n" for i, text in enumerate(texts)).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet", compression="zstd")
    (folder / "a.warc.gz").write_bytes(b"".join(warc_record(i, text) for i, text in enumerate(texts)))
    pages = (f"<page><title>{i}</title><ns>0</ns><id>{i}</id><revision><text>{escape(text)}</text></revision></page>\n"
             for i, text in enumerate(texts))  # fmt: skip
    (folder / "a.xml.bz2").write_bytes(bz2.compress(("<mediawiki>" + "".join(pages) + "</mediawiki>").encode()))


def rate(megabytes: float, work: Callable[[], object]) -> str:
    start = time.perf_counter()
    work()
    return f"{megabytes / (time.perf_counter() - start):8.1f} MB/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--megabytes", type=float, default=20)
    arguments = parser.parse_args()
    texts, size = [], 0
    for document in read_documents(arguments.data) if arguments.data else stdlib_documents(include_source=True):
        texts.append(document.text)
        size += len(document.text.encode())
        if size > arguments.megabytes * 1e6:
            break
    megabytes = size / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        write_all(texts, Path(folder))
        for file in sorted(Path(folder).iterdir()):
            for markup in ("raw", "text") if file.suffixes[0] in (".warc", ".xml") else ("text",):
                [shard] = Files(str(file), markup=markup).shards()
                shown = f"read {file.name[1:]}" + (f" as {markup}" if file.suffixes[0] in (".warc", ".xml") else "")
                print(f"{shown:<28}{rate(megabytes, lambda shard=shard: sum(1 for _ in shard.read(print)))}")
    clean = Clean()
    print(f"{'clean':<28}{rate(megabytes, lambda: [clean.cleaned(text) for text in texts])}")
    print(f"{'find personal data':<28}{rate(megabytes, lambda: [find(text) for text in texts])}")


if __name__ == "__main__":
    main()
