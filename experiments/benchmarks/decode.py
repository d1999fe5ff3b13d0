"""How fast text is read and written: tokens/s of prefill and of decoding, beside Hugging Face's where it is installed.

    python experiments/benchmarks/decode.py [--prompt 128] [--new 33] [--rounds 3]

The models have random weights: GPT-2's shape with 124 M parameters, and the small one of `jaxllm quickstart`. All is
greedy and in float32; decoding is also timed with nucleus sampling, which goes through the vocabulary many times for
each token. Ours and theirs take turns, and medians are shown; compilation is not counted.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from jaxllm.inference import Decoding, SamplingConfig
from jaxllm.models import PRESETS, AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import count, initialize

GREEDY, NUCLEUS = SamplingConfig(temperature=0), SamplingConfig(top_p=0.95)
MODELS = {
    "gpt2": PRESETS["gpt2"](),
    "small": ModelConfig(
        vocab_size=4096,
        context_length=256,
        d_model=192,
        num_layers=6,
        attention=AttentionConfig(num_heads=6, num_kv_heads=2, qk_norm="shared"),
        mlp=MLPConfig(d_ff=512, activation="silu", gated=True),
    ),
}
Rates = tuple[float, float]  # tokens/s of prefill and of decoding


def ours(params, config: ModelConfig, prompts: list[list[int]], new: int, sampling: SamplingConfig) -> Rates:
    decoding = Decoding(params, config, prompts, max_new_tokens=new, sampling=sampling)
    while not decoding.finished:
        decoding.next()
    prefill = sum(map(len, prompts)) / decoding.prefill_seconds
    return prefill, decoding.decoded_tokens / decoding.decode_seconds


def theirs(prompts: list[list[int]], new: int) -> Callable[[], Rates]:
    """GPT-2 of transformers, called as its `generate` calls it, without the bookkeeping around it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval()
    tokens = torch.tensor(prompts)

    @torch.inference_mode()
    def run() -> Rates:
        begin = time.perf_counter()
        out = model(tokens, use_cache=True, logits_to_keep=1)
        read = time.perf_counter()
        for _ in range(new - 1):
            newest = out.logits[:, -1:].argmax(-1)
            out = model(newest, past_key_values=out.past_key_values, use_cache=True)
        written = time.perf_counter()
        return tokens.numel() / (read - begin), len(prompts) * (new - 1) / (written - read)

    return run


def median(rounds: list[Rates]) -> Rates:
    return tuple(map(statistics.median, zip(*rounds, strict=True)))


def measure(name: str, config: ModelConfig, batch: int, prompt: int, new: int, rounds: int) -> None:
    params = initialize(decoder_spec(config), jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (batch, prompt)).tolist()
    contenders = {
        "greedy": lambda: ours(params, config, prompts, new, GREEDY),
        "top-p 0.95": lambda: ours(params, config, prompts, new, NUCLEUS),
    }
    if name == "gpt2" and importlib.util.find_spec("transformers"):
        contenders["transformers, greedy"] = theirs(prompts, new)
    for run in contenders.values():
        run()
    results = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, run in contenders.items():
            results[contender].append(run())
    medians = {contender: median(rates) for contender, rates in results.items()}
    print(
        f"{name}, {count(decoder_spec(config)):,} parameters, {batch} x {prompt} tokens read, {batch} x {new} written"
    )
    for contender, (prefill, decode) in medians.items():
        print(f"  {contender:22} prefill {prefill:8,.0f} tokens/s   decode {decode:8,.1f} tokens/s")
    if "transformers, greedy" in medians:
        ratios = (us / them for us, them in zip(medians["greedy"], medians["transformers, greedy"], strict=True))
        print("  ratio                  prefill {:8.2f}            decode {:8.2f}".format(*ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=33, help="tokens written to each")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    for name, config in MODELS.items():
        for batch in (1, 8):
            measure(name, config, batch, arguments.prompt, arguments.new, arguments.rounds)


if __name__ == "__main__":
    main()
