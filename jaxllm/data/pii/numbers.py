"""Numbers that belong to a person: telephone, bank account, credit card, social security."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Where digits with separators lie; the patterns below are tried only there. To begin with a digit and nothing else
# makes this search fast; what may stand in front of it is taken in afterwards.
_REGION = re.compile(r"\d[\d ().\-/\u2010-\u2013\u00a0]{5,60}\d")

# Credit cards (ISO/IEC 7812): in groups as printed, or without any.
_CARD = re.compile(
    r"(?<![\w.\-+])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3\d{3}([ -])\d{6}\2\d{4,5}|\d{13,19})(?![\w\-]|\.\d)"
)
_ISSUERS = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|65|64[4-9]|62"), (16, 17, 18, 19)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"30[0-5]|36|38|39"), (14,)),
)

# Social security numbers of the USA: no area 000, 666 or 9xx, no group 00, no serial 0000.
_SSN = re.compile(r"(?<![\w.\-/])(?!000|666|9)\d{3}([- \u2011])(?!00)\d{2}\1(?!0000)\d{4}(?![\w\-/]|\.\d)")
_PLAIN_SSN = re.compile(r"(?<![\w.\-])(?!000|666|9)\d{3}(?!00)\d{2}(?!0000)\d{4}(?![\w\-]|\.\d)")
_SPEAKS_OF_SSN = re.compile(
    r"\b(?:ssn|s\.s\.n\.?|social[ -]security(?: (?:number|no\.?|#))?)\W{0,4}(?:is|was)?\W{0,3}\Z", re.I
)

# Length of an IBAN by country (ISO 13616 registry).
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
_IBAN_LENGTH = {country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()}
_IBAN = re.compile(r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")

# Country calling codes (ITU-T E.164).
_COUNTRY_CODES = re.compile(
    r"1|7|2(?:0|7|1[1-368]|2\d|3\d|4\d|5[0-8]|6\d|9[0178])|3(?:[0-469]|5\d|7[0-8]|8[0-35-79])|4(?:[013-9]|2[013])|"
    r"5(?:[1-8]|0\d|9\d)|6(?:[0-6]|7[02-9]|8\d|9[0-2])|8(?:[1246]|5[02356]|8[0-36])|9(?:[0-58]|6\d|7\d|9[2-68])"
)
_SEPARATOR = r"[ .\-/\u2010-\u2013\u00a0]"
_INTERNATIONAL = re.compile(
    rf"(?<![\w+])(?:\+|00(?=[1-9]))\d{{1,3}}(?:{_SEPARATOR}{{0,2}}\(?\d{{1,5}}\)?){{2,7}}(?![\w]|{_SEPARATOR}\d)"
)
# (212) 555-0123, 212-555-0123, 212.555.0123, 1-800-555-0123: neither part begins with 0 or 1.
_AMERICAN = re.compile(
    r"(?<![\w.\-+/$€£¥])(?:1[ .-])?(?:\([2-9]\d{2}\)[ ]?|[2-9]\d{2}([ .-]))[2-9]\d{2}[ .-]\d{4}(?![\w\-/]|\.\d)"
)
# Numbers as they are written inside a country, with the 0 that such numbers begin with in most of the world.
_NATIONAL = re.compile(
    r"(?<![\w.\-+/])(?<!\d )(?:0[1-9](?:[ .\-]\d{2}){4}|\(0\d{1,4}\)[ ]?\d{3,4}[ -]?\d{3,5}|"
    r"0\d{2,4}[ ]\d{3,4}[ ]\d{3,4}|0\d{2,4}[-/]\d{3,4}[ -]?\d{3,5}|0[1-9]\d{8,9})(?![\w\-/]|[. ]\d)"
)
_ANY = re.compile(r"(?<![\w.])\(?\d(?:[ .\-/()\u00a0]{0,2}\d){6,14}(?![\w]|[.\-/]\d)")
_PHONE_WORDS = (
    "tel", "telephone", "phone", "ph", "mobile", "mob", "cell", "cellphone", "fax", "dial", "whatsapp", "sms",
    "hotline", "contact", r"call(?: (?:us|me|him|her|them))?(?: (?:at|on))?", r"text(?: me)?(?: at)?", r"sms to",
    r"reach (?:us|me) (?:at|on)", "telefon", "telefono", "teléfono", "téléphone", "tél", "handy", "mobil", "celular",
    "móvil", "telefone", "telefoon", "телефон", "тел", "моб",
)  # fmt: skip
_SPEAKS_OF_PHONE = re.compile(
    rf"(?:\b(?:{'|'.join(_PHONE_WORDS)})\b(?: (?:number|no|nr|numéro|nummer|número))?(?: is| was)?"
    r"|电话|電話|手机|전화|هاتف|फ़ोन)[\s.:#()№：/-]{0,4}\Z",
    re.IGNORECASE,
)
_FEWEST_DIGITS, _MOST_DIGITS = 7, 15


def _regions(text: str) -> Iterator[tuple[int, int]]:
    """Where numbers may lie, with the signs around them that say that they do not end there."""
    for found in _REGION.finditer(text):
        start = found.start()
        while start > 0 and text[start - 1] in "+(":
            start -= 1
        yield start, min(len(text), found.end() + 2)


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def credit_cards(text: str) -> Iterator[tuple[int, int]]:
    """Where numbers of credit cards lie: issuer, length and check digit are right."""
    for start, end in _regions(text):
        for found in _CARD.finditer(text, start, end):
            if is_card(_digits(found[0])):
                yield found.span()


def is_card(digits: str) -> bool:
    """Whether an issuer of cards has such numbers, and the Luhn sum of the digits is a multiple of ten."""
    if not any(begin.match(digits) and len(digits) in lengths for begin, lengths in _ISSUERS):
        return False
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(int(digit) for digit in digits[-1::-2]) + sum(value - 9 * (value > 9) for value in doubled)) % 10 == 0


def social_security_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where social security numbers lie: with hyphens, or after words that announce one."""
    for start, end in _regions(text):
        for found in _SSN.finditer(text, start, end):
            if found[1] != " " or _announced(text, found.start(), _SPEAKS_OF_SSN):
                yield found.span()
        for found in _PLAIN_SSN.finditer(text, start, end):
            if _announced(text, found.start(), _SPEAKS_OF_SSN):
                yield found.span()


