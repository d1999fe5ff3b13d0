import pytest

from jaxllm.tokenizers.formats.sentencepiece_model import serialize_sentencepiece
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from jaxllm.tokenizers.training.train_sentencepiece import train_sentencepiece
from tests.tokenizers.library_models import charsmap, library
from tests.tokenizers.mixed_texts import mixed_texts


@pytest.fixture(scope="module")
def lines(texts):
    return [line for text in texts for line in text.split("\n")]


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_the_library_encodes_with_the_model_as_we_do(algorithm, byte_fallback, lines):
    model = train_sentencepiece(
        lines,
        700,
        algorithm,
        normalizer=SentencePieceNormalizer(charsmap("nmt_nfkc")),
        user_defined=("the", "<sep>"),
        byte_fallback=byte_fallback,
        character_coverage=1.0,
    )
    theirs = library().SentencePieceProcessor(model_proto=serialize_sentencepiece(model))
    assert (theirs.vocab_size(), theirs.unk_id(), theirs.bos_id(), theirs.eos_id()) == (700, 0, 1, 2)
    for text in [*mixed_texts(500, lines), "other <sep>the"]:
        pieces = [model.normalizer(text)]
        for cut in model.cuts:
            pieces = [part for piece in pieces for part in cut(piece)]
        assert [i for piece in pieces for i in model.vocabulary.encode_piece(piece)] == theirs.encode(text)
    assert 3 in theirs.encode("other") and theirs.encode("<sep>")[-1] == 4
    for line in lines[:50]:
        assert theirs.decode(theirs.encode(line)) == " ".join(line.split())


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_neither_the_order_nor_the_number_of_processes_matters(algorithm, lines):
    once = train_sentencepiece(lines, 400, algorithm)
    again = train_sentencepiece(reversed(lines), 400, algorithm, processes=2)
    assert serialize_sentencepiece(once) == serialize_sentencepiece(again)


def test_bad_settings(lines):
    with pytest.raises(ValueError, match='^algorithm must be "unigram" or "bpe", got \'word\'$'):
        train_sentencepiece(lines, 400, "word")
    with pytest.raises(ValueError, match="^the names of tokens must differ, but '<s>' is there twice$"):
        train_sentencepiece(lines, 400, user_defined=("<s>",))
    for settings in ({"escape_whitespaces": False}, {"treat_whitespace_as_suffix": True}):
        with pytest.raises(ValueError, match="^training needs a normalizer that writes a space as U\\+2581 before"):
            train_sentencepiece(lines, 400, normalizer=SentencePieceNormalizer(**settings))
    with pytest.raises(ValueError, match="^there is no text to learn from"):
        train_sentencepiece([], 400)
