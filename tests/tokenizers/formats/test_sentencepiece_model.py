from dataclasses import replace

import pytest

from jaxllm.tokenizers.formats.sentencepiece_model import (
    ScoredPiece,
    SentencePieceModel,
    WordBoundaries,
    model_of,
    parse_sentencepiece,
    read_sentencepiece,
    serialize_sentencepiece,
    write_sentencepiece,
)
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from jaxllm.tokenizers.stages import Cut
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from tests.tokenizers.library_models import library, train
from tests.tokenizers.mixed_texts import mixed_texts

_NAMED = ["<sep>", "<cls>", "foo bar", "der"]
_RAW = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_by_whitespace": False}
_SETTINGS = {
    "plain": {"vocab_size": 900},
    "bytes": {"vocab_size": 900, "byte_fallback": True, "character_coverage": 0.98, "user_defined_symbols": _NAMED},
    "raw": {"vocab_size": 900, **_RAW},
    "without a prefix": {"vocab_size": 900, "add_dummy_prefix": False},
    "suffix": {"vocab_size": 900, "treat_whitespace_as_suffix": True},
    "unused": {"vocab_size": 900},
}


@pytest.fixture(scope="module")
def lines(texts):
    words = ["Größe", "naïve", "漢字", "привет", "мир", "der", "<sep>", "1.000", "½", "ﬁn"]
    return [
        f"{line} {words[i % len(words)]}" for i, line in enumerate(line for text in texts for line in text.split("\n"))
    ]


@pytest.fixture(scope="module", params=[(kind, name) for kind in ("unigram", "bpe") for name in _SETTINGS], ids=str)
def file(request, tmp_path_factory, lines):
    kind, name = request.param
    file = train(tmp_path_factory.mktemp("model"), lines, kind, **_SETTINGS[name])
    if name == "unused":
        model = read_sentencepiece(file)
        pieces = [
            piece._replace(kind="unused") if i % 7 == 0 and piece.kind == "normal" else piece
            for i, piece in enumerate(model.pieces)
        ]
        write_sentencepiece(replace(model, pieces=tuple(pieces)), file)
    return file


@pytest.fixture(scope="module")
def plain(tmp_path_factory, lines):
    return train(tmp_path_factory.mktemp("plain"), lines, "bpe", **_SETTINGS["plain"])


def _ids(model: SentencePieceModel, text: str) -> list[int]:
    pieces = [model.normalizer(text)]
    for cut in model.cuts:
        pieces = [part for piece in pieces for part in cut(piece)]
    return [i for piece in pieces for i in model.vocabulary.encode_piece(piece)]


def _places(model: SentencePieceModel, text: str) -> list[tuple[int, int]]:
    """Each id, and where in the text its token begins."""
    rewritten, spans = model.normalizer.aligned(text)
    return [(i, spans[begin][0]) for i, (begin, _) in model.vocabulary.encode_spans(rewritten)]


def test_ids_are_the_librarys(file, lines):
    theirs, ours = library().SentencePieceProcessor(model_file=str(file)), read_sentencepiece(file)
    for text in mixed_texts(500, lines):
        assert _ids(ours, text) == theirs.encode(text)


def test_places_are_the_librarys(file, lines):
    theirs, ours = library().SentencePieceProcessor(model_file=str(file)), read_sentencepiece(file)
    for text in mixed_texts(100, lines, seed=1):
        data = text.encode("utf-8")
        found = theirs.encode(text, return_type="proto").pieces
        expected = [(piece.id, len(data[: piece.begin].decode("utf-8"))) for piece in found]
        assert _places(ours, text) == expected


def test_a_model_that_was_written_is_the_same_to_the_library(file, lines, tmp_path):
    model = read_sentencepiece(file)
    write_sentencepiece(model, tmp_path / "again.model")
    assert read_sentencepiece(tmp_path / "again.model") == model
    first, second = (library().SentencePieceProcessor(model_file=str(f)) for f in (file, tmp_path / "again.model"))
    for name in ("unk_id", "bos_id", "eos_id", "pad_id", "vocab_size"):
        assert getattr(first, name)() == getattr(second, name)()
    for text in mixed_texts(100, lines, seed=2):
        ids = first.encode(text)
        assert second.encode(text) == ids and second.decode(ids) == first.decode(ids)


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_real_models(name, lines, shared):
    file = shared(f"tokenizers/mistral/{name}")
    theirs, ours = library().SentencePieceProcessor(model_file=str(file)), read_sentencepiece(file)
    assert ours.cuts == (WordBoundaries(),)
    for text in mixed_texts(800, lines):
        assert _ids(ours, text) == theirs.encode(text)


