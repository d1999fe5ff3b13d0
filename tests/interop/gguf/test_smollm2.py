"""A real model, equal to what transformers made of the same file: SmolLM2-135M-Instruct.

Needs the package of the extra smollm2, and the shared data folder. The figures over long texts take minutes, so they
are asked for by JAXLLM_LONG=1.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from jaxllm.interop.gguf import read_gguf
from jaxllm.interop.named_models import files_of

SHARED = Path(os.environ.get("JAXLLM_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
ORACLE = SHARED / "oracles" / "smollm2_135m_q4_1.json"
needs_texts = pytest.mark.skipif(not os.environ.get("JAXLLM_LONG"), reason="takes minutes: JAXLLM_LONG=1 asks for it")


@pytest.fixture(scope="module")
def lm():
    try:
        files_of("smollm2")
    except ValueError as error:
        pytest.skip(str(error))
    return jaxllm.load("smollm2")


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.is_file():
        pytest.skip(f"{ORACLE} is not there; JAXLLM_SHARED_DATA can name another folder")
    return json.loads(ORACLE.read_text())


@pytest.fixture(scope="module")
def forward(lm):
    compiled = jax.jit(lambda params, tokens: jaxllm.forward(params, lm.config, tokens))
    return lambda tokens: compiled(lm.params, jnp.asarray(tokens))


def chat(lm, text):
    return lm.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True).ids


@pytest.mark.parametrize("number", [0, 1])
def test_a_prompt(lm, oracle, forward, number):
    case = oracle["cases"][number]
    ids = lm.encode_prompt(case["prompt"]) if "prompt" in case else chat(lm, case["chat"])
    assert ids == case["ids"]
    logits = np.asarray(forward([ids]))[0]
    best = np.argsort(-logits[-1])[:10]
    assert best.tolist() == case["last_top10_ids"]
    np.testing.assert_allclose(logits[-1][best], case["last_top10_logits"], atol=2e-3)
    losses = -jax.nn.log_softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]]
    assert float(losses.mean()) == pytest.approx(case["mean_nll"], abs=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_the_likeliest_continuation(lm, oracle, number):
    from jaxllm.inference import SamplingConfig, complete

    case = oracle["cases"][number]
    [result] = complete(lm, [case["ids"]], max_new_tokens=24, sampling=SamplingConfig(0))
    assert result.tokens == case["greedy24"]
    assert result.text == case["greedy_text"].removesuffix("<|im_end|>")
    assert result.finish_reason == ("end_of_text" if case["greedy24"][-1] == 2 else "length")


def test_blocks_are_decoded_as_the_gguf_package_decodes_them(lm):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    [path] = files_of("smollm2")
    ours, theirs = read_gguf(path).tensors, gguf.GGUFReader(path).tensors
    assert set(ours) == {tensor.name for tensor in theirs}
    for tensor in theirs[::20]:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours[tensor.name].array(), expected)


@needs_texts
@pytest.mark.parametrize("name", ["wikitext-2.test.txt", "tinyshakespeare.txt", "names.txt"])
def test_the_loss_of_a_text(lm, oracle, forward, name):
    expected, count = oracle["nll_first_8192_tokens_ctx512"][name]
    text = (SHARED / "corpora" / name).read_text(encoding="utf-8")[: 8192 * 6]
    windows = np.array(lm.tokenizer.encode(text)[:8192]).reshape(16, 512)

    def loss(tokens):
        scores = jax.nn.log_softmax(forward(tokens[None])[0, :-1])
        return -jnp.take_along_axis(scores, jnp.asarray(tokens[1:, None]), 1).sum()

    total = sum(float(loss(window)) for window in windows)
    assert count == windows.size - len(windows)
    print(f"{name}: {total / count:.5f}, expected {expected}")
    assert total / count == pytest.approx(expected, abs=1e-3)


@needs_texts
def test_last_words(lm, oracle, forward):
    rows = (SHARED / "evals" / "lambada_test.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    right = 0
    for row in rows:
        context, _, word = json.loads(row)["text"].rpartition(" ")
        before, after = lm.tokenizer.encode(context), lm.tokenizer.encode(" " + word)
        ids = [*before, *after]
        padded = np.zeros(-(-len(ids) // 64) * 64, np.int32)
        padded[: len(ids)] = ids
        best = np.asarray(forward(padded[None])[0].argmax(-1))[len(before) - 1 : len(ids) - 1]
        right += best.tolist() == after
    print(f"LAMBADA: {right / len(rows):.4f}")
    assert right / len(rows) == pytest.approx(oracle["lambada_openai_first300_greedy_acc"], abs=1e-9)
