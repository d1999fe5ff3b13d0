"""Numbers as people read them."""

from __future__ import annotations


def short_count(value: float) -> str:
    """Three significant digits and a letter: 987, 1.5k, 6.34M, 8.03B, 15T."""
    size, letter = 1.0, ""
    for larger, its_letter in ((1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        if abs(value) >= 0.9995 * larger:  # what would be rounded up to 1000 takes the next letter
            size, letter = larger, its_letter
    return f"{float(f'{value / size:.3g}'):g}{letter}"


def short_time(seconds: float) -> str:
    """The two largest units: 42s, 3m 05s, 2h 07m, 4d 11h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
