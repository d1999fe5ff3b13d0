"""What `jaxllm quickstart` trains on this machine's kind of device, for use with `jaxllm train`."""

import jax

from jaxllm.pipeline.quickstart import quickstart_experiment
from jaxllm.training.experiment import Experiment


def experiment() -> Experiment:
    return quickstart_experiment(jax.default_backend())