def test_golden_ids_of_llama(shared):
    """The vocabulary of Llama-2 in a GGUF file, and ids that llama.cpp tests itself with."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed (make parity)")
    folder = "tokenizers/llama.cpp-golden/ggml-vocab-llama-spm.gguf"
    fields = gguf.GGUFReader(str(shared(folder))).fields
    tokens, scores, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type"))
    pieces = list(zip(tokens, scores, strict=True))
    vocabulary = ScoredBPE(
        pieces, tokens.index("<unk>"), True, excluded=[i for i, kind in enumerate(kinds) if kind in (2, 3, 6)]
    )
    model = model_of(
        vocabulary, SentencePieceNormalizer(remove_extra_whitespaces=False), {"<s>": 1, "</s>": 2, "<unk>": 0}
    )
    texts = shared(f"{folder}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = shared(f"{folder}.out").read_text().split("\n")
    assert len(texts) > 40
    for text, ids in zip(texts, expected, strict=False):
        assert _ids(model, text) == list(map(int, ids.split())), text


def test_text_may_be_cut_at_words_only_where_no_token_reaches_across():
    pieces = (ScoredPiece("<unk>", 0, "unknown"), ScoredPiece("▁"), ScoredPiece("a", -1.0))
    assert SentencePieceModel("bpe", pieces).cuts == (WordBoundaries(),)
    assert SentencePieceModel("bpe", (*pieces, ScoredPiece("a▁", -2.0))).cuts == ()
    assert SentencePieceModel("bpe", pieces[::2]).cuts == ()  # unknown spaces are one token with their neighbours
    assert SentencePieceModel("unigram", pieces).cuts == ()
    cut = WordBoundaries()
    assert isinstance(cut, Cut) and cut("a▁▁b▁c▁") == ["a", "▁▁b", "▁c", "▁"]
    assert cut.spans("a▁▁b▁c▁") == [(0, 1), (1, 4), (4, 6), (6, 7)]


def test_a_model_of_a_vocabulary():
    bytes_ = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    vocabulary = Unigram(
        [("<unk>", 0.0), ("<s>", 0.0), ("a", -1.0), ("b", -2.0), *bytes_], 0, True, excluded=range(4, 260)
    )
    model = model_of(vocabulary, SentencePieceNormalizer(), {"<s>": 1})
    assert [piece.kind for piece in model.pieces[:5]] == ["unknown", "control", "normal", "normal", "byte"]
    assert model.special_tokens == {"<unk>": 0, "<s>": 1}
    assert parse_sentencepiece(serialize_sentencepiece(model)) == model
    from sentencepiece import sentencepiece_model_pb2

    spec = sentencepiece_model_pb2.ModelProto.FromString(serialize_sentencepiece(model)).trainer_spec
    assert (spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id, spec.vocab_size) == (0, 1, -1, -1, 260)
    with pytest.raises(ValueError, match="^the special token '</s>' is not the piece of id 2 of the vocabulary$"):
        model_of(vocabulary, SentencePieceNormalizer(), {"</s>": 2})
    with pytest.raises(ValueError, match="^a SentencePiece model must have an unknown token"):
        model_of(Unigram([("a", -1.0)]), SentencePieceNormalizer(), {})


def test_what_is_no_model(tmp_path, plain):
    (tmp_path / "bad.model").write_bytes(b"\xff\xff not a model")
    with pytest.raises(ValueError, match=r"bad\.model: this is no SentencePiece model, or a damaged one"):
        read_sentencepiece(tmp_path / "bad.model")
    with pytest.raises(ValueError, match="^this is no SentencePiece model: it has no pieces$"):
        parse_sentencepiece(b"")
    with pytest.raises(ValueError, match="^this is no SentencePiece model, or a damaged one"):
        parse_sentencepiece(plain.read_bytes()[:-100])


def _changed(file, change) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())
    change(proto)
    return proto.SerializeToString()


def _set(path: str, value):
    def change(proto):
        *parents, name = path.split(".")
        for parent in parents:
            proto = getattr(proto, parent)
        setattr(proto, name, value)

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (_set("trainer_spec.model_type", 3), 'of the type "word" is not supported, only "unigram" and "bpe" are$'),
        (_set("denormalizer_spec.precompiled_charsmap", b"abc"), "changes text after decoding"),
        (_set("normalizer_spec.precompiled_charsmap", b"abc"), "the precompiled table of 3 bytes is damaged"),
        (lambda proto: proto.pieces.add(piece=proto.pieces[5].piece), "is there twice, with the ids 5 and"),
        (lambda proto: proto.pieces.add(piece=""), "^the piece of id 900 is empty$"),
        (lambda proto: proto.pieces.add(piece="x y", type=2), "needs exactly one unknown piece, this has 2$"),
        (lambda proto: proto.pieces.add(piece="x y", score=float("nan")), "must be a finite number, got nan$"),
    ],
)
def test_what_is_not_supported_or_damaged(plain, change, message):
    with pytest.raises(ValueError, match=message):
        parse_sentencepiece(_changed(plain, change))


def test_inconsistent_models():
    pieces = (ScoredPiece("<unk>", 0, "unknown"), ScoredPiece("a"), ScoredPiece("ab", 0, "user_defined"))
    with pytest.raises(ValueError, match="set its user_defined to the 1 pieces of that kind$"):
        SentencePieceModel("bpe", pieces)
    with pytest.raises(ValueError, match=r"^unknown kinds of pieces: \['odd'\]"):
        SentencePieceModel("bpe", (*pieces[:2], ScoredPiece("c", 0, "odd")))
