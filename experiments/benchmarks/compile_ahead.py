"""Compile time does not grow with depth, and what two shallow models say about a deep one.

    python experiments/benchmarks/compile_ahead.py llama3-8b --topology v5e-64 --fsdp 16 --tensor 4
    python experiments/benchmarks/compile_ahead.py llama3-405b --topology v5p-4096 --fsdp 256 --tensor 8

Compiles the training step of a published model at several depths, each in a process of its own, and prints seconds by
the clock and by the processor, which other work on the machine disturbs less, and their ratio; then peak memory and
products at the last depth, as compiled and as the line through the first two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def measure(arguments: argparse.Namespace, layers: int) -> dict[str, float]:
    """In this process."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxllm.models.presets import preset
    from jaxllm.parallel.mesh import MeshConfig
    from jaxllm.plan.ahead import compile_for
    from jaxllm.plan.topology import read_topology
    from jaxllm.training.experiment import Experiment, TrainingConfig

    length = {"context_length": arguments.context} if arguments.context else {}
    model = replace(preset(arguments.model), num_layers=layers, compute_dtype="bfloat16", **length)
    experiment = Experiment(
        model=model,
        training=TrainingConfig(batch_size=arguments.fsdp, remat="full"),
        mesh=MeshConfig(data=1, fsdp=arguments.fsdp, tensor=arguments.tensor),
    )
    begin = time.process_time()
    compiled = compile_for(experiment, read_topology(arguments.topology))
    return {
        "cpu": time.process_time() - begin,
        "lower": compiled.lower_seconds,
        "compile": compiled.compile_seconds,
        "peak": compiled.memory.peak,
        "flops": compiled.timing.flops,
        "kernels": compiled.timing.kernels,
    }


def measure_apart(layers: int) -> dict[str, float]:
    """In a process of its own, so that none finds what another has left in a cache."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", str(layers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", "")))}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a published architecture: jaxllm plan --list")
    parser.add_argument("--topology", default="v5e-64")
    parser.add_argument("--fsdp", type=int, default=64)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--context", type=int, default=0, help="tokens of a row; the model's own")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 126], help="depths; the first two make the line")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments, arguments.only)))
        return
    found = {}
    print(
        f"{'layers':>8} {'lower':>8} {'compile':>9} {'processor':>10} {'peak GiB':>9} {'products':>11} {'kernels':>9}"
    )
    for layers in arguments.layers:
        row = found[layers] = measure_apart(layers)
        print(
            f"{layers:8} {row['lower']:6.1f} s {row['compile']:7.1f} s {row['cpu']:8.1f} s "
            f"{row['peak'] / 2**30:9.2f} {row['flops']:11.4g} {row['kernels']:7.3f} s",
            flush=True,
        )
    first, second, *_, last = (*arguments.layers, arguments.layers[-1])
    for name, what in (("compile", "compile time"), ("cpu", "processor time")):
        print(f"{what} at {last} layers: {found[last][name] / found[first][name]:.2f} x that at {first}")
    if last != second:
        for name in ("peak", "flops", "kernels"):
            slope = (found[second][name] - found[first][name]) / (second - first)
            line = found[first][name] + slope * (last - first)
            print(f"{name} at {last} layers, from {first} and {second}: {line / found[last][name]:.4f} x as compiled")


if __name__ == "__main__":
    main()