def _announced(text: str, start: int, words: re.Pattern[str]) -> bool:
    return bool(words.search(text[max(0, start - 40) : start]))


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Where IBANs lie: the length is the country's, and the checksum modulo 97 is right (ISO 7064)."""
    for found in _IBAN.finditer(text):
        length = _IBAN_LENGTH.get(found[0][:2])
        end = _end_of(text, found.start(), length) if length else None
        if end is None or text[end : end + 1].isalnum() or text[found.start() - 1 : found.start()].isalnum():
            continue
        if is_iban(re.sub("[ -]", "", text[found.start() : end])):
            yield found.start(), end


def _end_of(text: str, start: int, count: int) -> int | None:
    """Where the `count`-th letter or digit from `start` ends, with at most one separator between any two."""
    end = start
    for _ in range(count):
        if text[end : end + 1] in (" ", "-"):
            end += 1
        if not (text[end : end + 1].isascii() and text[end : end + 1].isalnum()):
            return None
        end += 1
    return end


def is_iban(code: str) -> bool:
    """Whether the checksum of an IBAN without blanks is right."""
    return int("".join(str(int(character, 36)) for character in code[4:] + code[:4])) % 97 == 1


def phones(text: str) -> Iterator[tuple[int, int]]:
    """Where telephone numbers lie: international, of North America, national with a leading 0, or announced as one."""
    for start, end in _regions(text):
        taken = start
        for pattern in (_INTERNATIONAL, _AMERICAN, _NATIONAL, _ANY):
            for found in pattern.finditer(text, taken, end):
                if found.start() >= taken and _is_phone(text, found, pattern):
                    yield found.span()
                    taken = found.end()


def _is_phone(text: str, found: re.Match[str], pattern: re.Pattern[str]) -> bool:
    digits = _digits(found[0])
    if not _FEWEST_DIGITS <= len(digits) <= _MOST_DIGITS or len(set(digits)) < 3 and pattern is not _AMERICAN:
        return False
    if pattern is _INTERNATIONAL:
        number = digits.removeprefix("00") if found[0].startswith("00") else digits
        plain = found[0].startswith("00") and found[0].isdigit()  # 0044... may be any identifier
        return bool(_COUNTRY_CODES.match(number)) and (not plain or _announced(text, found.start(), _SPEAKS_OF_PHONE))
    if pattern is _AMERICAN:
        return found[1] != " " or _announced(text, found.start(), _SPEAKS_OF_PHONE)
    if pattern is _NATIONAL:
        return not found[0].isdigit() or _announced(text, found.start(), _SPEAKS_OF_PHONE)
    return _announced(text, found.start(), _SPEAKS_OF_PHONE)
