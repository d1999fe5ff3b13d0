"""Random text that is hard on what normalizes and cuts it, of characters that all versions of Unicode in use know."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator

# Blocks that have been full for long: later versions of Unicode put nothing into them.
_BLOCKS = [
    *((0x00, 0x37F), (0x386, 0x52F), (0x531, 0x556), (0x5B0, 0x5C7), (0x5D0, 0x5EA), (0x621, 0x6FF), (0x901, 0x97F)),
    *((0xE01, 0xE5B), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0x2E00, 0x2E42), (0x3000, 0x312C)),
    *((0x3400, 0x4DB5), (0x4E00, 0x9FCC), (0xAC00, 0xD7A3), (0xE000, 0xFAFF), (0xFB00, 0xFFFF), (0x1D100, 0x1D7FF)),
    *((0x10000, 0x100FA), (0x1F300, 0x1F64F), (0x20000, 0x2FA1D)),
]
_COMMON = " $+<=>^`|~\n\t\r.,'!?-_abcABC123 \u3000\xa0éÉe\u0301\u0323ﬁ½²Σσİßſ가각ᄀ\u1161\u11a8中文🙂\u200d\x00\x1c\x85"


def awkward_texts(count: int, longest: int = 24, seed: int = 0) -> Iterator[str]:
    """Half of them of many characters, half of few or very few, which meet more often and make runs."""
    generator = random.Random(seed)
    known = [chr(code) for first, last in _BLOCKS for code in range(first, last + 1)]
    known = [character for character in known if unicodedata.category(character) not in ("Cn", "Cs")]
    low = [character for character in known if character < "\u3000"]
    for i in range(count):
        alphabet = (_COMMON, low + [*_COMMON] * 40, known, "ab1 \n")[i % 4]
        yield "".join(generator.choices(alphabet, k=generator.randrange(longest)))
