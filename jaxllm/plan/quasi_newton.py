"""Many small minimizations at once: BFGS over a batch, for fits with a handful of numbers each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(x [R, P], rows [R] of the batch that these are) -> (value [R], gradient [R, P])"""

SUFFICIENT = 1e-4  # of the decrease that the gradient promises (Armijo)
HALVINGS = 40


def minimize(
    objective: Objective, start: np.ndarray, *, iterations: int = 1000, tolerance: float = 1e-8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimize from each row of `start` [S, P], float64, on its own.

    Returns (x [S, P], value [S], converged [S]): converged where no element of the gradient is above the tolerance, or
    where no step against it gets lower, which is as far as float64 goes. Values that are not finite are stepped back
    from. Source: Nocedal and Wright 2006, algorithm 6.1, with backtracking in place of the Wolfe conditions, so that an
    update without curvature is left out.
    """
    x = np.array(start, np.float64)
    size, width = x.shape
    value, gradient = objective(x, np.arange(size))
    inverse = _fresh_inverse(gradient)
    fresh = np.ones(size, bool)
    converged = np.zeros(size, bool)
    active = np.isfinite(value)
    for _ in range(iterations):
        done = active & (np.abs(gradient).max(axis=1) < tolerance)
        converged |= done
        active &= ~done
        rows = np.flatnonzero(active)
        if not len(rows):
            break
        direction = -np.einsum("rij,rj->ri", inverse[rows], gradient[rows])
        moved, new_x, new_value, new_gradient = _line_search(objective, rows, x, value, gradient, direction)
        stuck = rows[~moved]
        # Without a step along a direction of its own making, BFGS starts afresh once; then it is at the end.
        converged[stuck[fresh[stuck]]] = True
        active[stuck[fresh[stuck]]] = False
        inverse[stuck] = _fresh_inverse(gradient[stuck])
        fresh[stuck] = True
        gone = rows[moved]
        step, bend = new_x[moved] - x[gone], new_gradient[moved] - gradient[gone]
        _update(inverse, fresh, gone, step, bend)
        x[gone], value[gone], gradient[gone] = new_x[moved], new_value[moved], new_gradient[moved]
    return x, value, converged


def _fresh_inverse(gradient: np.ndarray) -> np.ndarray:
    """The identity, scaled so that no first step is longer than a tenth."""
    length = np.linalg.norm(np.where(np.isfinite(gradient), gradient, 0.0), axis=1)
    return np.eye(gradient.shape[1]) * np.minimum(1.0, 0.1 / np.maximum(length, 1e-300))[:, None, None]


def _line_search(objective, rows, x, value, gradient, direction):
    """(moved [R], x, value, gradient): the first of the halved steps that gets enough lower."""
    slope = np.einsum("ri,ri->r", gradient[rows], direction)
    new_x, new_value, new_gradient = x[rows].copy(), value[rows].copy(), gradient[rows].copy()
    moved = np.zeros(len(rows), bool)
    length = 1.0
    for _ in range(HALVINGS):
        trying = np.flatnonzero(~moved & (slope < 0))
        if not len(trying):
            break
        there = x[rows[trying]] + length * direction[trying]
        with np.errstate(all="ignore"):  # steps too far are tried too
            f, g = objective(there, rows[trying])
        good = (f < value[rows[trying]]) & (f <= value[rows[trying]] + SUFFICIENT * length * slope[trying])
        good &= np.isfinite(g).all(axis=1)
        won = trying[good]
        new_x[won], new_value[won], new_gradient[won] = there[good], f[good], g[good]
        moved[won] = True
        length /= 2
    return moved, new_x, new_value, new_gradient


def _update(inverse: np.ndarray, fresh: np.ndarray, rows: np.ndarray, step: np.ndarray, bend: np.ndarray) -> None:
    """The inverse Hessians of `rows` after a step, in place."""
    curvature = np.einsum("ri,ri->r", step, bend)
    enough = curvature > 1e-12 * np.linalg.norm(step, axis=1) * np.linalg.norm(bend, axis=1)
    rows, step, bend, curvature = rows[enough], step[enough], bend[enough], curvature[enough]
    first = fresh[rows]
    scale = curvature / np.einsum("ri,ri->r", bend, bend)
    inverse[rows[first]] = np.eye(step.shape[1]) * scale[first][:, None, None]
    fresh[rows] = False
    H, rho = inverse[rows], 1 / curvature
    Hy = np.einsum("rij,rj->ri", H, bend)
    yHy = np.einsum("ri,ri->r", bend, Hy)
    sHy = np.einsum("ri,rj->rij", step, Hy)
    ss = np.einsum("ri,rj->rij", step, step)
    weight = rho * (1 + rho * yHy)
    inverse[rows] = H + weight[:, None, None] * ss - rho[:, None, None] * (sHy + sHy.transpose(0, 2, 1))
