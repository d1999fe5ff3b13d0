"""Text that was decoded by the wrong table, made right again: "cafÃ©" is "café", "itâ€™s" is "it’s".

UTF-8 read as a single-byte encoding leaves marks that hardly any other text has: what was the first byte of a character
is followed by what were its other bytes, and these are rare letters and signs. Each such run is turned back and
decoded as UTF-8; everything else stays as it is. The cases are those that the library ftfy repairs most often.
"""

from __future__ import annotations

import re
import unicodedata


def _table(codec: str) -> dict[int, str]:
    """What each byte from 0x80 on is taken for: where the codec has nothing, the control character, as in browsers."""
    table = {}
    for byte in range(0x80, 0x100):
        try:
            table[byte] = bytes([byte]).decode(codec)
        except UnicodeDecodeError:
            table[byte] = chr(byte)
    return table


class _Misreading:
    """One single-byte encoding that UTF-8 is mistaken for."""

    def __init__(self, codec: str):
        self._bytes = {character: byte for byte, character in _table(codec).items()}
        if codec == "cp1252":  # latin-1, which differs here alone, is the same mistake
            self._bytes = {chr(byte): byte for byte in range(0x80, 0xA0)} | self._bytes

    def characters(self, first: int, last: int) -> str:
        """A character class of what the bytes of a range are taken for."""
        return "[" + "".join(re.escape(char) for char, byte in self._bytes.items() if first <= byte <= last) + "]"

    def right(self, run: str) -> str | None:
        """What a run was before it was misread, or None if it is no UTF-8 or no text."""
        try:
            text = bytes(self._bytes[character] for character in run).decode("utf-8")
        except UnicodeDecodeError:
            return None
        return None if any(unicodedata.category(character) in ("Cn", "Co") for character in text) else text


def _run(reading: _Misreading) -> re.Pattern[str]:
    """Everything that could be misread UTF-8."""
    two, three, four = (reading.characters(*lead) for lead in ((0xC2, 0xDF), (0xE0, 0xEF), (0xF0, 0xF4)))
    rest = reading.characters(0x80, 0xBF)
    return re.compile(f"(?:{two}{rest}|{three}{rest}{{2}}|{four}{rest}{{3}})+")


_WINDOWS_1252, _WINDOWS_1251 = _Misreading("cp1252"), _Misreading("cp1251")
_MAC_ROMAN, _CP437 = _Misreading("mac_roman"), _Misreading("cp437")
_RUN_1252 = _run(_WINDOWS_1252)
_LEAD_1252, _REST_1252 = (
    set(_WINDOWS_1252.characters(0xC2, 0xF4)),
    set(_WINDOWS_1252.characters(0x80, 0xBF)) - set("\\-[]"),
)
# Of the others only what is common, and hardly anything else: punctuation, two Cyrillic letters, one accented letter.
_RUN_1251 = re.compile(f"(?:[РС]{_WINDOWS_1251.characters(0x80, 0xBF)}){{2,}}|вЂ{_WINDOWS_1251.characters(0x80, 0xBF)}")
_RUN_MAC = re.compile(f"‚Ä{_MAC_ROMAN.characters(0x80, 0xBF)}|√{_MAC_ROMAN.characters(0x80, 0xBF)}")
_RUN_437 = re.compile(f"ΓÇ{_CP437.characters(0x80, 0xBF)}|├{_CP437.characters(0x80, 0xBF)}")

# Signs that also follow a letter with an accent in text that is right: É… Ã” Â» Ñ’ é\xa0»
_FOLLOW_WORDS = set("…’‘“”•–—»«›‹„‚™®©°·¿¡§ \xa0")
# Signs that never follow a letter, and those that do, but not inside a word.
_NEVER_BEHIND_LETTERS = set("¢£¤¥¦¨¬¯²³´µ¶¸¹º¼½¾\xad") | {chr(code) for code in range(0x80, 0xA0)}
_NEVER_IN_WORDS = set("¡°±¿‰ˆ˜§©®ª")

_C1 = {byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}


def repair_mojibake(text: str) -> str:
    """Text with its misread parts made right, also where that happened up to three times; other text is unchanged."""
    if text.isascii():
        return text
    for _ in range(3):
        before = text
        present = set(text)  # to look for single characters first is what makes good text pass quickly
        if not (_LEAD_1252.isdisjoint(present) or _REST_1252.isdisjoint(present)):
            text = _RUN_1252.sub(_repair_1252, text)
        if "Р" in text or "С" in text or "вЂ" in text:
            text = _RUN_1251.sub(lambda found: _WINDOWS_1251.right(found[0]) or found[0], text)
        if "‚Ä" in text or "√" in text:
            text = _RUN_MAC.sub(_repair_mac_roman, text)
        if "ΓÇ" in text or "├" in text:
            text = _RUN_437.sub(_repair_cp437, text)
        if text == before:
            break
    # What is still a control character of the upper half was windows-1252, read as latin-1.
    return text if present.isdisjoint(map(chr, _C1)) else text.translate(_C1)


def _repair_1252(found: re.Match[str]) -> str:
    """A single character may be right as it is: "É…" ends a sentence in capitals, "é\xa0»" a French quotation."""
    run = found[0]
    right = _WINDOWS_1252.right(run)
    if right is None:
        return run
    before, after = found.string[found.start() - 1 : found.start()], found.string[found.end() : found.end() + 1]
    if len(right) > 1 or len(run) == 4:
        return right
    if len(run) == 3:
        return run if run[0] not in "âï" and before.isalpha() and _FOLLOW_WORDS.issuperset(run[1:]) else right
    if run[0] in "ÂÃ":
        return run if before.isupper() and run[1] in _FOLLOW_WORDS else right
    sure = run[1] in _NEVER_BEHIND_LETTERS or (run[1] in _NEVER_IN_WORDS and after.isalpha())
    return right if sure and right.isalpha() else run


def _repair_mac_roman(found: re.Match[str]) -> str:
    run = found[0]
    right = _MAC_ROMAN.right(run)
    if right is None or run[0] == "‚":
        return right or run
    around = found.string[max(0, found.start() - 1) : found.start()] + found.string[found.end() : found.end() + 1]
    return right if right.isalpha() and any(character.isalpha() for character in around) else run


def _repair_cp437(found: re.Match[str]) -> str:
    right = _CP437.right(found[0])
    return right if right and (found[0][0] == "Γ" or right.isalpha()) else found[0]
