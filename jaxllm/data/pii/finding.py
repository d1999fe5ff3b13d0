"""Every kind of personal data in one text, without overlaps, and the stage that replaces it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

from jaxllm.data.pii.addresses import emails, ip_addresses
from jaxllm.data.pii.numbers import credit_cards, ibans, phones, social_security_numbers
from jaxllm.data.pii.secrets import secrets
from jaxllm.data.records import texts_of
from jaxllm.data.stages import Outcome, rewritten

Kind = Literal["SECRET", "EMAIL", "IBAN", "CREDIT_CARD", "SSN", "IP_ADDRESS", "PHONE"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Where two overlap, the one whose kind comes first counts: it is the more certain one.
_DETECTORS: dict[Kind, Callable[[str], Iterator[tuple[int, int]]]] = {
    "SECRET": secrets,
    "EMAIL": emails,
    "IBAN": ibans,
    "CREDIT_CARD": credit_cards,
    "SSN": social_security_numbers,
    "IP_ADDRESS": ip_addresses,
    "PHONE": phones,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of personal data: text[start:end]."""

    kind: Kind
    start: int
    end: int


def find(text: str, kinds: Iterable[Kind] = KINDS) -> list[Finding]:
    """What is in a text, in order, without overlaps."""
    found: list[tuple[int, int, Kind]] = []
    for kind in (kind for kind in KINDS if kind in set(kinds)):
        for start, end in _DETECTORS[kind](text):
            at = bisect_left(found, (start,))
            if (at == 0 or found[at - 1][1] <= start) and (at == len(found) or end <= found[at][0]):
                found.insert(at, (start, end, kind))
    return [Finding(kind, start, end) for start, end, kind in found]


def replace(text: str, kinds: Iterable[Kind] = KINDS) -> tuple[str, Counter[str]]:
    """The text with a placeholder for each finding, and how many there were of each kind."""
    found = find(text, kinds)
    if not found:
        return text, Counter()
    pieces, at = [], 0
    for finding in found:
        pieces += [text[at : finding.start], f"<{finding.kind}>"]
        at = finding.end
    return "".join([*pieces, text[at:]]), Counter(finding.kind for finding in found)


@dataclass(frozen=True)
class RemovePersonalData:
    """A stage that replaces personal data and secrets by placeholders; it drops nothing."""

    kinds: tuple[Kind, ...] = KINDS
    """which kinds are replaced"""
    name: str = "personal data"

    def __post_init__(self):
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"kinds must be among {KINDS}, got {unknown}")

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        counts: Counter[str] = Counter()
        texts = []
        for text in texts_of(batch):
            replaced, found = replace(text, self.kinds)
            texts.append(replaced)
            counts += found
        return rewritten(batch, self.name, texts, counts)
