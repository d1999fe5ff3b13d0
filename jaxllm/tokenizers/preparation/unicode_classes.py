"""Which characters are letters, numbers, punctuation and so on, by a fixed version of Unicode.

Where text is cut depends on these classes, and ids on where it is cut; a newer Unicode makes letters of characters
that had no class before. So they are written down here, and don't change with the version of Python or of a library.
The version is the one that the regular expressions of the libraries `tiktoken` (0.9 to 0.14) and `tokenizers` (0.21
to 0.23) use, which cut text for the models that are around.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache

Ranges = tuple[tuple[int, int], ...]
"""Ranges of code points, first and last of each, in order and not touching."""

UNICODE_VERSION = "16.0"

# Runs of code points from U+0000 on: how many there are (one, if no number is given) and their class. Letters are u
# (upper case), l (lower case), t (title case), m (modifier) and o (other); M are marks, N numbers, P punctuation and
# S symbols; - is everything else: white space, controls, private use, surrogates and code points without a character.
_RUNS = (
    "33-3PS6PS4P10N2P3S2P26u3PSPS26lPSPS34-P5SP2SoPS-4S2NSl2PSNoP3NP23uS7u24lS8lululululululululululululululululululu"
    "lululululululululu2lulululululululu2lululululululululululululululululululululululul2ululu3l2ulul2ul3u2l4ul2ul3u"
    "3l2ul2ululul2ulu2lul2ul3ulul2u2lou3l4outlutlutlulululululululu2lululululululululu2lutlul3ulululululululululululu"
    "lulululululululululululululululululu7l2ul2u2lul4ululululu69lo27l18m4S12m14S5m7SmSm17S112MululmSul2-m3lPu4-2SuP3u"
    "-u-2ul17u-9u35lu2l3u3lulululululululululululu5lulSul2u2l51u48lulululululululululululululululululS7Mululululululu"
    "lulululululululululululululululululululul2ululululululu2lulululululululululululululululululululululululululululu"
    "lulululululululululululululululululululul-38u2-m6P41l2P2-3S-45MPMP2MP2MPM8-27o4-4o2P17-3S2PS2P2S11MP-3P32om10o"
    "21M10N4P2oM99oPo7M-S6M2m2MS4M2o10N3o2So14P2-oM30o27M2-89o11Mo14-10N33o9M2mS3Pm2-M2S22o4Mm9Mm3Mm5M2-15P-25o3M2-P-"
    "11o5-24oS6o8-9M41om24M-33M54o3Mo18Mo7M10o2M2P10NPm15o3M-8o2-2o2-22o-7o-o3-4o2-Mo7M2-2M2-3Mo8-M4-2o-3o2M2-10N2o2S"
    "6N2SoPM2-3M-6o4-2o2-22o-7o-2o-2o-2o2-M-5M4-2M2-3M3-M7-4o-o7-10N2M3oMP10-3M-9o-3o-22o-7o-2o-5o2-Mo8M-3M-3M2-o15-"
    "2o2M2-10NPS7-o6M-3M-8o2-2o2-22o-7o-2o-5o2-Mo7M2-2M2-3M7-3M4-2o-3o2M2-10NSo6N10-Mo-6o3-3o-4o3-2o-o-2o3-2o3-3o3-"
    "12o4-5M3-3M-4M2-o6-M14-13N8S5-5M8o-3o-23o-16o2-Mo7M-3M-4M7-2M-3o2-o2-2o2M2-10N7-P7NSo3MP8o-3o-23o-10o-5o2-Mo7M-"
    "3M-4M7-2M6-2o-2o2M2-10N-2oM12-4M9o-3o-41o2Mo7M-3M-4MoS4-3oM7N3o2M2-19NS6o-3M-18o3-24o-9o-o2-7o3-M4-6M-M-8M6-10N"
    "2-2MP12-48oM2o7M4-S6om8MP10N2P37-2o-o-5o-24o-o-10oM2o9Mo2-5o-m-7M-10N2-4o32-o3S15PSP3S2M6S20NSMSMSM4P2M8o-36o4-"
    "20MP2M5o11M-36M-8SM6S-2S5P4S2P37-43o20Mo10N6P6o4M4o3Mo3M2o7M3o4M13o12MoM10N4M2S38u-u5-u2-43lPm3l329o-4o2-7o-o-4o"
    "2-41o-4o2-33o-4o2-7o-o-4o2-15o-57o-4o2-67o2-3M9P20N3-16o10S6-86u2-6l2-P620oSP17o-26o2P3-75o3P3N8o7-18o4M9-19o3M"
    "2P9-18o2M12-13o-3o-2M12-52o32M3Pm3PSoM2-10N6-10N6-11P3M-M10N6-35om53o7-5o2M34oMo5-70o10-31o-12M4-12M4-S3-2P10N"
    "30o2-5o11-44o4-26o6-11N3-34S23o5M2-2P53o10M-29M2-M10N6-10N6-7Pm6P2-31M49-5M47o17M8o-2P10N7P10S9M9S3P3M30o13M2o"
    "10N44o14M8-4P36o20M3-5P10N3-3o10N30o6m2P9lul5-43u2-3u8P8-3MP21M4oM6oM2o3Mo5-44l63m13lm34l37m64Mululululululululu"
    "lulululululululululululululululululululululululululululululululululululululululululululululululululululululululu"
    "lulululululululululu9lululululululululululululululululululululululululululululululululululululululululululululul"
    "ulululu9l8u6l2-6u2-8l8u8l8u6l2-6u2-8l-u-u-u-u8l8u14l2-8l8t8l8t8l8t5l-2l4utSl3S3l-2l4ut3S4l2-2l4u-3S8l5u3S2-3l-2l"
    "4ut2S17-24P8-20PS13PS12P17-Nm2-6N3S2Pm10N3S2P-13m3-33S15-33M15-2Su4Su2Sl3u2l3ulSu3S5u6SuSuSuS4uSl4ul4ol2S2l2u5Su"
    "4l4SlS51Nul5N2S4-376S4P29S2P255S22-11S21-60N78S22N616S14P30N49S2P31S10P403S22P63S4P32S2P374S2-32S-105S48u48lul3u"
    "2lululul4ulu2lu6l2m3ulululululululululululululululululululululululululululululululululululululululululululululul"
    "ulululu2l6Sulul3Mul5-4PN2P38l-l5-l2-56o7-mP14-M23o9-7o-7o-7o-7o-7o-7o-7o-7o-32M47Pm32P2S12P34-26S-89S12-214S26-"
    "16S-3PSmoN10P2S12PS9N6MP5m2S3NmoP2S-86o2-2M2S2moP90oP3mo5-43o-94o-2S4N10S32o38S9-S16o31S-10N30S8NS15N32S10N39S"
    "15N320S6592o64S21013om1143o3-55S9-40o6m2P268om3P16o10N2o20-ulululululululululululululululululululululululo4MP10M"
    "Pmulululululululululululululul2m2M70o10N2M6P8-23S9m2Sululululululu3lulululululululululululululululululululululul"
    "ulululululululululm8lulul2ulululululm2Sululoulu3lulululululululululul5ul5ulululululululul4ulul2ul2-ul-l-lulululu"
    "21-3mulo2ml7oM3oM4oM23o5M4SM3-6N4S6-52o4P8-2M50o18M8-2P10N6-18M6o3PoP2oM10N28o8M2P23o13M11-P29o3-4M47o14M13P-m"
    "10N4-2P5oMm9o10N5o-41o14M9-3oM8o2M2-10N2-4P16om6o3So3M50oMo3M2o2M5o2MoMo24-2om2P11o5M2Po2m2M10-6o2-6o2-6o9-7o-7o"
    "-43lS4m9lm2S4-80l35o8MP2M2-10N6-11172o12-23o4-49o8452-366o2-106o38-7l12-5l5-oM10oS13o-5o-o-2o-2o-108o17S16-363o"
    "2P16S64o2-54o7-S32-12o4S16M10P6-16M35P-14PSP3S-PS2P4-5o-135o4-3PS6PS4P10N2P3S2P26u3PSPS26lPSPS7P10om45o2m31o3-6o"
    "2-6o2-6o2-3o3-7S-7S13-2S2-12o-26o-19o-2o-15o2-14o34-123o5-3P4-45N3-9S57N17S2N3S-13S3-S47-45SM130-29o3-49o15-M27N"
    "4-32o4N9-20oN8oN5-38o5M5-30o-P36o4-8oP5N42-40u40l78o2-10N6-36u4-36l4-40o8-52o11-P11u-15u-7u-2u-11l-15l-7l-2l3-"
    "52o12-311o9-22o10-8o24-6m-42m-9m69-6o2-o-44o-2o3-o2-23o-P8N23o2S7N31o8-9N48-19o-2o5-5N22o6N3-P26o5-P64-56o4-2N2o"
    "16N2-46No3M-2M5-4M4o-3o-29o2-3M4-M9N7-9P7-29o2NP29o3N32-8oS28o2M4-5N7P9-54o3-7P22o2-8N19o5-8N18o7-4P12-7N80-73o"
    "55-51u13-51l7-6N36o4M8-10N6-10N4omo22u3-5MPm22l8-2S208-31N-42o-2MP2-2o16-3o55-4M29o10No8-22o11M4N5P22-18o4M4P38-"
    "21o7N20-23o9-3M53o15M7P4-30NM2o2Mo9-4M45o11M2P-4PM13-25o7-10N6-3M36o14M-10N4Po2Mo8-35oM2Po9-3M48o14M4o4P4MP2M10N"
    "oPo3P-20N11-18o-25o12M6PM2oM62-7o-o-4o-15o-10oP6-47o12M5-10N6-4M-8o2-2o2-22o-7o-2o-5o-2Mo7M2-2M2-3M2-o6-M5-5o2M"
    "2-7M3-5M11-10o-o2-o-38o-o9M-M2-M-4M-5MoMo2P-2P8-2M29-53o18M4o5P10N2P-PM3o30-48o20M2oPo8-10N166-47o7M2-9M23P4o2M"
    "34-48o17M3Po11-10N6-13P19-43o13MoP6-10N6-20N28-27o2-15M4-12N3PS7o185-44o15MP100-32u32l19N12-8o2-o2-8o-2o-24o6M-"
    "2M2-4MoMo2M3P9-10N70-8o2-39o7M2-7MoPoM27-o10M40o7Mo4M8PM8-o11M46o16M3Po5P13-73o7-10P182-33oP14-10N6-9o-37o8M-8Mo"
    "5P10-29N3-2P30o2-22M-14M73-7o-2o-38o6M3-M-2M-7MoM8-10N6-6o-2o-32o5M-2M-5Mo7-10N310-19o4M2P7-2MoM13o-34o7M3-5M13P"
    "10NM85-o15-21N29S13-P922o102-111N-5P11-196o2636-97o2P13-1072o16-M6o15M10-3995o5-583o6841-30o18M10N1734-569o7-31o"
    "-10N4-2P79o-10N6-30o2-5MP10-48o7M5P4S4mPS10-10N-7N-21o5-19o432-3m40o2m3P10N198-32u32l23N4P101-75o4-Mo55M7-4M13m"
    "64-2mPmM11-2M14-6136o8-1238o41-10o8935-4m-7m-2m-291o15-o29-3o2-o14-4o8-396o2308-107o5-13o3-9o7-10o2-S2MP3936-"
    "240S10N6-436S76-46M2-23M9-116S60-246S10-39S2-60S5M3S6M8-8M2S7M30S4M61S21-66S3MS122-20N12-20N12-87S9-25N135-26u"
    "26l26u7l-18l26u26lu-2u2-u2-2u2-4u-8u4l-l-7l-11l26u26l2u-4u2-8u-7u-26l2u-4u-5u-u3-7u-26l26u26l26u26l26u26l26u26l"
    "26u26l26u28l2-25uS25lS6l25uS25lS6l25uS25lS6l25uS25lS6l25uS25lS6lul2-50N512S55M4S50M8SM14SM2S5P15-5M-15M1104-10lo"
    "20l6-6l213-7M-17M2-7M-2M-5M5-62m33-M112-45o3-7M7m2-10N4-oS320-30oM17-44o4M10N5-S464-27om4M10N214-30o2Mo10N4-P"
    "480-7o-4o-2o-15o-197o2-9N7M41-34u34l7Mm4-10N4-2P785-59NS3NS4N76-45NS15N194-4o-27o-2o-o2-o-10o-4o-o-o6-o4-o-o-o-"
    "3o-2o-o2-o-o-o-o-o-2o-o2-4o-7o-4o-4o-o-10o-17o5-3o-5o-17o52-2S270-44S4-100S12-15S2-15S-15S-37S10-13N161S56-29S"
    "13-44S4-9S7-2S14-6S154-984S4-17S3-13S3-119S4-95S6-12S4-S15-12S4-56S8-10S6-40S8-30S2-12S4-2S62-340S12-14S2-13S3-"
    "10S5-56S7-15S2-11S6-9S7-147S-92S10N1030-42720o32-4154o6-222o2-5762o14-7473o15-622o2466-542o1506-4939o5-4192o"
    "712016-240M196112-"
)

_CLASSES = {"L": "ultmo", "Lu": "u", "Ll": "l", "Lt": "t", "Lm": "m", "Lo": "o"} | {name: name for name in "MNPS"}

WHITE_SPACE: Ranges = (
    *((0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
)
"""What \\s stands for in a pattern. Python's own \\s has the controls U+001C to U+001F as well."""


@cache
def _runs() -> tuple[list[int], str]:
    """The first code point of each run, and the classes of all runs, a character each."""
    starts, classes, position = [], [], 0
    for count, of in re.findall(r"(\d*)([^\d])", _RUNS):
        starts.append(position)
        classes.append(of)
        position += int(count or 1)
    return starts, "".join(classes)


@cache
def ranges_of(name: str) -> Ranges:
    r"""The characters that \p{name} stands for. Raises ValueError for a class that is not in the table."""
    if name not in _CLASSES:
        raise ValueError(f"the character class \\p{{{name}}} is not known here; known are {', '.join(_CLASSES)}")
    starts, classes = _runs()
    ranges: list[tuple[int, int]] = []
    for start, end, of in zip(starts, [*starts[1:], 0x110000], classes, strict=True):
        if of not in _CLASSES[name]:
            continue
        if ranges and ranges[-1][1] == start - 1:
            start, _ = ranges.pop()
        ranges.append((start, end - 1))
    return tuple(ranges)


def class_of(character: str) -> str:
    """The letter of the table above for a character."""
    starts, classes = _runs()
    return classes[bisect_right(starts, ord(character)) - 1]
