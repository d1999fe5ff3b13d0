"""Main text of HTML pages: agreement with trafilatura, and speed, on the same pages in one run.

    python experiments/benchmarks/data_extraction.py /usr/share/doc/sqlite3 /usr/share/doc/python3.11 [--pages 150]

The packages python3.11-doc, sqlite3-doc and postgresql-doc-15 of Debian hold real pages. Of each folder an evenly
spaced sample is taken. F1 is that of the multiset of words (runs of letters and digits). The pages of Python have the
reStructuredText that they were made from beside them: both extractions are compared with that too.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import Counter
from pathlib import Path

from jaxllm.data.extraction.html import extract

_WORD = re.compile(r"\w+")


def f1(found: str, wanted: str) -> float:
    """Of two texts as bags of words."""
    a, b = Counter(_WORD.findall(found)), Counter(_WORD.findall(wanted))
    common = sum((a & b).values())
    return 2 * common / (a.total() + b.total()) if common else float(not a and not b)


def sample_of(folder: str, count: int) -> list[Path]:
    """An evenly spaced sample of the HTML files below a folder, each of 2 kB to 500 kB."""
    files = sorted(file for file in Path(folder).rglob("*.html") if 2000 < file.stat().st_size < 500_000)
    step = max(1, len(files) // count)
    return files[::step][:count]


def written_source(page: Path) -> str | None:
    """What a page that Sphinx made was made from, if it is there."""
    for root in page.parents:
        source = (root / "_sources" / page.relative_to(root)).with_suffix(".rst.txt")
        if source.is_file():
            return source.read_text(encoding="utf-8", errors="replace")
    return None


def main() -> None:
    import trafilatura

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--pages", type=int, default=150, help="of each folder")
    parser.add_argument("--worst", type=int, default=0, help="show so many of the pages with the lowest F1")
    arguments = parser.parse_args()
    print(f"{'folder':<24}{'pages':>6}{'MB':>7}{'F1':>8}{'median':>8}{'ours/s':>10}{'theirs/s':>10}{'ratio':>7}")
    for folder in arguments.folders:
        files = sample_of(folder, arguments.pages)
        pages = [file.read_text(encoding="utf-8", errors="replace") for file in files]
        megabytes = sum(map(len, pages)) / 1e6
        start = time.perf_counter()
        ours = [extract(page).text for page in pages]
        middle = time.perf_counter()
        theirs = [trafilatura.extract(page, include_comments=False) or "" for page in pages]
        end = time.perf_counter()
        scores = [f1(a, b) for a, b in zip(ours, theirs, strict=True)]
        own, other = megabytes / (middle - start), megabytes / (end - middle)
        print(
            f"{folder[-23:]:<24}{len(pages):>6}{megabytes:>7.1f}{statistics.mean(scores):>8.3f}"
            f"{statistics.median(scores):>8.3f}{own:>7.1f} MB{other:>7.1f} MB{own / other:>7.1f}"
        )
        known = [(a, b, c) for a, b, c in zip(ours, theirs, map(written_source, files), strict=True) if c]
        if known:
            own, other = (statistics.mean(f1(row[i], row[2]) for row in known) for i in (0, 1))
            print(f"  against what {len(known)} of them were made from: F1 {own:.3f} ours, {other:.3f} theirs")
        for score, a, b in sorted(zip(scores, ours, theirs, strict=True))[: arguments.worst]:
            print(f"--- F1 {score:.3f}: {len(a)} and {len(b)} characters\n{a[:700]}\n--- theirs\n{b[:700]}")


if __name__ == "__main__":
    main()
