"""Weights of sources from their sizes, and published mixtures to begin with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LLAMA_3 = {"general": 0.50, "math and reasoning": 0.25, "code": 0.17, "multilingual": 0.08}
"""The final pretraining mixture of Llama 3, in tokens (Grattafiori et al. 2024, section 3.1.2)."""


def mixture_weights(
    sizes: Sequence[float], *, temperature: float = 1.0, upsampling: Sequence[float] | None = None
) -> np.ndarray:
    """Weights that sum to 1, in proportion to upsampling * size ** (1 / temperature).

    sizes: tokens of each source, or weights given by hand. temperature: 1 keeps proportions, more brings small sources
    up towards equal parts (mT5, Xue et al. 2021, has 1 / temperature = 0.3), infinity gives equal parts. upsampling:
    how many times the tokens of each source count, as Llama 1 read Wikipedia and books more than twice.
    Raises ValueError for sizes or factors that are not positive, and for a temperature that is not.
    """
    values = np.asarray(sizes, np.float64)
    factors = np.ones_like(values) if upsampling is None else np.asarray(upsampling, np.float64)
    if values.ndim != 1 or not len(values) or factors.shape != values.shape:
        raise ValueError(f"expected one size and one factor a source, got {values.shape} and {factors.shape}")
    for name, array in (("size", values), ("upsampling", factors)):
        if not (np.isfinite(array) & (array > 0)).all():
            raise ValueError(f"the {name} of each source must be above 0, got {array.tolist()}")
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    # Divided by the largest, since sizes to the power of a small temperature would be too large for a float.
    weights = factors * (values / values.max()) ** (1 / temperature)
    return weights / weights.sum()


def epochs_of(weights: Sequence[float], sizes: Sequence[float], tokens: float) -> np.ndarray:
    """How often each source is gone through when `tokens` are drawn from all by these weights."""
    weights = np.asarray(weights, np.float64)
    return tokens * weights / weights.sum() / np.asarray(sizes, np.float64)
