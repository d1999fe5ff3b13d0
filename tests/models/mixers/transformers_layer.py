"""A layer of transformers with random weights, run next to ours; needs requirements/parity.txt."""

import numpy as np
import torch

from jaxllm.models import AttentionConfig, ModelConfig
from tests.models.mixers.attention_variants import whole

B, T, D, H, G, K = 2, 14, 24, 4, 2, 8
CONTEXT = 64
SIZES = {
    "hidden_size": D,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "head_dim": K,
    "max_position_embeddings": CONTEXT,
    "num_hidden_layers": 1,
    "attn_implementation": "eager",
}
OURS = AttentionConfig(num_heads=H, num_kv_heads=G, head_dim=K)
MODEL = ModelConfig(vocab_size=8, context_length=CONTEXT, d_model=D, attention=OURS)
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
POSITIONS = np.broadcast_to(np.arange(T), (B, T))


CAUSAL = np.tril(np.ones((T, T), bool))


def randomized(module):
    """Noise on every weight, and the weights as numpy arrays by name."""
    module.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return {name: value.numpy() for name, value in module.state_dict().items()}


def grid(function):
    """A mask of theirs, bool [T, T]; None sees everything."""
    return np.array([[bool(function(0, 0, torch.tensor(t), torch.tensor(s))) for s in range(T)] for t in range(T)])


def additive(mask):
    return torch.where(torch.tensor(mask), 0.0, torch.finfo(torch.float32).min)[None, None]


def run(module, embeddings, mask, **more):
    with torch.no_grad():
        return module(torch.tensor(X), position_embeddings=embeddings, attention_mask=additive(mask), **more)[0]


def inward(weight, heads, width=K):
    return weight.T.reshape(-1, heads, width)


def compare(expected, p, model, config):
    np.testing.assert_allclose(whole(p, model, config, X, POSITIONS), expected, rtol=1e-4, atol=1e-5)
