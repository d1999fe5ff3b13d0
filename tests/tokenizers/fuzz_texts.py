"""Texts and bytes in which tokenizers of bytes are likely to differ; the same for the same seed."""

from collections.abc import Iterator
from random import Random

from jaxllm.tokenizers.preparation.unicode_classes import class_of

_CODE = [
    "def f(x):\n",
    "    return x",
    "\t\tif(a!=b){",
    "};\n",
    "//",
    "/* */",
    "x->y",
    "a_b",
    "fooBar",
    "HTTPServer",
    "0x1F",
    "#!",
]
_SPECIAL = ["<|endoftext|>", "<|endofprompt|>", "<|im_start|>", "<|fim_", "|>", "<|", "<s>", "[INST]", "<|endoftext|"]
_WORDS = [
    "the",
    " The",
    "'s",
    "'LL",
    "'ſ",
    "don't",
    "I'VE",
    "naïve",
    "Straße",
    "über",
    "ﬁ",
    "K",
    "ǅ",
    "ʰa",
    "Ⅷ",
    "²",
    "½",
]
_WORDS += ["'re", "'ve", "'ll", "'m", "'d", "'t", "'Re", "we're", " 'tis", "x'd've"]
_SCRIPTS = [
    "שלום",
    "\u202bمرحبا\u202c",
    "\u200fא",
    "हिन्दी",
    "ไทย",
    "漢字かな",
    "カ・ナ",
    "한국어",
    "Привет",
    "ᎠᎡ",
    "𐐀𐐨",
    "𝔸𝔟",
]
_MARKS = ["e\u0301", "a\u0308\u0323", "\u0300", "\u200d", "\ufe0f", "\u0903", "\U000e0100", "i\u0307"]
_EMOJI = ["😀", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🇩🇪", "👍🏽", "1\ufe0f\u20e3", "🦙"]
_SPACES = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\xa0",
    "\u3000",
    "\u2028",
    "\x85",
    "\x1c",
    "\x0b",
    "\u200b",
    " \n ",
]
_NUMBERS = ["1", "12", "123", "1234", "3.14", "٣٤٥", "१२", "1,000"]
_MARKUP = ["!", "...", "---", "?!", "\\", "`", "$", "€", "\x00", "\ufffd", "\x7f", "_", "'", '"', "://"]
_PARTS = [*_CODE, *_SPECIAL, *_WORDS, *_SCRIPTS, *_MARKS, *_EMOJI, *_SPACES, *_NUMBERS, *_MARKUP]
_PLANES = [(0, 0x80), (0x80, 0x250), (0x250, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000)]
_PLANES += [(0x20000, 0x40000), (0xE0000, 0xF0000), (0xF0000, 0x110000)]


def fuzz_texts(number: int, seed: int = 0) -> Iterator[str]:
    """Mixtures of awkward parts, characters of all planes, and long runs."""
    random = Random(seed)
    for _ in range(number):
        match random.randrange(8):
            case 0:
                yield "".join(chr(random.randrange(*random.choice(_PLANES))) for _ in range(random.randrange(1, 16)))
            case 1:
                run = random.choice(_PARTS) * random.randrange(1, 60)
                yield random.choice(_PARTS) + run + random.choice(_PARTS)
            case _:
                parts = random.choices(_PARTS, k=random.randrange(1, 16))
                if random.random() < 0.3:
                    parts.insert(random.randrange(len(parts)), chr(random.randrange(*random.choice(_PLANES))))
                yield "".join(parts)


def fuzz_bytes(number: int, seed: int = 0) -> Iterator[bytes]:
    """Bytes that are no UTF-8: random ones, and texts that lost or changed some; never none."""
    random = Random(seed)
    for text in fuzz_texts(number, seed + 1):
        data = bytearray(text.encode())[:80]
        for _ in range(random.randrange(4)):
            place = random.randrange(len(data) + 1)
            data[place : place + random.randrange(2)] = random.randbytes(random.randrange(3))
        yield random.randbytes(random.randrange(1, 20)) if random.random() < 0.2 or not data else bytes(data)


def unassigned(text: str) -> bool:
    """Whether it has a character of no class, which a later version of Unicode may give one."""
    return any(class_of(character) == "-" for character in text)
