"""Each format is recognized, read, written, and refused by name for what it can't express."""

import shutil

import pytest

from jaxllm.tokenizers import TokenizerConfig, has_tokenizer, load, train
from jaxllm.tokenizers.formats.load_and_write import write
from jaxllm.tokenizers.template import simple_template

TEXTS = ["Hello wörld 日本 1234 it's  fine\n\n\tx", " a", "  a  ", "e\u0301 ﬁ", "", "🦙\x00"]


@pytest.fixture(scope="module")
def byte_bpe(texts):
    return train(TokenizerConfig(vocab_size=500, split="gpt2"), texts)


@pytest.fixture(scope="module")
def unigram(texts):
    return train(TokenizerConfig(kind="unigram", vocab_size=500), texts)


@pytest.fixture(scope="module")
def wordpiece(texts):
    return train(TokenizerConfig(kind="wordpiece", vocab_size=500, normalization=("lowercase",)), texts)


def test_a_directory_of_gpt2s_files(byte_bpe, tmp_path):
    write(byte_bpe, tmp_path / "gpt2", "gpt2")
    for path in (tmp_path / "gpt2", tmp_path / "gpt2" / "vocab.json", tmp_path / "gpt2" / "merges.txt"):
        loaded = load(path)
        assert loaded.encode_batch(TEXTS) == byte_bpe.encode_batch(TEXTS)
        assert loaded.end_of_text == byte_bpe.end_of_text


def test_a_sentencepiece_model(unigram, texts, tmp_path):
    spm = pytest.importorskip("sentencepiece")
    write(unigram, tmp_path / "t.model", "sentencepiece")
    library = spm.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    loaded = load(tmp_path / "t.model")
    assert library.vocab_size() == unigram.vocab_size == loaded.vocab_size
    assert library.piece_to_id("<|endoftext|>") == loaded.end_of_text == unigram.end_of_text
    for text in [*TEXTS, *texts]:
        assert loaded.encode(text) == library.encode(text)
        assert loaded.decode(loaded.encode(text)) == text == library.decode(library.encode(text))
    write(loaded, tmp_path / "again.model", "sentencepiece")
    assert load(tmp_path / "again.model").encode_batch(TEXTS) == loaded.encode_batch(TEXTS)
    (tmp_path / "t5").mkdir()
    assert not has_tokenizer(tmp_path / "t5")
    (tmp_path / "again.model").rename(tmp_path / "t5" / "spiece.model")
    assert has_tokenizer(tmp_path / "t5")
    assert load(tmp_path / "t5").encode_batch(TEXTS) == loaded.encode_batch(TEXTS)


def test_a_sentencepiece_model_with_its_roles_and_templates(unigram, tmp_path):
    """tokenizer.json has no normalizer that is SentencePiece's own, so what was read from its model is saved as one."""
    write(unigram, tmp_path / "t.model", "sentencepiece")
    bare = load(tmp_path / "t.model")
    end = bare.end_of_text
    whole = bare.replace(template=simple_template(None, end), chat_template="{{ messages[0].content }}")
    whole.save(tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {"tokenizer.model", "tokenizer_config.json"}
    again = load(tmp_path / "saved")
    assert again.fingerprint() == whole.fingerprint() != bare.fingerprint()
    assert (again.roles, again.template, again.chat_template) == (whole.roles, whole.template, whole.chat_template)
    assert again.encode("The class", add_special_tokens=True) == [*bare.encode("The class"), end]
    (tmp_path / "saved" / "tokenizer_config.json").write_text('{"eos_token": 7}')
    with pytest.raises(ValueError, match="tokenizer_config.json: eos_token must be a token, found 7"):
        load(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"only a bos_token before a text and an eos_token behind it can be said"):
        bare.replace(template=simple_template(end, None)).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_vocab_txt(wordpiece, texts, tmp_path):
    write(wordpiece, tmp_path / "vocab.txt", "bert")
    loaded = load(tmp_path / "vocab.txt")
    assert loaded.normalizer[0].lowercase and loaded.vocab_size == wordpiece.vocab_size - 1  # without <|endoftext|>
    assert loaded.encode("The Class statement") == wordpiece.encode("The Class statement")
    assert loaded.encode("the class", add_special_tokens=True)[0] == loaded.special_tokens["[CLS]"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not load(tmp_path).normalizer[0].lowercase


def test_a_rank_file(shared, tmp_path):
    shutil.copy(shared("tokenizers/tiktoken/r50k_base.tiktoken"), tmp_path / "renamed.tiktoken")
    loaded = load(tmp_path / "renamed.tiktoken")
    assert loaded.encode("Hello, world!") == [15496, 11, 995, 0] and loaded.vocab_size == 50257
    write(loaded, tmp_path / "r50k_base.tiktoken", "tiktoken")
    assert load(tmp_path / "r50k_base.tiktoken").encode_batch(TEXTS) == loaded.encode_batch(TEXTS)
    assert (tmp_path / "r50k_base.tiktoken").read_bytes() == (tmp_path / "renamed.tiktoken").read_bytes()


def test_a_rank_file_of_an_unknown_encoding(tmp_path):
    (tmp_path / "mine.tiktoken").write_text("YQ== 0\n")
    with pytest.raises(
        ValueError, match="mine.tiktoken: a rank file doesn't say how text is cut; rename it to that of"
    ):
        load(tmp_path / "mine.tiktoken")


@pytest.mark.parametrize(("name", "kind"), [("mistral/tokenizer.model.v1", 32000), ("gpt2", 50257)])
def test_real_files(shared, name, kind):
    tokenizer = load(shared(f"tokenizers/{name}"))
    assert tokenizer.vocab_size == kind
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS


def test_a_run_directory_has_its_tokenizer_inside(byte_bpe, tmp_path):
    byte_bpe.save(tmp_path / "run" / "tokenizer")
    assert load(tmp_path / "run").fingerprint() == byte_bpe.fingerprint()


def test_a_place_without_a_tokenizer(tmp_path):
    with pytest.raises(
        ValueError, match="there is no tokenizer here; looked for tokenizer.json, tokenizer, tokenizer.m"
    ):
        load(tmp_path)
    with pytest.raises(ValueError, match="nowhere: there is no tokenizer here; name a directory or a file"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("kind", "format", "message"),
    [
        ("unigram", "tiktoken", "the format tiktoken is for ByteLevelBPE, this is Unigram"),
        ("unigram", "gpt2", "the format gpt2 is for ByteLevelBPE, this is Unigram"),
        ("byte_bpe", "bert", "the format bert is for WordPiece, this is ByteLevelBPE"),
        ("byte_bpe", "sentencepiece", "the format sentencepiece is for Unigram or ScoredBPE, this is ByteLevelBPE"),
        ("byte_bpe", "odd", "the format 'odd' is unknown; there are huggingface, tiktoken, gpt2, sentencepiece, bert"),
    ],
)
def test_what_a_format_can_not_express(kind, format, message, tmp_path, request):
    with pytest.raises(ValueError, match=message):
        write(request.getfixturevalue(kind), tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_normalizers_have_no_place_in_rank_files(texts, tmp_path):
    tokenizer = train(TokenizerConfig(vocab_size=300, normalization=("nfc",)), texts)
    with pytest.raises(ValueError, match="the format tiktoken has no place for the normalizer NFC"):
        write(tokenizer, tmp_path / "out", "tiktoken")
