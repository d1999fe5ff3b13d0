"""Bytes to text where nobody is sure of the encoding: byte order marks, what is declared, and what the bytes allow.

The names that pages declare mean what browsers take them for (WHATWG Encoding Standard): "iso-8859-1" is
windows-1252, "gb2312" is gb18030, and so on.
"""

from __future__ import annotations

import codecs
import re

_MEANT = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "cp1252": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "shift_jis": "cp932",
    "cp932": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-16-le",
}
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

_META = re.compile(rb"""<meta[^>]{0,500}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([a-zA-Z0-9_:.-]{1,40})""", re.IGNORECASE)
_XML = re.compile(rb"""^\s{0,99}<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}["']([a-zA-Z0-9_:.-]{1,40})""")

# How far into a page its <meta charset> is looked for; the standard asks for 1024 bytes, real pages need more.
_META_BYTES = 4096


def decode(raw: bytes, declared: str = "", *, html: bool = False) -> tuple[str, str]:
    """The text and the name of the encoding it was in.

    declared: by the transport. html: whether the bytes may declare their encoding themselves. In this order: a byte
    order mark; UTF-8 if the bytes are valid UTF-8 (text of other encodings hardly ever is, and declarations lie);
    what is declared; windows-1252. What an encoding can't hold becomes U+FFFD.
    """
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(name, errors="replace"), name
    candidates = [declared]
    if html:
        candidates += [found[1].decode() for pattern in (_XML, _META) if (found := pattern.search(raw[:_META_BYTES]))]
    names = [name for candidate in candidates if (name := encoding_meant(candidate))]
    # These two look like valid UTF-8 whatever they hold.
    first = next((name for name in names[:1] if name.startswith(("iso2022", "hz")) or b"\0" in raw[:100]), "")
    if first:
        return raw.decode(first, errors="replace"), first
    for name in ("utf-8", *names):
        try:
            return raw.decode(name), name
        except UnicodeDecodeError:
            continue
    guess = names[0] if names else "cp1252"
    return raw.decode(guess, errors="replace"), guess


def encoding_meant(label: str) -> str:
    """Python's name of the encoding that a label stands for, or "" if there is none."""
    label = label.strip().strip("\"'").lower()
    if label.startswith("x-"):
        label = {"x-sjis": "shift_jis", "x-gbk": "gbk", "x-euc-jp": "euc_jp"}.get(label, label[2:])
    try:
        found = codecs.lookup(label)
    except (LookupError, ValueError):
        return ""
    if not found._is_text_encoding:
        return ""
    return _MEANT.get(found.name, found.name)
