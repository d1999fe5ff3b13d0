"""DoReMi: weights of domains from a small proxy model (Xie et al. 2023, "DoReMi: Optimizing Data Mixtures Speeds Up
Language Model Pretraining", algorithm 1).

A reference model is trained on reference weights. A proxy of the same size is then trained, and step by step the
weights of the domains whose loss is furthest above the reference's are raised; the mean of the weights over the steps
is what the large model is trained with. Here is the arithmetic of the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DomainWeights:
    """The weights after some updates, and their mean over these."""

    current: tuple[float, ...]
    total: tuple[float, ...]
    """sum of the weights after each update"""
    updates: int = 0

    @classmethod
    def uniform(cls, domains: int) -> DomainWeights:
        """Before the first update. Raises ValueError for no domain."""
        if domains < 1:
            raise ValueError(f"expected at least one domain, got {domains}")
        return cls((1 / domains,) * domains, (0.0,) * domains)

    @property
    def mean(self) -> np.ndarray:
        """What the method returns: the mean over the updates so far, the present weights before the first."""
        return np.array(self.total) / self.updates if self.updates else np.array(self.current)

    def updated(self, excess: Sequence[float], *, rate: float = 1.0, smoothing: float = 1e-3) -> DomainWeights:
        """After one step of exponentiated gradient ascent on the excess losses, in nats a token.

        Each weight is multiplied by exp(rate * excess), all are scaled to sum to 1, and mixed with `smoothing` of the
        uniform distribution, below which none can fall. The paper has rate 1 and smoothing 1e-3.
        Raises ValueError for another number of losses or one that is no number, and for settings out of range.
        """
        losses = np.asarray(excess, np.float64)
        if losses.shape != (len(self.current),) or not np.isfinite(losses).all():
            raise ValueError(f"expected an excess loss for each of {len(self.current)} domains, got {losses.tolist()}")
        if not rate > 0 or not 0 <= smoothing < 1:
            raise ValueError(f"rate must be above 0 and smoothing in [0, 1), got {rate} and {smoothing}")
        scaled = np.array(self.current) * np.exp(rate * (losses - losses.max()))
        current = (1 - smoothing) * scaled / scaled.sum() + smoothing / len(losses)
        return DomainWeights(
            tuple(current.tolist()), tuple((np.array(self.total) + current).tolist()), self.updates + 1
        )


def excess_losses(
    proxy: np.ndarray, reference: np.ndarray, domain: np.ndarray, counted: np.ndarray, domains: int
) -> np.ndarray:
    """How far the proxy's loss is above the reference's, mean over the tokens of each domain, float64 [domains].

    proxy, reference: nats of each token; domain: whose it is; counted: whether it is a target; all of one shape. A
    token that the proxy predicts better counts 0, as a domain that cannot be learned any better should. A domain
    without tokens has 0.
    """
    above = np.maximum(np.asarray(proxy, np.float64) - reference, 0) * counted
    sums = np.bincount(np.ravel(domain), np.ravel(above), domains)
    tokens = np.bincount(np.ravel(domain), np.ravel(counted), domains)
    return sums / np.maximum(tokens, 1)
