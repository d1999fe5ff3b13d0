"""Language models in Hugging Face directories: text in, text out, and the same in transformers."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxllm
from jaxllm import tokenizers
from jaxllm.inference import LanguageModel, Origin
from jaxllm.inference.generation import complete
from jaxllm.inference.sampling import SamplingConfig
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import initialize
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, param_shardings
from jaxllm.tokenizers.added_tokens import AddedToken

CONFIG = ModelConfig(
    vocab_size=276,
    context_length=64,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=24, activation="silu", gated=True),
    tie_embeddings=False,
    init_std=0.4,
)
TEXT = "One, deux, drei: ütf-8 ✓"


@pytest.fixture(scope="module")
def lm():
    config = tokenizers.TokenizerConfig(kind="byte_bpe", vocab_size=276)
    tokenizer = tokenizers.train(config, ["to be or not to be, that is the question " * 8])
    params = initialize(decoder_spec(CONFIG), jax.random.key(0))
    return LanguageModel(CONFIG, params, tokenizer, Origin("small"))


@pytest.fixture(scope="module")
def directory(lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small"
    jaxllm.save(lm, path, format="huggingface")
    return path


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_model_goes_there_and_back(lm, directory):
    read = jaxllm.load(directory)
    same(read.params, lm.params)
    assert (read.origin.name, read.origin.family, read.ends) == ("small", "llama", lm.ends)
    assert read.tokenizer.encode(TEXT) == lm.tokenizer.encode(TEXT)
    for prompt in ("", "to be"):
        assert read.encode_prompt(prompt) == lm.encode_prompt(prompt)
        assert jaxllm.generate(read, prompt, max_new_tokens=8) == jaxllm.generate(lm, prompt, max_new_tokens=8)


def test_it_is_written_again_as_what_it_was(directory, tmp_path):
    jaxllm.save(jaxllm.load(directory), tmp_path / "again", format="huggingface")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()


def test_onto_a_mesh(lm, directory, tmp_path):
    layout = Layout(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    wanted = param_shardings(decoder_spec(CONFIG), layout)
    jaxllm.save(lm, tmp_path / "own")
    for path in (directory, tmp_path / "own"):
        read = jaxllm.load(path, layout=layout)
        assert jax.tree.map(lambda array: array.sharding, read.params) == wanted
        same(read.params, lm.params)


def with_files(directory, tmp_path, **files):
    path = tmp_path / "changed"
    path.mkdir()
    for file in directory.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    for name, entries in files.items():
        file = path / f"{name}.json"
        file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | entries))
    return path


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        ({"generation_config": {"eos_token_id": [5, 7, 7, 999]}}, {5, 7}),
        ({"generation_config": {"eos_token_id": 9}, "config": {"eos_token_id": 5}}, {9}),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": [5]}}, {5}),
    ],
)
def test_several_tokens_may_end_an_answer(lm, directory, tmp_path, files, stops):
    read = jaxllm.load(with_files(directory, tmp_path, **files))
    assert set(read.ends) == stops | {lm.tokenizer.end_of_text}


def test_generation_stops_at_any_of_them(directory, tmp_path):
    settings = {"max_new_tokens": 12, "sampling": SamplingConfig(temperature=0.0)}
    (free,) = complete(jaxllm.load(directory), ["to be"], **settings)
    third = free.tokens[2]
    path = with_files(directory, tmp_path, generation_config={"eos_token_id": [third, 270]})
    (stopped,) = complete(jaxllm.load(path), ["to be"], **settings)
    assert stopped.tokens == free.tokens[: free.tokens.index(third) + 1]
    assert stopped.finish_reason == "end_of_text"


def test_a_directory_without_tokenizer(lm, directory, tmp_path):
    path = with_files(directory, tmp_path)
    (path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"changed has no tokenizer: copy tokenizer.json .* load\(path, tokenizer="):
        jaxllm.load(path)
    same(jaxllm.load(path, tokenizer=directory).params, lm.params)


def test_added_tokens_beyond_the_table_are_left_out(directory, tmp_path):
    path = with_files(directory, tmp_path)
    tokenizer = tokenizers.load(directory)
    image = AddedToken("<image>", CONFIG.vocab_size)
    tokenizer.replace(added_tokens=[*tokenizer.added_tokens, image]).save(path)
    assert tokenizers.load(path).vocab_size == CONFIG.vocab_size + 1
    read = jaxllm.load(path)
    assert read.tokenizer.vocab_size == tokenizer.vocab_size
    assert read.tokenizer.fingerprint() == tokenizer.fingerprint()


def test_what_it_can_not_be(lm, directory, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'onnx'; supported: jaxllm, huggingface"):
        jaxllm.save(lm, tmp_path / "m", format="onnx")
    with pytest.raises(ValueError, match="cannot be saved to .*already exists"):
        jaxllm.save(lm, directory, format="huggingface")
    sinusoidal = replace(lm, config=replace(CONFIG, positions="sinusoidal"))
    with pytest.raises(ValueError, match="no family of transformers can express this ModelConfig"):
        jaxllm.save(sinusoidal, tmp_path / "m", format="huggingface")


def test_transformers_reads_it_and_writes_the_same_text(lm, directory):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    transformers = pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    for text in (TEXT, "to be or"):
        ids = tokenizer(text)["input_ids"]
        assert ids == lm.encode_prompt(text)
        written = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)[0, len(ids) :]
        (ours,) = complete(lm, [text], max_new_tokens=20, sampling=SamplingConfig(temperature=0.0))
        assert ours.tokens == written.tolist()
        assert ours.text == tokenizer.decode(written, skip_special_tokens=True)
    assert model.generation_config.eos_token_id == lm.tokenizer.end_of_text
