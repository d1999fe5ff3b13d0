"""What counts as a word: the unit in which the published filters state their thresholds.

Two definitions. "spaces": what stands between white space. "tokens": that, with punctuation set apart and English
contractions split (`do` `n't`), the way spaCy's English tokenizer does it, on whose words datatrove's filters count.
The rules of "tokens" are those that spaCy publishes for English, written anew with simpler rules for web addresses;
docs/data_quality.md says how many words differ.
"""

from __future__ import annotations

import string
from functools import lru_cache
from itertools import chain
from typing import Literal

import regex

WordsAs = Literal["tokens", "spaces"]

# The characters of which a word may consist and yet be no word but a symbol: the list of CCNet, which datatrove uses.
TERMINAL = frozenset(regex.findall(r"\p{Sentence_Terminal}|[៖៙៚]", "".join(map(chr, range(0x20000)))))
SYMBOLS = TERMINAL.union(
    string.punctuation,
    "«»“”„’´–—…∶━►、。〈〉《》「」【】！％（），．１：；？～",
    map(chr, range(9)),
    map(chr, range(11, 32)),
    map(chr, range(127, 160)),
)

# So many different chunks of text are remembered with their words: of running text, nearly all that come.
_REMEMBERED = 2**17

# What is longer than this between two white spaces is one word: no language writes it, and taking it apart is slow.
_LONGEST_CHUNK = 1000

_EITHER_END = r"…,:;!?¿؟¡()\[\]{}<>_#*&。？！，、；：～·।،۔؛٪'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧—–\p{So}"
_PREFIX = regex.compile(rf"\.\.+|\+(?!\d)|(?:US|C|A)\$|[§%=\p{{Sc}}{_EITHER_END}]")
_SUFFIX = regex.compile(
    rf"""(?r)(?:\.\.+|['’][sS]|[{_EITHER_END}]
    |(?<=[0-9])(?:\+|\p{{Sc}}|[kcdm]?m[²³]?|ha|[µn]m|yd|in|ft|[km]?g|µg|t|lb|oz|m/s|km/?h|mph|h?Pa|mbar|[kKmMgGtT][bB]|[TGMK%])
    |(?<=[0-9\p{{Ll}}%²+\-{_EITHER_END}])\.|(?<=\p{{Lu}}\p{{Lu}})\.)$""",
    regex.VERBOSE,
)
_INFIX = regex.compile(
    r"""\.\.+|…|\p{So}|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[\p{Ll}'"”“`‘´’‚„»«])\.(?=[\p{Lu}'"”“`‘´’‚„»«])
    |(?<=\p{L}),(?=\p{L})|(?<=[\p{L}0-9])(?:---?|——|[-–—~])(?=\p{L})|(?<=[\p{L}0-9])[:<>=/](?=\p{L})""",
    regex.VERBOSE,
)
_ADDRESS = regex.compile(
    r"(?:[\w+\-.]{2,}://)?(?:[^\s@]+@)?(?:[A-Za-z0-9\u00a1-\uffff_-]+\.)+\p{Ll}{2,63}(?::\d{2,5})?(?:[/?#]\S*)?"
)

