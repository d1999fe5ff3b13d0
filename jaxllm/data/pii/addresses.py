"""E-mail addresses and public IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

# An address is read from its "@" to both sides: "@" is rare, letters are not.
# Letters of any script with spaces between its words; in Chinese and Japanese, text goes on right beside an address.
_UNSPACED = "\u2e80-\u9fff\uac00-\ud7af\uf900-\uffef"
_ALNUM = rf"[^\W_{_UNSPACED}]"
_LOCAL_BACKWARDS = re.compile(rf"(?:{_ALNUM}|[._%+'-]){{1,64}}")
_DOMAIN = re.compile(
    rf"(?:{_ALNUM}(?:(?:{_ALNUM}|-){{0,62}}{_ALNUM})?\.){{1,8}}([^\W\d_{_UNSPACED}]{{2,24}}|xn--[a-z0-9-]{{2,40}})"
    rf"(?![^\W{_UNSPACED}]|@)"
)
# foo@2x.png is a file, and pkg@1.2.js too.
_NO_TOP_LEVEL = {
    "png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "ts", "jsx", "tsx", "json", "html", "htm", "php",
    "xml", "txt", "pdf", "zip", "tar", "gz", "mp3", "mp4", "exe", "dll", "so", "cpp", "hpp", "java", "class", "yaml",
    "yml", "toml", "csv", "local", "localdomain", "internal", "invalid",
}  # fmt: skip
# "jane (at) example (dot) com": an address all the same, for people.
_WRITTEN = re.compile(
    r"([\[(]\s?(?:at|AT|At|arroba|@)\s?[\])])\s?"
    r"((?:[A-Za-z0-9-]{1,63}(?:\.|\s?[\[(]\s?(?:dot|DOT|punkt|point)\s?[\])]\s?)){1,5}"
    r"[A-Za-z]{2,24})\b"
)
_WRITTEN_LOCAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}\s?\Z")

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# Beginning with a digit and nothing else makes the search fast; then the whole pattern is tried.
_DOTTED = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}")
_IPV4 = re.compile(rf"(?<![\w.\-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w\-]|\.\w)")
# What says that four small numbers are an address, or that they are none.
_SPEAKS_OF_ADDRESS = re.compile(
    r"\b(?:ip|ipv4|address|addr|host|server|ping|dns|gateway|netmask|subnet|inet|client|from|remote|proxy|router|peer|"
    r"nameserver|curl|ssh|connect\w*|banned?|block\w*)\b",
    re.IGNORECASE,
)
_SPEAKS_OF_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|released|build|firmware|driver|revision|rev|section|sec|chapter|clause|paragraph|"
    r"§|assembly|python|chrome|firefox|opera|safari|edge|kernel|update|upgrade\w*|patch|since|before|article|table|figure|"
    r"appendix)\b|§)[^\w\n]{0,4}\Z|[A-Za-z]/\Z|(?:>=|<=|==|~=|\^)\s?[\"']?\Z",
    re.IGNORECASE,
)
_LARGEST_SMALL = 31

_COLONS = re.compile(r":[0-9a-fA-F]{0,4}:")
_IPV6_CHARACTERS = frozenset("0123456789abcdefABCDEF:")


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Where e-mail addresses lie, also written as "name (at) example (dot) org"."""
    at = text.find("@")
    while at >= 0:
        end = at + 1
        local = _LOCAL_BACKWARDS.match(text[max(0, at - 64) : at][::-1])
        domain = _DOMAIN.match(text, at + 1) if local else None
        if domain and domain[1].lower() not in _NO_TOP_LEVEL:
            start, end = at - len(local[0].rstrip(".'-")), domain.end()
            name = text[start:at]
            behind = text[end : end + 2]
            # git@github.com:name/project and https://user:password@host/ are no mailboxes.
            is_account = (behind[:1] == ":" and behind[1:2].isalpha()) or _is_url_password(text, start)
            if name and ".." not in name and name[-1] != "." and not is_account:
                yield start, end
        at = text.find("@", end)
    if "(" in text or "[" in text:
        for found in _WRITTEN.finditer(text):
            name = _WRITTEN_LOCAL.search(text, max(0, found.start() - 66), found.start())
            if name:
                yield name.start(), found.end()


def _is_url_password(text: str, start: int) -> bool:
    """Whether what begins at `start` is the second half of "://user:password@host"."""
    before = text[max(0, start - 80) : start]
    return before.endswith("://") or bool(re.search(r"://[^\s/@]*:\Z", before))


def ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Where public IPv4 and IPv6 addresses lie: private, local and documentation addresses say nothing of anybody."""
    for dotted in _DOTTED.finditer(text):
        found = _IPV4.match(text, dotted.start())
        if not found or any(len(part) > 1 and part[0] == "0" for part in found[0].split(".")):
            continue
        if ipaddress.IPv4Address(found[0]).is_global and not _is_version(text, found):
            yield found.span()
    end = 0
    for colons in _COLONS.finditer(text):
        if colons.start() < end:
            continue
        start, end = _extent(text, colons.start())
        if (word := text[start:end]) and _is_public_ipv6(text, start, end, word):
            yield start, end


def _is_version(text: str, found: re.Match[str]) -> bool:
    """Whether four numbers with dots are rather the number of a version or a section."""
    before = text[max(0, found.start() - 30) : found.start()]
    if _SPEAKS_OF_VERSION.search(before):
        return True
    small = all(int(part) <= _LARGEST_SMALL for part in found[0].split("."))
    after = text[found.end() : found.end() + 6]
    has_port = bool(re.match(r":\d{2,5}\b|/\d{1,2}\b", after))
    return small and len(set(found[0].split("."))) > 1 and not has_port and not _SPEAKS_OF_ADDRESS.search(before)


def _extent(text: str, at: int) -> tuple[int, int]:
    """How far hexadecimal digits and colons reach to both sides."""
    start = end = at
    while start > 0 and text[start - 1] in _IPV6_CHARACTERS:
        start -= 1
    while end < len(text) and text[end] in _IPV6_CHARACTERS:
        end += 1
    if text[end - 1] == ":" and text[end - 2] != ":":  # "at 2a00::1: no route"
        end -= 1
    return start, end


def _is_public_ipv6(text: str, start: int, end: int, word: str) -> bool:
    # Of all addresses, 2000::/3 are given to anybody; dead::beef is a name in a program.
    if len(word) > 39 or word[0] not in "23" or text[start - 1 : start].isalnum() or text[end : end + 1].isalnum():
        return False
    try:
        address = ipaddress.IPv6Address(word)
    except ValueError:
        return False
    return address.is_global and len(word.partition(":")[0]) == 4
