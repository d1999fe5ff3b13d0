"""Tasks on a Ray cluster, by Ray Data."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxllm.data.engines import Task
from jaxllm.data.engines.shipping import perform, received, shipped

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Ray:
    """A data set of tasks, each a block of its own, mapped to their results.

    Ray Data spreads the blocks over the cluster as nodes come and go, and begins a task again whose worker or node has
    died. All nodes must have jaxllm installed and see the output directory under the same path. A cluster that this
    process is connected to already is used, and stays; one that is started here ends with the process.
    """

    workers: int = 0
    """tasks at a time; 0 means as many as the cluster has cores"""

    address: str = ""
    """of the cluster, as ray.init takes it"""

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        if not tasks:
            return
        ray = self._connected()
        blocks = ray.data.from_items([{"task": shipped(task)} for task in tasks], override_num_blocks=len(tasks))
        results = blocks.map_batches(
            _perform_block,
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=1,
            **({"concurrency": self.workers} if self.workers else {}),
        )
        for row in results.iter_rows():
            yield received(row["answer"])

    def _connected(self) -> Any:
        try:
            import ray
            import ray.data
        except ModuleNotFoundError as error:
            raise ValueError("the engine ray needs Ray, which is not installed: pip install 'jaxllm[ray]'") from error
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(include_dashboard=False, **quiet)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray

    def close(self) -> None:
        """Nothing: a cluster that was started here ends with this process, any other is not for us to end."""


def _perform_block(block: pa.Table) -> pa.Table:
    import pyarrow as pa

    answers = [perform(task) for task in block.column("task").to_pylist()]
    return pa.table({"answer": pa.array(answers, pa.large_binary())})
