"""An HTML page as a list of text blocks, each with what is needed to tell main text from boilerplate.

No tree is built: one regular expression finds the tags, and a stack of the open elements says where a block lies. It
all takes less time than the standard library's html.parser with handlers that do nothing, and any string is a page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape

# Possessive quantifiers, and bounds on what a tag holds, keep a page of nothing but quotes from taking quadratic time.
_TAG = re.compile(
    r"<(?:(?P<close>/?)(?P<name>[a-zA-Z][a-zA-Z0-9:-]{0,40})"
    r"(?P<attributes>(?:[^>\"']++|\"[^\"]{0,99999}+\"|'[^']{0,99999}+'){0,300}+|[^>]*+)>"
    r"|!--(?P<comment>)|[!?/][^>]*>)"
)
_ATTRIBUTE = re.compile(r"([a-zA-Z:-]+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?")
_SPACE = re.compile(r"[ \t\n\r\f\xa0]+")
_NOT_TEXT = {"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "select", "textarea"} | {
    "canvas", "audio", "video", "datalist", "button", "title"
}  # fmt: skip
_END = {name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE) for name in _NOT_TEXT}

# Elements inside so many others are not told apart from what holds them; browsers draw the same line.
_DEEPEST = 512

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CONTAINERS = {
    "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "html", "li", "main", "menu", "nav", "ol",
    "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul", "caption", "search",
    *_HEADINGS,
}  # fmt: skip
# An element of the first kind ends an open one of the second when it begins, if none of the third lies between.
_LIST = {"ul", "ol", "menu"}
_ENDS = {
    "li": ({"li"}, _LIST),
    "dt": ({"dt", "dd"}, {"dl"}),
    "dd": ({"dt", "dd"}, {"dl"}),
    "tr": ({"tr", "td", "th"}, {"table"}),
    "td": ({"td", "th"}, {"tr", "table"}),
    "th": ({"td", "th"}, {"tr", "table"}),
}
_ENDS_PARAGRAPH = _CONTAINERS - {"body", "html", "td", "th", "tr", "tbody", "thead", "tfoot", "caption"}

_BOILERPLATE_TAGS = {"nav", "footer", "aside", "dialog", "menu", "search"}
_BOILERPLATE_ROLES = {
    "navigation", "banner", "contentinfo", "search", "complementary", "dialog", "alertdialog", "menu", "menubar",
    "toolbar", "tablist", "button",
}  # fmt: skip
# Words of a class or an id, between hyphens, underscores and spaces.
_BOILERPLATE_WORDS = {
    "ad", "ads", "advert", "advertisement", "banner", "breadcrumb", "breadcrumbs", "byline", "comment", "comments",
    "consent", "cookie", "cookies", "copyright", "disqus", "editsection", "footer", "gdpr", "headerlink", "hidden",
    "login", "masthead", "menu", "metadata", "modal", "nav", "navbar", "navbox", "navfooter", "navheader", "navigation",
    "newsletter", "noprint", "pager", "pagination", "popup", "promo", "promoted", "rail", "recommended", "related",
    "relbar", "share", "sharing", "sidebar", "signup", "skip", "skiplink", "social", "sponsor", "sponsored",
    "subscribe", "taboola", "tags", "toc", "toolbar", "topbar", "widget",
}  # fmt: skip
# The text of links that lead to the heading beside them.
_ANCHORS = {"¶", "#", "§", "🔗"}
_WORDS = re.compile(r"[a-z]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


@dataclass(slots=True)
class Element:
    name: str
    number: int
    parent: int
    boilerplate: bool
    item: str = ""
    """of a list item, what stands in front of it"""


@dataclass(slots=True)
class Block:
    """Text without a line break by markup: a paragraph, a heading, a list item, a row of a table, a code block."""

    text: str
    kind: str
    """the element that gives it its form: "p", "h1" to "h6", "li", "pre", "tr", "dt" or "dd" """
    prefix: str
    """of a list item, its indentation and bullet"""
    element: int
    """the innermost element that holds it"""
    link_characters: int
    boilerplate: bool
    """whether an element around it says that it is none of the main text"""


@dataclass
class Page:
    blocks: list[Block] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """of each element, the one that holds it; the first is the page"""
    names: list[str] = field(default_factory=list)
    metas: dict[str, str] = field(default_factory=dict)
    title: str = ""
    language: str = ""
    licence: str = ""
    canonical: str = ""
    time: str = ""


def attributes(raw: str) -> dict[str, str]:
    """The attributes of a tag, names in lower case; of equal names the first counts."""
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(raw):
        found.setdefault(name.lower(), unescape(double or single or bare))
    return found


def read_page(html: str) -> Page:
    return _PageReader(html).read()


class _PageReader:
    def __init__(self, html: str):
        self._html = html
        self.page = Page(parents=[0], names=[""])
        self._stack = [Element("", 0, 0, False)]
        self._text: list[str] = []
        self._link_characters = 0
        self._in_link = self._in_pre = 0
        self._endless: set[str] = set()  # elements without text that are never closed from here on
        self._link_text = 0  # where the text of the open link begins
        self._row: list[int] = []  # where the blocks of each cell of the open row begin
        self._counters: list[int] = []  # of each open list, how many items it has had; -1 where they have bullets

    def read(self) -> Page:
        html, at, last = self._html, 0, self._html.rfind(">")
        search = _TAG.search
        while at <= last and (tag := search(html, at)):
            if tag.start() > at:
                self._add(html[at : tag.start()])
            at = tag.end()
            name = tag["name"]
            if name is None:
                if tag["comment"] is not None:
                    end = html.find("-->", at)
                    at = end + 3 if end >= 0 else len(html)
                continue
            name = name.lower()
            if tag["close"]:
                self._close(name)
            elif name in _NOT_TEXT:
                closes = name not in self._endless and (not tag["attributes"].endswith("/") or name == "script")
                end = _END[name].search(html, at) if closes else None
                if end:
                    if name == "title" and not self.page.title:
                        self.page.title = _SPACE.sub(" ", unescape(html[at : end.start()])).strip()
                    at = end.start()
                elif name in ("script", "style"):
                    at = len(html)
                elif closes:
                    self._endless.add(name)
            else:
                self._open(name, tag["attributes"])
        self._add(html[at:].partition("<!--")[0])
        self._flush()
        return self.page

    def _add(self, text: str) -> None:
        if "&" in text:
            text = unescape(text)
        self._text.append(text)
        if self._in_link:
            self._link_characters += len(text.strip())

    def _open(self, name: str, raw: str) -> None:
        if name == "a":
            self._in_link, self._link_text = 1, len(self._text)
            if "license" in raw:
                self._note_link(attributes(raw))
        elif name in _CONTAINERS:
            self._open_container(name, raw)
        elif name == "br":
            self._text.append("\n" if self._in_pre else " ")
        elif name == "hr":
            self._flush()
        elif name in ("meta", "link", "time"):
            self._note(name, attributes(raw))
        elif raw and ("editsection" in raw or "headerlink" in raw) and name == "span":
            self._open_container(name, raw)

    def _open_container(self, name: str, raw: str) -> None:
        stack = self._stack
        if stack[-1].name == "p" and name in _ENDS_PARAGRAPH:
            self._pop(len(stack) - 1)
        if name in _ENDS:
            ended, stops = _ENDS[name]
            for depth in range(len(stack) - 1, 0, -1):
                if stack[depth].name in stops:
                    break
                if stack[depth].name in ended:
                    self._pop(depth)
                    break
        found = attributes(raw) if raw and not raw.isspace() else {}
        if name == "html":
            self.page.language = self.page.language or found.get("lang", found.get("xml:lang", ""))
            return
        self._flush()
        if len(stack) > _DEEPEST:
            return
        number = len(self.page.parents)
        parent = stack[-1]
        self.page.parents.append(parent.number)
        self.page.names.append("main" if found.get("role") == "main" else name)
        element = Element(name, number, parent.number, parent.boilerplate or _is_boilerplate(name, found))
        stack.append(element)
        match name:
            case "pre":
                self._in_pre += 1
            case "ul" | "menu" | "ol":
                start = found.get("start", "1")
                ordered = name == "ol"
                self._counters.append(
                    int(start) - 1 if ordered and start.isascii() and start.isdigit() else -(not ordered)
                )
            case "li":
                element.item = self._bullet()
            case "tr":
                self._row = []
            case "td" | "th":
                self._row.append(len(self.page.blocks))

    def _bullet(self) -> str:
        if not self._counters:
            return "- "
        indent = "  " * (len(self._counters) - 1)
        if self._counters[-1] < 0:
            return indent + "- "
        self._counters[-1] += 1
        return f"{indent}{self._counters[-1]}. "

    def _close(self, name: str) -> None:
        if name == "a":
            self._in_link = 0
            if "".join(self._text[self._link_text :]).strip() in _ANCHORS:
                del self._text[self._link_text :]
            return
        if name == "p" and self._stack[-1].name != "p":
            self._flush()
            return
        # A closing tag without its opening one is passed over; so is one that would close the cell of a table.
        for depth in range(len(self._stack) - 1, 0, -1):
            if self._stack[depth].name == name:
                self._pop(depth)
                return
            if self._stack[depth].name in ("td", "th") and name not in ("table", "tr", "tbody", "body", "html"):
                return

    def _pop(self, depth: int) -> None:
        """Closes the elements of the stack from `depth` on."""
        self._flush()
        while len(self._stack) > depth:
            element = self._stack.pop()
            match element.name:
                case "pre":
                    self._in_pre -= 1
                case "ul" | "ol" | "menu":
                    self._counters.pop()
                case "tr":
                    self._join_row()

    def _flush(self) -> None:
        """What was read since the last block becomes one, if it is not blank."""
        if not self._text:
            return
        text = "".join(self._text)
        self._text.clear()
        link_characters, self._link_characters = self._link_characters, 0
        text = text.strip("\r\n").rstrip() if self._in_pre else _SPACE.sub(" ", text).strip()
        if not text or text.isspace():
            return
        kind, prefix, element = "p", "", self._stack[-1]
        if self._in_pre:
            kind = "pre"
        else:
            for around in self._stack[:0:-1]:
                if around.name in _HEADINGS or around.name in ("dt", "dd"):
                    kind = around.name
                    break
                if around.name == "li":
                    kind, prefix = "li", around.item
                    around.item = " " * len(prefix)  # what follows in the same item is indented as far
                    break
                if around.name in ("td", "th", "ul", "ol", "table"):
                    break
        self.page.blocks.append(Block(text, kind, prefix, element.number, link_characters, element.boilerplate))

    def _join_row(self) -> None:
        """Makes one block of the cells of a row, unless it is there for the layout and its cells hold whole texts."""
        blocks, starts = self.page.blocks, self._row
        self._row = []
        if len(starts) < 2 or len(blocks) <= starts[0]:
            return
        cells = [blocks[begin:end] for begin, end in zip(starts, [*starts[1:], len(blocks)], strict=True)]
        if any(len(cell) > 2 or any(block.kind != "p" for block in cell) for cell in cells):
            return
        joined = blocks[starts[0] :]
        del blocks[starts[0] :]
        text = " | ".join(" ".join(block.text for block in cell) for cell in cells)
        row = self._stack[-1]
        links = sum(block.link_characters for block in joined)
        boilerplate = all(block.boilerplate for block in joined)
        blocks.append(Block(text, "tr", "", row.number, links, boilerplate))

    # What a page says of itself

    def _note(self, name: str, found: dict[str, str]) -> None:
        match name:
            case "meta":
                key = found.get("property") or found.get("name") or found.get("itemprop") or ""
                if key and "content" in found:
                    self.page.metas.setdefault(key.lower(), found["content"].strip())
            case "link":
                self._note_link(found)
            case "time":
                self.page.time = self.page.time or found.get("datetime", "")

    def _note_link(self, found: dict[str, str]) -> None:
        relations = found.get("rel", "").lower().split()
        if "license" in relations and not self.page.licence:
            self.page.licence = found.get("href", "")
        if "canonical" in relations and not self.page.canonical:
            self.page.canonical = found.get("href", "")


def _is_boilerplate(name: str, found: dict[str, str]) -> bool:
    """Whether an element says of itself that it holds none of the main text."""
    if name in _BOILERPLATE_TAGS:
        return True
    if not found or name in ("body", "main", "article"):
        return False
    if "hidden" in found or found.get("aria-hidden") == "true" or found.get("role") in _BOILERPLATE_ROLES:
        return True
    if "style" in found and _HIDDEN_STYLE.search(found["style"]):
        return True
    words = f"{found.get('class', '')} {found.get('id', '')}"
    return words != " " and not _BOILERPLATE_WORDS.isdisjoint(_WORDS.findall(_CAMEL.sub(" ", words).lower()))
