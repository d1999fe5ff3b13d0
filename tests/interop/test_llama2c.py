"""llama2.c's checkpoints: the text that its own program writes, and what is wrong with other files."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

import jaxllm
from jaxllm.interop.llama2c import load_llama2c, read_tokenizer

SHARED = Path(os.environ.get("JAXLLM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
WEIGHTS = SHARED / "weights"

V = 263
SIZES = (24, 20, 2, 6, 2, V, 16)  # width, hidden, layers, heads, key/value heads, vocabulary, context
NUMBERS = V * 24 + 2 * (24 + 24 * 24 + 2 * 8 * 24 + 24 * 24 + 24 + 3 * 24 * 20) + 24 + 16 * 4


def vocabulary(size=V, cut=0) -> bytes:
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256)), b" ", b"a", b"b", b" a"]
    tokens += [b"t%d" % i for i in range(size - len(tokens))]
    packed = [struct.pack("<fi", -float(i), len(token)) + token for i, token in enumerate(tokens)]
    content = struct.pack("<i", 9) + b"".join(packed)
    return content[: len(content) - cut]


def checkpoint(sizes=SIZES, numbers=NUMBERS) -> bytes:
    values = np.random.default_rng(0).standard_normal(numbers, np.float32) * 0.1
    return struct.pack("<7i", *sizes) + values.astype("<f4").tobytes()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "m.bin").write_bytes(checkpoint())
    (tmp_path / f"tok{V}.bin").write_bytes(vocabulary())
    return tmp_path


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"{WEIGHTS} is not there; JAXLLM_SHARED_DATA can name another folder")
def test_a_real_model_writes_the_text_of_its_own_program():
    lm = jaxllm.load(WEIGHTS / "stories260K.bin")
    text = jaxllm.generate(lm, "", max_new_tokens=200, temperature=0.0)
    # The program ends its output with a line end.
    assert text + "\n" == (WEIGHTS / "stories260K.greedy200.expected.txt").read_text()
    assert lm.tokenizer.decode(lm.tokenizer.encode(text)) == text
    assert len(lm.tokenizer.encode(text)) == 200


def test_numbers_are_taken_in_their_order(files):
    model = load_llama2c(files / "m.bin")
    numbers = np.frombuffer(checkpoint()[28:], "<f4")
    np.testing.assert_array_equal(model.params.embedding, numbers[: V * 24].reshape(V, 24))
    # The last tensor is the final norm; the angles behind it are not needed.
    np.testing.assert_array_equal(model.params.norm.scale, numbers[-24 - 64 : -64])
    assert (model.config.d_model, model.config.mlp.d_ff, model.config.num_kv_heads) == (24, 20, 2)
    assert model.config.tie_embeddings and model.stop_tokens == (1, 2)


def test_a_head_of_its_own(files):
    (files / "m.bin").write_bytes(checkpoint((*SIZES[:5], -V, 16), NUMBERS + V * 24))
    model = load_llama2c(files / "m.bin")
    numbers = np.frombuffer((files / "m.bin").read_bytes()[28:], "<f4")
    np.testing.assert_array_equal(model.params.head, numbers[-V * 24 :].reshape(V, 24))


def test_the_vocabulary(files):
    tokenizer = read_tokenizer(files / f"tok{V}.bin")
    assert tokenizer.vocab_size == V
    assert tokenizer.encode("a b") == [262, 259, 261]
    assert tokenizer.encode("é") == [259, 0xC3 + 3, 0xA9 + 3]
    assert tokenizer.encode("a", add_special_tokens=True) == [1, 262]
    assert tokenizer.decode([1, 262, 259, 261, 2]) == "a b"


def test_a_vocabulary_under_another_name(files, tmp_path):
    elsewhere = tmp_path / "v.bin"
    (files / f"tok{V}.bin").rename(elsewhere)
    with pytest.raises(ValueError, match=rf"has no vocabulary beside it \(tokenizer.bin or tok{V}.bin\): name it with"):
        jaxllm.load(files / "m.bin")
    assert jaxllm.load(files / "m.bin", tokenizer=elsewhere).tokenizer.vocab_size == V
    with pytest.raises(ValueError, match="there is no vocabulary .*other.bin"):
        jaxllm.load(files / "m.bin", tokenizer=tmp_path / "other.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "has 3 bytes: a checkpoint of llama2.c begins with seven sizes"),
        (checkpoint()[:-4], "but a checkpoint of llama2.c with its sizes .* it is cut off, or no such file"),
        (checkpoint() + b"\0", "it is cut off, or no such file"),
        (
            checkpoint((24, 20, 0, 6, 2, V, 16)),
            "is no checkpoint of llama2.c: its sizes are width 24, hidden 20, layers 0",
        ),
        (checkpoint((24, 20, 2, 6, 4, V, 16)), "is no checkpoint of llama2.c: .*num_kv_heads=4"),
        (
            struct.pack("<8i", 0x616B3432, 1, *SIZES[:6]),
            "is of version 1 of llama2.c's format; export it with --version 0",
        ),
    ],
)
def test_checkpoints_that_are_none(files, content, message):
    (files / "m.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        jaxllm.load(files / "m.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (vocabulary(cut=1), "is cut off or no vocabulary of llama2.c: token 262"),
        (vocabulary(cut=7), "ends within token 262"),
        (b"", "has 0 tokens; a vocabulary of llama2.c has three marks"),
        (vocabulary().replace(b"\x01\0\0\0b", b"\x01\0\0\0\xff"), "token 261 is not UTF-8"),
        (vocabulary().replace(b"\x01\0\0\0b", b"\x01\0\0\0a"), "'a' .*twice|twice.*'a'|occurs"),
        (vocabulary(300), "has 300 tokens, the model .* has 263"),
    ],
)
def test_vocabularies_that_are_none(files, content, message):
    (files / f"tok{V}.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        jaxllm.load(files / "m.bin")
