"""Amounts with their units, as a planner reads and prints them. GB is 10^9 bytes, GiB 2^30; both are always shown."""

from __future__ import annotations

import re

POWERS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def show_bytes(amount: float) -> str:
    """17.18 GB (16 GiB)."""
    return f"{_scaled(amount, POWERS)}B ({_scaled(amount, BINARY | {'': 1})}B)"


def show_seconds(seconds: float) -> str:
    units = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
    size, unit = next(((size, unit) for size, unit in units if seconds >= size), units[-1])
    return f"{seconds / size:,.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"


def read_bytes(text: str) -> int:
    """Bytes that "24GB", "16 GiB" or "80e9" stand for. Raises ValueError for anything else."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*(?:([kKMGT]?)(i?)B?)?", text.strip())
    try:
        number, letter, binary = match.groups()
        size = BINARY[letter.upper() + "i"] if binary else POWERS["k" if letter == "K" else letter or ""]
        return round(float(number) * size)
    except (AttributeError, KeyError, ValueError):
        raise ValueError(f"{text!r} is no amount of memory: write 24GB, 16GiB or a number of bytes") from None


def _scaled(amount: float, powers: dict[str, int]) -> str:
    letter, size = next(
        (
            (letter, size)
            for letter, size in sorted(powers.items(), key=lambda p: -p[1])
            if abs(amount) >= 0.9995 * size
        ),
        ("", 1),
    )
    return f"{amount / size:.4g} {letter}"
