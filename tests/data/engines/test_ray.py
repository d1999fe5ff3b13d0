"""A recipe on a Ray cluster of several nodes, each its own processes, while a worker and a node are killed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jaxllm.data.engines import make_engine
from jaxllm.data.engines.local import Local
from jaxllm.data.preparation import prepare
from jaxllm.data.stages import judged
from tests.data.preparation.small import Deadly, rows, small_recipe, tree, write_texts

pytestmark = pytest.mark.long
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Loses:
    name: str = "loses"

    def __call__(self, batch):
        outcome = judged(batch, self.name, [None] * len(batch))
        return replace(outcome, kept=outcome.kept.slice(1))


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="the extra ray")
    from ray.cluster_utils import Cluster

    # Workers are started by the nodes' own processes, and must find these modules.
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "in"
    write_texts(folder, files=9)
    return folder


def compared(out, texts, tmp_path, *extra):
    """Both trees, without what says that one of the recipes had stages that kill."""
    prepare(small_recipe(texts, *extra), tmp_path / "local", Local())
    return tree(out), tree(tmp_path / "local")


def test_a_worker_that_is_killed_loses_and_doubles_nothing(cluster, texts, tmp_path):
    killers = [Deadly(f"shard {n} begins here", str(tmp_path / "marks"), name=f"deadly {n}") for n in (2, 5)]
    recipe = small_recipe(texts, *killers)
    engine = make_engine("ray")
    prepare(recipe, tmp_path / "ray", engine)
    assert len(list((tmp_path / "marks").iterdir())) == 2, "no worker was killed"
    mine, theirs = compared(tmp_path / "ray", texts, tmp_path, *killers)
    assert mine == theirs
    ids = [row["id"] for row in rows(tmp_path / "ray")]
    # In nine files, fifteen lines each, one of which is broken.
    assert len(ids) == len(set(ids)) == 9 * 15 - 1


def test_a_node_that_is_lost_loses_and_doubles_nothing(cluster, texts, tmp_path):
    recipe = small_recipe(texts)
    lost = list(cluster.worker_nodes)[0]
    seen = []

    def watch(phase, done, total, record):
        seen.append(phase)
        if len(seen) == 4:
            cluster.remove_node(lost, allow_graceful=False)

    prepare(recipe, tmp_path / "ray", make_engine("ray"), watch)
    assert len(seen) > 4 and lost not in cluster.worker_nodes
    mine, theirs = compared(tmp_path / "ray", texts, tmp_path)
    assert mine == theirs


def test_what_a_task_raises_reaches_the_caller(cluster, texts, tmp_path):
    (tmp_path / "in").mkdir()
    recipe = small_recipe(tmp_path / "in", sources=small_recipe(texts).sources, stages=(Loses(),))
    with pytest.raises(ValueError, match="stage loses: 15 documents went in, 14 came out"):
        prepare(recipe, tmp_path / "out", make_engine("ray"))