# (first parts, last parts): every pair is one word written together, also with a capital, and without its apostrophe.
_CONTRACTIONS = (
    ("i", "'m"),
    ("i you he she it we they", "'ll 'll've 'd 'd've"),
    ("i you we they", "'ve"),
    ("you we they", "'re"),
    ("he she it", "'s"),
    ("who what when where why how there that this", "'s"),
    ("who what when where why how there that this these those", "'ll 'll've 'd 'd've"),
    ("who what when where why how there these those", "'re 've"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't've"),
    ("could might must should would not", "'ve"),
    ("ai are is was were have has dare", "n't"),
    ("let", "'s"),
)
_NOT_CONTRACTED = {"ill", "its", "hell", "shell", "shed", "were", "well", "whore"}
_SPLIT = "can|not gon|na got|ta c'm|on y'|all y|all"
_WHOLE = """
    a.m. p.m. e.g. i.e. E.g. I.e. E.G. I.E. v.s. vs. co. Co. Corp. Inc. Ltd. Bros. Adm. Dr. Gen. Gov. Jr. Md.
    Messrs. Mo. Mont. Mr. Mrs. Ms. Mt. Ph.D. Prof. Rep. Rev. Sen. St. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo.
    Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss.
    D.C. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis.
    and/or w/o ma'am Ma'am o'clock O'clock 'd 're 's 'S 'cause 'Cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout 'em 'll
    'nuff '' ' C++ doin' Doin' goin' Goin' havin' Havin' lovin' Lovin' nothin' Nothin' nuthin' Nuthin' ol' Ol'
    somethin' Somethin' :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-)
    (; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O
    :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D 8D 8-D ^_^ ^__^ ^___^ >.< >.>
    <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3
"""


def _exceptions() -> dict[str, tuple[str, ...]]:
    """Chunks whose words no rule gives."""
    found: dict[str, tuple[str, ...]] = {letter + ".": (letter + ".",) for letter in string.ascii_lowercase + "äöü"}
    for firsts, lasts in _CONTRACTIONS:
        for first, last in ((f, last) for f in firsts.split() for last in lasts.split()):
            parts = (*regex.findall(r"n't|'\w+", last),)
            for written in (first, first.title()):
                bare = tuple(part.replace("'", "") for part in parts)
                found["".join((written, *parts))] = (written, *parts)
                if first != "let":
                    found[written + "".join(bare)] = (written, *bare)
    for pair in _SPLIT.split():
        for written in (pair, pair[0].upper() + pair[1:])[: 1 if pair[0] == "y" else 2]:
            found[written.replace("|", "")] = tuple(written.split("|"))
    for hour in range(1, 13):
        found |= {f"{hour}{half}": (str(hour), half) for half in ("a.m.", "am", "p.m.", "pm")}
    found |= {word: (word,) for word in _WHOLE.split()}
    for word in (*_NOT_CONTRACTED, *(word.title() for word in _NOT_CONTRACTED)):
        found.pop(word, None)
    return found | {
        chunk.replace("'", "’"): tuple(part.replace("'", "’") for part in parts) for chunk, parts in found.items()
    }


_EXCEPTIONS = _exceptions()


@lru_cache(_REMEMBERED)
def _tokens(chunk: str) -> tuple[str, ...]:
    """The words of what stands between two white spaces."""
    if chunk in _EXCEPTIONS:
        return _EXCEPTIONS[chunk]
    if chunk.isalpha() or len(chunk) > _LONGEST_CHUNK:
        return (chunk,)
    front: list[str] = []
    back: list[str] = []
    while chunk and chunk not in _EXCEPTIONS and not chunk.isalpha():
        before = len(chunk)
        if (found := _PREFIX.match(chunk)) is not None:
            front.append(found[0])
            chunk = chunk[found.end() :]
        if chunk not in _EXCEPTIONS and (found := _SUFFIX.search(chunk)) is not None:
            back.append(found[0])
            chunk = chunk[: found.start()]
        if len(chunk) == before:
            break
    return _rejoined((*front, *_inner(chunk), *reversed(back)))


def _rejoined(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Puts together what the rules have parted and what is an exception all the same, as ")" and ":"."""
    if len(parts) == 1:
        return parts
    words: list[str] = []
    at = 0
    while at < len(parts):
        for end in range(min(at + 5, len(parts)), at + 1, -1):
            if (whole := "".join(parts[at:end])) in _EXCEPTIONS:
                words += _EXCEPTIONS[whole]
                at = end
                break
        else:
            words.append(parts[at])
            at += 1
    return tuple(words)


def _inner(chunk: str) -> tuple[str, ...]:
    if chunk in _EXCEPTIONS:
        return _EXCEPTIONS[chunk]
    if chunk.isalnum() or _ADDRESS.fullmatch(chunk):
        return (chunk,)
    parts, at = [], 0
    for found in _INFIX.finditer(chunk):
        parts += [chunk[at : found.start()], found[0]]
        at = found.end()
    return tuple(part for part in (*parts, chunk[at:]) if part)


def split_words(text: str, words_as: WordsAs = "tokens") -> list[str]:
    """The words of a text, in order.

    Raises ValueError for a definition that there is not.
    """
    if words_as == "spaces":
        return text.split()
    if words_as == "tokens":
        return list(chain.from_iterable(map(_tokens, text.split())))
    raise ValueError(f"words can be split as 'tokens' or by 'spaces', not as {words_as!r}")


def count_sentences(text: str) -> int:
    """How many sentences: words ".", "!" and the like end one, and the next that is no punctuation begins another.

    The rule of spaCy's sentencizer, on the words of "tokens". An empty text has none.
    """
    words = split_words(text)
    count, ended = min(len(words), 1), False
    for word in words:
        if word in TERMINAL:
            ended = True
        elif ended and not _punctuation(word):
            count, ended = count + 1, False
    return count


@lru_cache(_REMEMBERED)
def _punctuation(word: str) -> bool:
    return regex.fullmatch(r"\p{P}+", word) is not None
