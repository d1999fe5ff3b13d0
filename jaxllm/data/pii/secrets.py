"""Keys, tokens and passwords: by the forms that their issuers gave them, or as what is assigned to a telling name."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

# Literal text that each form has, and its pattern; a pattern is tried only where the text has the literal.
_FORMS = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in (
        *((kind, rf"(?<!\w){kind}[A-Z2-7]{{16}}(?!\w)") for kind in ("AKIA", "ASIA", "AROA", "AIDA", "AGPA", "ANPA")),
        *((kind, rf"(?<!\w){kind}[A-Za-z0-9]{{36,251}}(?!\w)") for kind in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
        ("github_pat_", r"(?<!\w)github_pat_\w{22,244}"),
        ("glpat-", r"(?<!\w)glpat-[\w-]{20,64}"),
        ("xox", r"(?<!\w)xox[abeoprs]-[A-Za-z0-9-]{10,250}"),
        ("hooks.slack.com", r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}"),
        ("AIza", r"(?<!\w)AIza[\w-]{35}(?![\w-])"),
        ("ya29.", r"(?<!\w)ya29\.[\w-]{20,250}"),
        ("k_live_", r"(?<!\w)[srp]k_live_[A-Za-z0-9]{16,250}"),
        ("k_test_", r"(?<!\w)[srp]k_test_[A-Za-z0-9]{16,250}"),
        ("sk-", r"(?<![\w-])sk-(?=[\w-]*\d)(?:[a-z]{2,10}-)?[\w-]{32,250}"),
        ("hf_", r"(?<!\w)hf_[A-Za-z0-9]{30,60}(?!\w)"),
        ("npm_", r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)"),
        ("pypi-", r"(?<!\w)pypi-AgE[\w-]{50,300}"),
        ("SG.", r"(?<!\w)SG\.[\w-]{22}\.[\w-]{43}(?!\w)"),
        ("dop_v1_", r"(?<!\w)dop_v1_[0-9a-f]{64}(?!\w)"),
        ("shpat_", r"(?<!\w)shpat_[0-9a-fA-F]{32}(?!\w)"),
        ("eyJ", r"(?<![\w.])eyJ[\w-]{10,4000}\.eyJ[\w-]{5,8000}\.[\w-]{10,4000}"),
    )
)  # fmt: skip
_KEY_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END (?:[A-Z0-9]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"(?:\s|\\n|[A-Za-z0-9+/=]|[A-Z][A-Za-z-]{2,20}: [^\n]{1,200}\n){0,20000}")
_URL_PASSWORD = re.compile(r"(?<=://)[^\s/:@<>\"']{1,100}:([^\s/:@<>\"'{}$]{3,200})(?=@[\w.\[-])")

# A value, found from the sign of assignment on, since signs are rare in prose; then comes the name in front of it.
_VALUE = re.compile(r"[=:][=>]?[ \t]{0,4}[\"'`]?([A-Za-z0-9+/_~.\-]{12,250}={0,2})(?![\w(\[{])")
_NAME = re.compile(
    r"(?:key|secret|token|passwd|password|passphrase|pwd|credentials?|apikey|bearer)(?:[_\- ]?(?:id|key|value))?"
    r"[\"'`\]]{0,2}\s{0,4}\Z",
    re.IGNORECASE,
)
_BEARER_WORDS = ("Bearer ", "bearer ", "Token ", "token ")
_BEARER_VALUE = re.compile(r" {0,2}([A-Za-z0-9+/_~.\-]{20,400}={0,2})(?!\w)")
_NOT_SECRET = re.compile(
    r"your|example|placeholder|changeme|dummy|sample|redacted|xxxx|\*\*\*|<|\.\.\.|12345678|abcdef|_here|process\.env|"
    r"environ|getenv|config\.|settings\.|secrets\.|self\.|this\.|"
    r"\.(?:py|js|json|pem|txt|html|com|org|net|io)\b|^https?|^/|^\./",
    re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")
# Bits a character: English text and names in programs have less, random hexadecimal digits up to 4, base64 up to 6.
_ENTROPY = 3.0


def secrets(text: str) -> Iterator[tuple[int, int]]:
    """Where keys, tokens and passwords lie; of an assignment only the value."""
    for literal, pattern in _FORMS:
        if literal in text:
            for found in pattern.finditer(text):
                yield found.span()
    if "-----BEGIN " in text:
        yield from _private_keys(text)
    if "://" in text and "@" in text:
        for found in _URL_PASSWORD.finditer(text):
            if not _NOT_SECRET.search(found[1]) and found[1].lower() not in ("password", "pass", "pwd", "secret"):
                yield found.span(1)
    for found in _VALUE.finditer(text):
        if _NAME.search(text[max(0, found.start() - 40) : found.start()]) and looks_random(found[1]):
            yield found.span(1)
    for word in _BEARER_WORDS:
        at = text.find(word)
        while at >= 0:
            found = _BEARER_VALUE.match(text, at + len(word))
            if found and looks_random(found[1]):
                yield found.span(1)
            at = text.find(word, at + len(word))


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """From the begin of a key to its end, or as far as what may be a key goes, where it was cut."""
    for begin in _KEY_BEGIN.finditer(text):
        body = _KEY_BODY.match(text, begin.end())
        end = _KEY_END.match(text, body.end())
        yield begin.start(), end.end() if end else begin.end() + len(body[0].rstrip())


def looks_random(value: str) -> bool:
    """Whether a value has letters and digits mixed as no word and no name has."""
    if _NOT_SECRET.search(value) or _UUID.match(value):
        return False
    if not any(character.isdigit() for character in value) or not any(character.isalpha() for character in value):
        return False
    # Names in programs have words of letters alone between their signs; of a key, most parts have digits among letters.
    parts = [part for part in re.split(r"[._/\-+~]", value) if part]
    mixed = sum(len(part) for part in parts if re.search(r"\d", part) and re.search(r"[A-Za-z]", part))
    if mixed < len(value) / 2:
        return False
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return entropy >= _ENTROPY
