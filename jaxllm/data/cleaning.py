"""Text made even: repaired Unicode, one kind of line end and space, no invisible characters, no lines of boilerplate.

Letters of every script stay. What is removed is what has no meaning in running text, and each kind by a choice.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from jaxllm.data.records import texts_of
from jaxllm.data.stages import Outcome, rewritten
from jaxllm.data.unicode_repair import repair_mojibake

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Control characters, and code points that will never be characters.
_CONTROLS = "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufdd0-\ufdef\ufffe\uffff"
# Soft hyphens, zero-width spaces, byte order marks, invisible operators, and what turns the direction of text.
_INVISIBLE = "\u00ad\u200b\u2060-\u2064\u206a-\u206f\ufeff\u180e\u202a-\u202e\u2066-\u2069"
_NEVER_SHOWN = re.compile(f"[{_CONTROLS}{_INVISIBLE}]")
# Joiners shape Persian, the scripts of India and emoji; beside ASCII and blanks they do nothing.
_IDLE_JOINERS = re.compile("(?:^|(?<=[\x00-\x7f]))[\u200c\u200d]+|(?<![\u200c\u200d])[\u200c\u200d]++(?=[\x00-\x7f]|$)")
_ODD_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_ODD_SPACE = re.compile(f"[{_ODD_SPACES}]")
# One search for all of the above is what makes clean text pass quickly.
_ODD = re.compile(f"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029\u200c\u200d{_CONTROLS}{_INVISIBLE}{_ODD_SPACES}]")
# Two or more blanks behind something that is none: looked for by the blanks, which is faster than by what they follow.
_SPACES_INSIDE = re.compile(r"[ \t]{2}(?<=\S[ \t]{2})[ \t]*")
_SPACES_AT_END = re.compile(r"(?<![ \t])[ \t]++\n")
_BLANK_LINES = re.compile(r"\n{3,}")

# An address ends before punctuation that closes the sentence around it.
_URL = re.compile(
    r"\b(?:https?://|ftp://|www\.)(?:[^\s<>\"'`\[\]{}|\\^()]|\([^\s()]{0,200}\)){2,2000}(?<![.,;:!?])", re.IGNORECASE
)

# A short line with one of these is no text of the page's author. Languages with much of the web are covered.
_BOILERPLATE = (
    r"(?:we|this (?:web ?)?site|our (?:web ?)?site) uses? cookies", r"uses? cookies (?:to|and)",
    r"cookie (?:policy|settings|preferences|consent)", r"accept (?:all )?cookies",
    r"(?:enable|activate|turn on) java ?script", r"java ?script (?:is|must be|seems to be|to be) (?:dis|en)abled",
    r"java ?script (?:is|must be) (?:required|turned on)", r"requires? java ?script",
    r"your browser (?:does not|doesn.t) support", r"all rights reserved",
    r"terms (?:of (?:use|service)|and conditions) (?:\||and|&|·) privacy",
    r"privacy policy (?:\||and|&|·) (?:terms|cookie)",
    r"subscribe to (?:our|the) newsletter", r"sign up for (?:our|the) newsletter",
    r"share (?:this )?on (?:facebook|twitter|x|linkedin|whatsapp|pinterest)", r"follow us on",
    r"skip to (?:main )?content", r"click here to (?:subscribe|sign up|log ?in|cancel reply)", r"you must be logged in",
    r"log ?in to (?:reply|comment|post)", r"leave a (?:reply|comment)$", r"back to top$",
    r"powered by (?:wordpress|vbulletin|phpbb|discourse|disqus|blogger)",
    r"verwendet cookies", r"cookies akzeptieren", r"javascript (?:aktivieren|ist deaktiviert)",
    r"alle rechte vorbehalten",
    r"utilise des cookies", r"accepter (?:les|tous les) cookies", r"activer javascript", r"tous droits réservés",
    r"utiliza cookies", r"aceptar (?:las )?cookies", r"todos los derechos reservados", r"todos os direitos reservados",
    r"utilizza (?:i )?cookie", r"tutti i diritti riservati", r"использует (?:файлы )?cookie", r"все права защищены",
)  # fmt: skip
_BOILERPLATE_LINE = re.compile(rf"\b(?:{'|'.join(_BOILERPLATE)})\b|保留所有权利|版权所有|著作権所有|無断転載を禁じます")
# Each of the above has one of these, in lower case; looking for them first is what makes this fast.
_BOILERPLATE_SIGNS = (
    "cookie", "script", "your browser d", "rights reserved", " privacy", "privacy policy ", "newsletter", "share ",
    "follow us", "skip to ", "click here to ", "be logged in", "login to ", "log in to ", "leave a ", "back to top",
    "powered by ", "rechte vorb", "droits rés", "derechos res", "direitos res", "diritti ris", "права защ",
    "保留所有", "版权所有", "著作権", "無断転載",
)  # fmt: skip
_LONGEST_BOILERPLATE = 250
# Shorter lines ("}", "* * *", "Yes.") come again in good text.
_SHORTEST_REPEATED = 25


@dataclass(frozen=True)
class Clean:
    """A stage that makes the text of documents even; what has nothing left is dropped."""

    name: str = "clean"
    mojibake: bool = True
    """repair text that was decoded by the wrong table"""
    form: Literal["NFC", "NFKC", ""] = "NFC"
    """the Unicode normalization form: NFC changes no meaning; NFKC also makes "ﬁ" to "fi", "²" to "2", "Ａ" to "A" """
    invisible: bool = True
    """remove control characters, zero-width spaces, soft hyphens and marks of direction"""
    whitespace: bool = True
    """one kind of space and line end, no blanks at ends of lines, at most one blank line; indentation is kept"""
    urls: bool = False
    """remove web addresses"""
    boilerplate_lines: bool = True
    """remove short lines about cookies, JavaScript, newsletters, rights and the like"""
    repeated_lines: int = 4
    """of a longer line that comes at least so often in a document, keep only the first; 0 keeps all"""

    def __post_init__(self):
        if self.form not in ("NFC", "NFKC", ""):
            raise ValueError(f'form must be "NFC", "NFKC" or "", got {self.form!r}')
        if self.repeated_lines < 0 or self.repeated_lines == 1:
            raise ValueError(f"repeated_lines must be 0, or 2 or more, got {self.repeated_lines}")

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        counts: Counter[str] = Counter()
        texts = [self.cleaned(text, counts) for text in texts_of(batch)]
        return rewritten(batch, self.name, texts, counts)

    def cleaned(self, text: str, counts: Counter[str] | None = None) -> str:
        """One text, cleaned; `counts` is added what was changed."""
        counts = Counter() if counts is None else counts
        if self.mojibake:
            before, text = text, repair_mojibake(text)
            counts["documents with repaired characters"] += text != before
        if self.invisible:
            text = without_invisible(text)
        if self.form and not unicodedata.is_normalized(self.form, text):
            text = unicodedata.normalize(self.form, text)
        if self.urls:
            text, count = _URL.subn("", text)
            counts["addresses"] += count
        if self.whitespace:
            text = even_whitespace(text)
        if self.boilerplate_lines or self.repeated_lines:
            text = self._without_lines(text, counts)
        return text

    def _without_lines(self, text: str, counts: Counter[str]) -> str:
        lines = text.split("\n")
        lowered = text.lower() if self.boilerplate_lines else ""
        if any(sign in lowered for sign in _BOILERPLATE_SIGNS):
            kept = [line for line in lines if len(line) > _LONGEST_BOILERPLATE or not is_boilerplate(line.lower())]
            counts["lines of boilerplate"] += len(lines) - len(kept)
            lines = kept
        if self.repeated_lines and len(lines) >= self.repeated_lines:
            lines = self._without_repeated(lines, counts)
        return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n") if self.whitespace else "\n".join(lines)

    def _without_repeated(self, lines: list[str], counts: Counter[str]) -> list[str]:
        often = {line for line, count in Counter(lines).items() if count >= self.repeated_lines}
        often = {line for line in often if len(line.strip()) >= _SHORTEST_REPEATED}
        if not often:
            return lines
        seen: set[str] = set()
        kept = []
        for line in lines:
            if line in seen:
                continue
            if line in often:
                seen.add(line)
            kept.append(line)
        counts["repeated lines"] += len(lines) - len(kept)
        return kept


def is_boilerplate(line: str) -> bool:
    """Whether a line, in lower case, is about cookies, JavaScript, newsletters, rights and the like."""
    return any(sign in line for sign in _BOILERPLATE_SIGNS) and bool(_BOILERPLATE_LINE.search(line))


def without_invisible(text: str) -> str:
    """Text without characters that show nothing; line ends of every kind become "\\n" first, so that none is lost."""
    if not _ODD.search(text):
        return text
    text = _NEVER_SHOWN.sub("", _LINE_ENDS.sub("\n", text))
    return _IDLE_JOINERS.sub("", text) if "\u200c" in text or "\u200d" in text else text


def even_whitespace(text: str) -> str:
    """Text with one kind of space and line end; blanks at the begin of a line, which may be indentation, stay."""
    if _ODD.search(text):
        text = _ODD_SPACE.sub(" ", _LINE_ENDS.sub("\n", text))
    if "  " in text or "\t" in text:
        text = _SPACES_INSIDE.sub(" ", text)
    if " \n" in text or "\t\n" in text:
        text = _SPACES_AT_END.sub("\n", text)
    text = text.rstrip(" \t\n")
    if "\n\n\n" not in text:
        return text.strip("\n")
    return _BLANK_LINES.sub("\n\n", text).strip("\n")
