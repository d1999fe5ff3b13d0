"""Wikitext, the markup of MediaWiki, as plain text.

What makes no text is left out: templates but a few whose arguments are text, references, categories, files, tables that
are boxes. Headings, lists and tables keep their form, as in Markdown. One pass with a stack finds what is nested in
what, so that markup that never ends costs no more than any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape

import pyarrow as pa

from jaxllm.data.records import texts_of
from jaxllm.data.stages import Outcome, rewritten

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_DROPPED = ("ref", "gallery", "timeline", "imagemap", "score", "graph")
_CODE = ("pre", "syntaxhighlight", "source")
_VERBATIM = ("nowiki", "math", "chem", "code")
_PAIRED = re.compile(rf"<({'|'.join((*_DROPPED, *_CODE, *_VERBATIM))})\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]{0,20}\b[^<>]{0,500}>")
_NESTED = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ \t:]*\{\||^[ \t]*\|\}", re.MULTILINE)
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|"}
_EXTERNAL = re.compile(r"\[(?:(?:https?:|ftp:)?//|mailto:)[^\s\[\]]{1,2000}(?:[ \t]++([^\]\n]{0,2000}+))?\]")
_QUOTES = re.compile(r"'{2,5}")
_MAGIC = re.compile(r"__[A-Z]{3,25}__")
_EMPTY_BRACKETS = re.compile(r"[ \t]?\((?:[\s,;:/–—-]|&nbsp;)*\)|[ \t]?（[\s,;、，；]*）")
_BRACKET_BEGIN = re.compile(r"\([ \t]*[,;:][ \t,;:]*")
_HEADING = re.compile(r"(={1,6})\s*(.+?)\s*\1\s*")
_LONGEST_HEADING = 500
_CELL_ATTRIBUTES = re.compile(r"^[^|\[\]{}=]*+=[^|\[\]{}]*+\|(?!\|)")
_NAMED_ARGUMENT = re.compile(r"\s*+[a-zA-Z_-][a-zA-Z_ -]*+\s*+=")
_PLACEHOLDER = re.compile("\x00(\\d+)\x00")

# Names that begin links to files and categories, in the wikis with the most articles.
_NO_TEXT_LINKS = {
    "file", "image", "media", "category", "datei", "bild", "kategorie", "fichier", "catégorie", "archivo", "imagen",
    "categoría", "immagine", "categoria", "ficheiro", "imagem", "bestand", "afbeelding", "categorie", "plik", "grafika",
    "kategoria", "файл", "изображение", "категория", "зображення", "категорія", "ファイル", "画像", "カテゴリ", "文件",
    "图像", "分类", "分類", "檔案", "파일", "그림", "분류", "ملف", "صورة", "تصنيف", "پرونده", "رده", "קובץ", "קטגוריה",
    "fil", "berkas", "kategori", "dosya", "tập tin", "thể loại", "soubor", "kép", "kategória", "tiedosto", "luokka",
    "चित्र", "श्रेणी",
}  # fmt: skip
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8})?$")

# Templates that stand for text: which argument it is, counted from 1 (0: all of them, with spaces between).
_TEXT_TEMPLATES = {
    "lang": 2, "langx": 2, "transl": 2, "transliteration": 2, "nowrap": 1, "nobold": 1, "small": 1, "big": 1, "sic": 1,
    "abbr": 1, "tooltip": 1, "quote": 1, "blockquote": 1, "cquote": 1, "convert": 0, "cvt": 0, "val": 1, "as of": 0,
    "math": 1, "mvar": 1, "var": 1, "code": 1, "tt": 1, "sup": 1, "sub": 1, "em": 1, "strong": 1, "linktext": 1,
    "ill": 1, "interlanguage link": 1, "c.": 0, "circa": 0, "formatnum": 1, "gaps": 0, "text": 1, "langue": 2,
}  # fmt: skip
_SIGN_TEMPLATES = {
    "nbsp": " ", "spaces": " ", "snd": " – ", "spnd": " – ", "spaced ndash": " – ", "ndash": "–", "mdash": "—",
    "!": "|", "=": "=", "·": " · ", "•": " • ", "dot": " · ", "pi": "π", "'": "'", "-": "", "clear": "",
}  # fmt: skip
_BOX = re.compile(
    r"class\s*=\s*[\"']?[^\"'\n]{0,500}?\b(?:infobox|navbox|sidebar|metadata|ambox|toccolours|vertical-navbox)"
)


@dataclass(frozen=True)
class WikitextToText:
    """A stage that makes plain text of pages that were read with markup="raw"."""

    name: str = "wikitext to text"

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        return rewritten(batch, self.name, [wikitext_to_text(markup) for markup in texts_of(batch)])


def wikitext_to_text(markup: str) -> str:
    """The text of a page; any string is a page."""
    kept: list[str] = []  # what no rule may touch

    def keep(text: str) -> str:
        kept.append(text)
        return f"\0{len(kept) - 1}\0"

    text = _COMMENT.sub("", markup.replace("\0", ""))
    text = _resolve(_without_paired(text, keep))
    text = _EXTERNAL.sub(lambda found: found[1] or "", text)
    text = re.sub(r"<br\s*/?>", "\n", text, flags=re.IGNORECASE)
    text = _QUOTES.sub("", _MAGIC.sub("", _TAG.sub("", text)))
    text = unescape(text).replace("\xa0", " ")
    text = _BRACKET_BEGIN.sub("(", _EMPTY_BRACKETS.sub("", text))
    text = _lines(text)
    return _PLACEHOLDER.sub(lambda found: kept[int(found[1])], text)


def _without_paired(text: str, keep: Callable[[str], str]) -> str:
    """Takes out elements whose content is no wikitext; of code and formulas, the content is kept as it is."""
    pieces, at, endless = [], 0, set()
    for tag in _PAIRED.finditer(text):
        name = tag[1].lower()
        if tag.start() < at or name in endless:
            continue
        content, end = "", tag.end()
        if not tag[0].endswith("/>"):
            close = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, end)
            if not close:
                endless.add(name)
                continue
            content, end = unescape(text[end : close.start()]), close.end()
        pieces.append(text[at : tag.start()])
        if name in _CODE:
            pieces.append(keep("```\n" + content.strip("\n") + "\n```"))
        elif name in _VERBATIM:
            pieces.append(keep(content))
        at = end
    return "".join([*pieces, text[at:]])


def _resolve(text: str) -> str:
    """Replaces templates, links and tables by their text, the innermost first."""
    stack: list[tuple[str, list[str]]] = [("", [])]
    at = 0
    for token in _NESTED.finditer(text):
        stack[-1][1].append(text[at : token.start()])
        at = token.end()
        sign = token[0].strip(" \t:")
        if sign in ("{{", "[[", "{|"):
            stack.append((sign, []))
            continue
        opened = _CLOSES[sign]
        depth = next(
            (depth for depth in range(len(stack) - 1, max(0, len(stack) - 50), -1) if stack[depth][0] == opened), 0
        )
        if not depth:
            stack[-1][1].append("" if sign == "|}" else sign)
            continue
        _flatten(stack, depth)
        content = "".join(stack.pop()[1])
        stack[-1][1].append({"{{": _template, "[[": _link, "{|": _table}[opened](content))
    stack[-1][1].append(text[at:])
    _flatten(stack, 0)
    return "".join(stack[0][1])


def _flatten(stack: list[tuple[str, list[str]]], depth: int) -> None:
    """What was opened above `depth` and never closed is text."""
    for sign, parts in stack[depth + 1 :]:
        stack[depth][1].append("" if sign == "{|" else sign)
        stack[depth][1].extend(parts)
    del stack[depth + 1 :]


def _template(content: str) -> str:
    name, *arguments = content.split("|")
    name = name.strip().lower().replace("_", " ")
    if name in _SIGN_TEMPLATES:
        return _SIGN_TEMPLATES[name]
    if name.startswith("formatnum:"):
        return name.removeprefix("formatnum:")
    if name.startswith("lang-") and arguments:  # {{lang-de|text}}
        return arguments[0]
    place = _TEXT_TEMPLATES.get(name)
    if place is None:
        return ""
    plain = [argument for argument in arguments if not _NAMED_ARGUMENT.match(argument)]
    if name in ("convert", "cvt"):
        return " ".join(plain[:2])
    if name in ("as of", "c.", "circa"):
        return " ".join([{"as of": "As of"}.get(name, "c."), *plain[:1]])
    numbered = next((arg.partition("=")[2] for arg in arguments if arg.strip().startswith(f"{place}=")), None)
    if place == 0:
        return "".join(plain)
    return numbered if numbered is not None else plain[place - 1] if len(plain) >= place else ""


def _link(content: str) -> str:
    target, *rest = content.split("|")
    prefix, colon, _ = target.partition(":")
    if colon and not target.startswith(":"):
        prefix = prefix.strip().lower()
        if prefix in _NO_TEXT_LINKS or (_INTERWIKI.match(prefix) and not rest):
            return ""
    return (
        rest[-1] if rest and rest[-1].strip() else target.lstrip(":").partition("#")[0] or target.lstrip(":#")
    ).strip()


def _table(content: str) -> str:
    """A table as rows with bars between their cells; nothing of one that is a box beside the text."""
    first, _, body = content.partition("\n")
    if _BOX.search(first):
        return ""
    rows: list[list[str]] = [[]]
    for line in body.split("\n"):
        sign = line.strip()[:1]
        if line.strip().startswith("|-"):
            rows.append([])
        elif line.strip().startswith("|+"):
            rows[-1:] = [[line.strip()[2:].strip()], []]
        elif sign in ("|", "!"):
            cells = re.split(r"\|\||!!" if sign == "!" else r"\|\|", line.strip()[1:])
            rows[-1] += [_CELL_ATTRIBUTES.sub("", cell).strip() for cell in cells]
        elif rows[-1] and line.strip():
            rows[-1][-1] = f"{rows[-1][-1]} {line.strip()}".strip()
    shown = [" | ".join(row) for row in rows if any(row)]
    return "\n\n" + "\n".join(shown) + "\n\n"


def _lines(text: str) -> str:
    """Headings, lists and paragraphs, line by line; headings with nothing below them are left out."""
    done: list[str] = []
    pending: list[tuple[int, str]] = []  # headings below which nothing has come yet
    count = 0
    for line in text.split("\n"):
        stripped = re.sub(r"[ \t]+", " ", line).strip()
        heading = _HEADING.fullmatch(stripped) if len(stripped) < _LONGEST_HEADING else None
        if heading:
            level = len(heading[1])
            pending = [above for above in pending if above[0] < level] + [(level, f"{'#' * level} {heading[2]}")]
            continue
        marks = re.match(r"[*#:;]*", stripped)[0]
        body = stripped[len(marks) :].strip()
        if marks and not body:
            continue
        count = count + 1 if marks.endswith("#") else 0
        indent = "  " * (len(marks) - 1)
        match marks[-1:]:
            case "*":
                body = f"{indent}- {body}"
            case "#":
                body = f"{indent}{count}. {body}"
        if body and pending:
            done += [""] if done and done[-1] else []
            done += [part for _, title in pending for part in (title, "")]
            pending = []
        if body or (done and done[-1]):
            done.append(body)
    return "\n".join(done).strip("\n")
