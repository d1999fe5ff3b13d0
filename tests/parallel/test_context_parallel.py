"""A model whose rows lie on several devices equals the model on one, and sends what the closed forms say."""

import numpy as np
import pytest

from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.text_order import zigzag
from jaxllm.plan.communication import step_traffic
from jaxllm.training.experiment import Experiment, TrainingConfig
from tests.parallel.tiny_models import DENSE, ROWS, assert_equal_to_one_device


def sent_by_attention(run, kind):
    """Bytes each device gives to collectives of a kind, of positions and segments apart, which are integers."""
    return sum(
        c.trips * 4 * np.prod(shape)
        for c in run.collectives
        if c.kind == kind
        for dtype, shape in c.arrays
        if dtype == "f32"
    )


def expected(mesh, operation):
    """What the closed forms say about keys, values and the like, as sizes of arrays rather than bytes on the wire."""
    experiment = Experiment(model=DENSE, mesh=mesh, training=TrainingConfig(batch_size=ROWS))
    return sum(
        t.times * t.size for t in step_traffic(experiment) if t.axes == ("context",) and t.operation == operation
    )


@pytest.mark.long
def test_the_ring_passes_keys_around_and_their_gradients_home():
    mesh = MeshConfig(data=2, context=4)
    run = assert_equal_to_one_device(DENSE, mesh)
    assert sent_by_attention(run, "collective-permute") == expected(mesh, "collective-permute") > 0
    # Three turns of a loop forward, three and a last step home backward, in the loop over the two layers.
    turns = sorted(c.trips for c in run.collectives if c.kind == "collective-permute" and c.arrays[0][0] == "f32")
    assert turns == [2, 2, 6, 6, 6, 6, 6, 6]


def test_ulysses_changes_from_text_to_heads_and_back():
    mesh = MeshConfig(data=2, context=4, context_form="ulysses")
    run = assert_equal_to_one_device(DENSE, mesh)
    # Queries, keys, values and results; the same backward; in each of the two layers.
    found = [c for c in run.collectives if c.kind == "all-to-all" and c.over(run.layout.mesh) == ("context",)]
    assert sum(c.trips for c in found) == 2 * 8
    assert sent_by_attention(run, "all-to-all") == expected(mesh, "all-to-all") > 0


def test_gathered_keys_and_scattered_gradients():
    mesh = MeshConfig(data=2, context=4, context_form="all_gather")
    run = assert_equal_to_one_device(DENSE, mesh)
    along = [c for c in run.collectives if c.depth and c.over(run.layout.mesh) == ("context",)]
    gathered = sum(c.bytes * c.trips for c in along if c.kind == "all-gather" and c.arrays[0][0] == "f32")
    scattered = sum(c.bytes * c.trips for c in along if c.kind == "reduce-scatter")
    assert gathered == expected(mesh, "all-gather") > 0
    assert scattered == expected(mesh, "reduce-scatter") > 0


def test_each_device_has_an_early_and_a_late_piece():
    order = zigzag(16, 4).reshape(4, 4)
    assert order.tolist() == [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]
    # Under a causal mask every device then has the same number of scores to compute.
    assert len(set((order + 1).sum(1))) == 1
    with pytest.raises(ValueError, match="a row of 20 tokens cannot be cut into 8 pieces"):
        zigzag(20, 4)
