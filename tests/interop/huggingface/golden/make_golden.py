"""A BERT and a T5 of transformers with random weights, and their logits:
`python -m tests.interop.huggingface.golden.make_golden`.

Needs the packages of requirements/parity.txt. Config, weights and logits go into the files together, so what the files
say depends on nobody's random numbers.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.interop.huggingface import small_models


def main():
    random = np.random.default_rng(0)
    mask = np.arange(12)[None] < np.array([[12], [7]])
    tokens, target = np.where(mask, random.integers(3, 61, (2, 12)), 0), random.integers(3, 61, (2, 9))
    smaller = transformers.T5Config(**small_models.T5 | {"d_model": 15, "d_kv": 4, "d_ff": 20, "num_layers": 2})
    torch.manual_seed(0)
    t5 = small_models.randomized(transformers.T5ForConditionalGeneration(smaller))
    for name, model in (("bert", small_models.make("bert")), ("t5", t5)):
        inputs = {"attention_mask": torch.tensor(mask.astype(int))}
        if name == "t5":
            inputs["decoder_input_ids"] = torch.tensor(target)
        with torch.no_grad():
            logits = model(torch.tensor(tokens), **inputs).logits.numpy()
        model.config.architectures = [type(model).__name__]
        parameters = {key: value.detach().numpy() for key, value in model.named_parameters()}
        path = Path(__file__).parent / f"{name}.npz"
        config = np.array(json.dumps(model.config.to_diff_dict()))
        held = {"config": config, "tokens": tokens, "mask": mask, "target": target, "logits": logits}
        np.savez_compressed(path, **held, **{f"weights/{key}": value for key, value in parameters.items()})
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
