"""Another vocabulary for a tokenizer: tokens added, and tokens that a corpus doesn't use removed.

Both say, for each id of the new tokenizer, which old ids it comes from; `jaxllm.models.vocabulary` makes the rows of a
model's tables so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.stages import Vocabulary
from jaxllm.tokenizers.template import Template
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.byte_tokens import BYTE_TOKENS
from jaxllm.tokenizers.vocabularies.character_bpe import CharacterBPE
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from jaxllm.tokenizers.vocabularies.wordpiece import WordLevel, WordPiece

Sources = list[list[int]]
"""For each new id, the old ids whose mean its row of a table starts from."""


def add_tokens(
    tokenizer: PipelineTokenizer, contents: Sequence[str], *, special: bool = False
) -> tuple[PipelineTokenizer, Sources]:
    """A tokenizer with more tokens, which get the next ids, and where every id comes from.

    A new token comes from the pieces that its text was made of so far. Raises ValueError for a token that is there
    already, and for one that the old vocabulary can't express.
    """
    known = set(tokenizer.texts())
    sources: Sources = [[i] for i in range(tokenizer.vocab_size)]
    added = list(tokenizer.added_tokens)
    for content in contents:
        if content in known:
            raise ValueError(f"the token {content!r} is in the vocabulary already")
        known.add(content)
        pieces = tokenizer.encode(content)
        if not pieces:
            raise ValueError(
                f"the token {content!r} is made of no tokens, so there is nothing that it could start from"
            )
        added.append(AddedToken(content, len(sources), special=special))
        sources.append(pieces)
    return tokenizer.replace(added_tokens=added), sources


def prune(tokenizer: PipelineTokenizer, texts: Iterable[str]) -> tuple[PipelineTokenizer, Sources]:
    """A tokenizer with only the tokens that the texts use, numbered anew in the same order.

    Kept are also added tokens, single characters and bytes, so that the same texts can be expressed, and whatever kept
    tokens are merged from. The texts get the same tokens as before.
    """
    used = {i for text in texts for i in tokenizer.encode(text)}
    used |= {token.id for token in tokenizer.added_tokens}
    used |= {place for place, _ in _places(tokenizer.template) if not isinstance(place, str)}
    kept = sorted(_closed(tokenizer.vocabulary, used))
    new_ids = {old: new for new, old in enumerate(kept)}
    template = tokenizer.template and Template(
        _renumbered(tokenizer.template.single, new_ids), _renumbered(tokenizer.template.pair, new_ids)
    )
    pruned = tokenizer.replace(
        vocabulary=_subset(tokenizer.vocabulary, new_ids),
        added_tokens=[replace(token, id=new_ids[token.id]) for token in tokenizer.added_tokens],
        template=template,
    )
    return pruned, [[old] for old in kept]


def _places(template: Template | None):
    return template.single + template.pair if template else ()


def _renumbered(places, new_ids: Mapping[int, int]):
    return tuple((place if isinstance(place, str) else new_ids[place], kind) for place, kind in places)


def _closed(vocabulary: Vocabulary, used: set[int]) -> set[int]:
    """The used ids and those without which the vocabulary would not give them."""
    match vocabulary:
        case ByteLevelBPE():
            ids = vocabulary.vocabulary
            merges = [(ids[left], ids[right], ids[left + right]) for left, right in vocabulary.merges]
            return _with_parts(used | {i for token, i in ids.items() if len(token) == 1}, merges)
        case CharacterBPE():
            ids = vocabulary.vocab
            merged = {
                left + right.removeprefix(vocabulary.continuing_subword_prefix) for left, right in vocabulary.merges
            }
            prefix = vocabulary.continuing_subword_prefix
            merges = [
                (ids[left], ids[right], ids[left + right.removeprefix(prefix)]) for left, right in vocabulary.merges
            ]
            return _with_parts(used | {i for token, i in ids.items() if token not in merged}, merges)
        case ScoredBPE():
            ids = {piece: i for i, (piece, _) in enumerate(vocabulary.pieces)}
            merges = [(ids[left], ids[right], ids[left + right]) for left, right in vocabulary.merges()]
            merged = {whole for *_, whole in merges}
            return _with_parts(used | set(ids.values()) - merged, merges)
        case Unigram():
            ids = {piece: i for i, (piece, _) in enumerate(vocabulary.pieces)}
            # What an unknown character costs depends on the lowest score.
            lowest = min(ids.values(), key=lambda i: vocabulary.pieces[i][1])
            fixed = vocabulary.excluded | vocabulary.user_defined | {lowest}
            fixed |= {i for piece, i in ids.items() if len(piece) == 1 or piece in BYTE_TOKENS}
            return used | fixed | ({vocabulary.unk_id} - {None})
        case WordPiece() | WordLevel():
            prefix = getattr(vocabulary, "continuing_subword_prefix", "")
            single = {i for token, i in vocabulary.vocab.items() if len(token.removeprefix(prefix)) == 1}
            unknown = {vocabulary.vocab[vocabulary.unk_token]} if vocabulary.unk_token in vocabulary.vocab else set()
            return used | single | unknown
    raise ValueError(f"a {type(vocabulary).__name__} can't be pruned")


def _with_parts(used: set[int], merges: Sequence[tuple[int, int, int]]) -> set[int]:
    """With the two parts of each merge that makes a used token. Merges make their parts first."""
    for left, right, whole in reversed(merges):
        if whole in used:
            used |= {left, right}
    # A part may be made by a later merge than the whole where two merges make one token.
    return (
        used
        if all({left, right} <= used for left, right, whole in merges if whole in used)
        else _with_parts(used, merges)
    )


def _subset(vocabulary: Vocabulary, new_ids: Mapping[int, int]) -> Vocabulary:
    """The vocabulary of these tokens under their new ids; added tokens need not be in it."""
    match vocabulary:
        case ByteLevelBPE():
            ids = {token: new_ids[i] for token, i in vocabulary.vocabulary.items() if i in new_ids}
            if vocabulary.is_by_ranks:
                return ByteLevelBPE.from_ranks(ids)
            merges = [(left, right) for left, right in vocabulary.merges if left + right in ids]
            return ByteLevelBPE(ids, merges, ignore_merges=vocabulary.ignore_merges)
        case CharacterBPE():
            ids = {token: new_ids[i] for token, i in vocabulary.vocab.items() if i in new_ids}
            prefix = vocabulary.continuing_subword_prefix
            merges = [pair for pair in vocabulary.merges if pair[0] + pair[1].removeprefix(prefix) in ids]
            return CharacterBPE(
                ids,
                merges,
                unk_token=vocabulary.unk_token,
                byte_fallback=vocabulary.byte_fallback,
                fuse_unk=vocabulary.fuse_unk,
                ignore_merges=vocabulary.ignore_merges,
                continuing_subword_prefix=prefix,
                end_of_word_suffix=vocabulary.end_of_word_suffix,
            )
        case Unigram() | ScoredBPE():
            groups = {
                name: {new_ids[i] for i in getattr(vocabulary, name) if i in new_ids}
                for name in ("excluded", "user_defined", "unused")
                if hasattr(vocabulary, name)
            }
            if isinstance(vocabulary, Unigram):
                groups["single_precision"] = vocabulary.single_precision
            return type(vocabulary)(
                [piece for i, piece in enumerate(vocabulary.pieces) if i in new_ids],
                new_ids.get(vocabulary.unk_id),
                vocabulary.byte_fallback,
                fuse_unk=vocabulary.fuse_unk,
                **groups,
            )
        case WordPiece() | WordLevel():
            return replace(
                vocabulary, vocab={token: new_ids[i] for token, i in vocabulary.vocab.items() if i in new_ids}
            )
    raise AssertionError(vocabulary)
