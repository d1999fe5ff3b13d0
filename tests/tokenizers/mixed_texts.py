"""Ordinary text, of which parts are mixed with what tokenizers of words and spaces stumble over."""

from collections.abc import Iterator, Sequence
from random import Random

_PARTS = [
    " ",
    "  ",
    "▁",
    "a",
    "the",
    "<sep>",
    "<cls",
    "foo bar",
    "der",
    "<s>",
    "<unk>",
    "<0x41>",
    "\n",
    "\u3000",
    "\r\n",
]
_RUNS = ["=", "a", "-", " ", "0", "ab", "▁", " a", "\n", "é", "👩🏽‍🚀"]
_RANGES = [(1, 0x250), (1, 0xD800), (0xE000, 0x110000), (0x1F300, 0x1F700), (0x300, 0x370)]


def mixed_texts(number: int, samples: Sequence[str], seed: int = 0) -> Iterator[str]:
    """The same for the same seed. samples: ordinary texts, such as lines."""
    random = Random(seed)
    for _ in range(number):
        match random.randrange(5):
            case 0:
                yield random.choice(samples)[: random.randrange(1, 300)]
            case 1:
                yield "".join(random.choices(_PARTS, k=random.randrange(20)))
            case 2:
                ranges = random.choices(_RANGES, k=random.randrange(20))
                yield "".join(chr(random.randrange(*bounds)) for bounds in ranges)
            case 3:
                yield random.choice(_RUNS) * random.randrange(1, 70)
            case 4:
                line = random.choice(samples)
                yield line[random.randrange(len(line) + 1) :][:30] + random.choice(samples)[:40]
