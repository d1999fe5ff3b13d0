"""The main text of an HTML page, without menus, footers and other boilerplate, readable as plain text.

Blocks of text are told apart by where they lie (elements that say they are navigation), by their length and by how much
of them is links, as in Kohlschütter, Fankhauser and Nejdl, "Boilerplate Detection using Shallow Text Features" (2010).
What is kept lies in the smallest element that holds most of the running text. Headings, lists, tables and code keep
their form, as in Markdown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pyarrow as pa

from jaxllm.data.extraction.html_blocks import Block, Page, read_page
from jaxllm.data.records import texts_of
from jaxllm.data.stages import Outcome, rewritten

# A block of running text: long enough, and little of it links.
_RUNNING_CHARACTERS = 80
_RUNNING_LINKS = 0.33
# A block that is mostly links is kept nowhere.
_MOSTLY_LINKS = 0.6
# The part of the running text that the chosen element has to hold.
_MOST = 0.9
# The elements that may hold a main text; a list or a table may hold most of it and yet not its begin.
_CAN_BE_MAIN = {"body", "main", "article", "section", "div", "table", "tbody", "tr", "td", "center", "form", "fieldset"}
# A page of which less than this is left was misjudged by the names of its elements, which are then not believed.
_TOO_LITTLE = 0.1
# But a page of links, with a notice below it, has no main text.
_ENOUGH = 1000

# Blocks that come in runs, which are judged as a whole: a glossary may have links for its terms.
_ENUMERATED = {"li": "list", "tr": "table", "dt": "glossary", "dd": "glossary"}

_SENTENCE = re.compile(r"[.!?…。！？؟।:]")


@dataclass(frozen=True)
class Extracted:
    """The main text of a page, "" if there is none, and what the page says of itself."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """of title, language, date, author, licence, canonical_url those that the page names"""


@dataclass(frozen=True)
class HtmlToText:
    """A stage that makes the main text of pages that were read with markup="raw"."""

    name: str = "html to text"

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        return rewritten(batch, self.name, [extract(html).text for html in texts_of(batch)])


def extract(html: str) -> Extracted:
    """The main text of a page and its metadata; any string is a page."""
    page = read_page(html)
    return Extracted(_main_text(page), _metadata(page))


def _main_text(page: Page) -> str:
    if not page.blocks:
        return ""
    believed = [block for block in page.blocks if not block.boilerplate]
    text = _rendered(_main_blocks(page, believed))
    everything = sum(len(block.text) for block in page.blocks if not _is_links(block))
    if len(text) < _TOO_LITTLE * everything:
        doubted = _rendered(_main_blocks(page, page.blocks))
        return doubted if len(doubted) >= _ENOUGH else text
    return text


def _is_links(block: Block) -> bool:
    return block.link_characters > _MOSTLY_LINKS * len(block.text)


def _is_running(block: Block) -> bool:
    if block.kind == "pre":
        return True
    return (
        len(block.text) >= _RUNNING_CHARACTERS
        and block.link_characters < _RUNNING_LINKS * len(block.text)
        and bool(_SENTENCE.search(block.text))
    )


def _main_blocks(page: Page, blocks: list[Block]) -> list[Block]:
    """The blocks of the main element, without those that are links."""
    weights: dict[int, int] = {}
    total = 0
    for block in blocks:
        if _is_running(block):
            total += len(block.text)
            weights[block.element] = weights.get(block.element, 0) + len(block.text)
    main = _main_element(page, weights, total)
    inside = _descendants(page, main)
    chosen = [block for block in blocks if inside[block.element]]
    return _without_link_lists([block for block in chosen if block.kind in _ENUMERATED or not _is_links(block)])


def _main_element(page: Page, own: dict[int, int], total: int) -> int:
    """The innermost element that holds most of the running text; an element comes after its parent in number."""
    held = [0] * len(page.parents)
    for element, weight in own.items():
        held[element] += weight
    for element in range(len(held) - 1, 0, -1):
        held[page.parents[element]] += held[element]
    main = 0
    for element in range(1, len(held)):
        if page.parents[element] != main:
            continue
        if held[element] > _MOST * total and page.names[element] in _CAN_BE_MAIN:
            main = element
    return main


def _descendants(page: Page, main: int) -> list[bool]:
    inside = [False] * len(page.parents)
    inside[main] = True
    for element in range(main + 1, len(inside)):
        inside[element] = inside[page.parents[element]]
    return inside


def _without_link_lists(blocks: list[Block]) -> list[Block]:
    """Leaves out lists and tables that are links in all, and headings that head nothing."""
    kept: list[Block] = []
    at = 0
    while at < len(blocks):
        end = at + 1
        if blocks[at].kind in _ENUMERATED:
            while end < len(blocks) and _ENUMERATED.get(blocks[end].kind) == _ENUMERATED[blocks[at].kind]:
                end += 1
            run = blocks[at:end]
            if sum(block.link_characters for block in run) > _MOSTLY_LINKS * sum(len(block.text) for block in run):
                at = end
                continue
        kept += blocks[at:end]
        at = end
    return [
        block
        for block, following in zip_longest(kept, kept[1:])
        if not (
            block.kind[0] == "h" and (following is None or following.kind[0] == "h" and following.kind <= block.kind)
        )
    ]


def _rendered(blocks: list[Block]) -> str:
    """Blocks as text: a blank line between them, but not between the items of a list or the rows of a table."""
    pieces: list[str] = []
    before = ""
    for block in blocks:
        close = block.kind == before and block.kind in ("li", "tr")
        if pieces:
            pieces.append("\n" if close else "\n\n")
        match block.kind:
            case "pre":
                pieces.append(f"```\n{block.text}\n```")
            case "li":
                pieces.append(block.prefix + block.text)
            case heading if heading[0] == "h":
                pieces.append("#" * int(heading[1]) + " " + block.text)
            case _:
                pieces.append(block.text)
        before = block.kind
    return "".join(pieces)


_TITLES = ("og:title", "twitter:title", "dc.title")
_DATES = ("article:published_time", "date", "dc.date", "datepublished", "pubdate", "citation_date", "og:updated_time")
_AUTHORS = ("author", "article:author", "dc.creator", "citation_author")


def _metadata(page: Page) -> dict[str, Any]:
    def first(names: tuple[str, ...], otherwise: str) -> str:
        return next((page.metas[name] for name in names if page.metas.get(name)), otherwise)

    found = {
        "title": page.title or first(_TITLES, ""),
        "language": page.language or page.metas.get("og:locale", ""),
        "date": first(_DATES, page.time),
        "author": first(_AUTHORS, ""),
        "licence": page.licence or page.metas.get("dc.rights", ""),
        "canonical_url": page.canonical or page.metas.get("og:url", ""),
    }
    return {name: value for name, value in found.items() if value}
