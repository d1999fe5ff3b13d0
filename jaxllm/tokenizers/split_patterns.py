"""How text is cut into pieces before bytes are merged; no merge crosses a cut.

The patterns are part of a vocabulary: text cut in another way gets other ids. They are written in the form that
Hugging Face's files carry, which Oniguruma, Rust's fancy-regex and Python's `regex` read alike.
"""

from __future__ import annotations

from collections.abc import Callable

import regex

SPLIT_PATTERNS: dict[str, str] = {
    # Contractions; words, numbers and punctuation, each with the space before it; white space.
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Also: contractions in capitals, numbers three digits at a time, line ends with the punctuation or space before.
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def splitter(pattern: str) -> Callable[[str], list[str]]:
    """A function that cuts a text into pieces, whose concatenation is the text.

    The pieces are the matches of the pattern, and what lies between two of them. Raises ValueError if the pattern is
    not a regular expression.
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"the split pattern {pattern!r} is not a regular expression: {error}") from error
    if pattern in SPLIT_PATTERNS.values():
        # They match every character and have no groups, so this is the same and three times as fast.
        return compiled.findall

    def split(text: str) -> list[str]:
        pieces, end = [], 0
        for match in compiled.finditer(text):
            if match.start() == match.end():
                continue
            if match.start() > end:
                pieces.append(text[end : match.start()])
            pieces.append(match.group())
            end = match.end()
        if end < len(text):
            pieces.append(text[end:])
        return pieces

    return split
