"""Small models of transformers with random weights, and their logits: `python tests/models/golden/make_golden.py`.

Needs the packages of requirements/parity.txt. Weights and logits go into the files together, so what the files say
depends on nobody's random numbers.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

# One dictionary each: test_golden.py and test_transformers.py build our config from the same numbers.
GPT2 = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5}
LLAMA = {
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}


def gpt2(seed=0, **sizes):
    return randomized(GPT2LMHeadModel(GPT2Config(**{**GPT2, **sizes})), seed)


def llama(seed=0, **sizes):
    return randomized(LlamaForCausalLM(LlamaConfig(**{**LLAMA, **sizes})), seed)


def randomized(model, seed):
    """Every parameter, biases and scales too, away from the value that would hide it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def weights(model) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def logits(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


def main():
    for name, model in (("gpt2", gpt2()), ("llama", llama())):
        tokens = np.random.default_rng(0).integers(0, 40, (2, 16))
        held = {key: value for key, value in weights(model).items() if key != "lm_head.weight" or name == "llama"}
        path = Path(__file__).parent / f"{name}.npz"
        np.savez_compressed(path, tokens=tokens.astype(np.int32), logits=logits(model, tokens), **held)
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
