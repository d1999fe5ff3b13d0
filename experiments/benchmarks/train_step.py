"""Training speed on a CPU against an equal model in PyTorch.

    python experiments/benchmarks/train_step.py [--precision float32 bfloat16] [--devices 1 2] [--rounds 5] [--steps 4]

The model is nanoGPT's "baby" configuration: 6 layers, 6 heads, width 384, context 256, 65 characters, no biases, tied
head; batch 8, AdamW, gradients clipped to norm 1. Each contestant lives in a process of its own. They take turns on the
same cores, `--steps` steps at a time while the others sleep, so a noisy machine is noisy for all of them; the first
step of a turn (cold caches) is not counted. Printed are medians of `--rounds` turns and their ratio to eager PyTorch of
the same precision.

The PyTorch side needs `pip install -r requirements/parity.txt`; `--no-torch` leaves it out. torch.compile needs a C++
compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
VOCAB, CONTEXT, HEADS, WIDTH, BATCH = 65, 256, 6, 384, 8
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0


@dataclass(frozen=True)
class Contestant:
    """One way to train the model; what a child process gets to know."""

    framework: str
    precision: str = "float32"
    compiled: bool = False  # PyTorch only
    devices: int = 1  # JAX only: CPU devices that the batch is split over
    axis: str = "data"  # JAX only: the mesh axis they lie on
    remat: str = "none"  # JAX only
    layers: int = 6
    batch: int = BATCH
    threads: int = 0

    @property
    def name(self) -> str:
        if self.framework == "torch":
            return f"PyTorch {'compiled' if self.compiled else 'eager'}, {self.precision}"
        split = f"{self.axis}={self.devices}"
        return f"jaxllm {split}, remat {self.remat}, {self.precision}"


@dataclass
class Measured:
    """What a contestant reports when it is ready, and the seconds of its steps."""

    first_step: float  # seconds from the start of the process to the end of the first step
    compile_seconds: float
    step_bytes: int  # JAX: what the compiled step holds at most, per device; 0 where not known
    seconds: list[float] = field(default_factory=list)
    loss: float = float("nan")
    resident_bytes: int = 0  # highest resident set of the process


class Child:
    """A contestant in a process of its own. It computes only when told to."""

    def __init__(self, contestant: Contestant):
        self.contestant = contestant
        command = [sys.executable, __file__, "--contestant", json.dumps(asdict(contestant))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", "")))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.measured = Measured(**self._read())

    def turn(self, steps: int) -> None:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._read()
        self.measured.seconds += answer["seconds"][1:] or answer["seconds"]
        self.measured.loss, self.measured.resident_bytes = answer["loss"], answer["resident_bytes"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contestant.name}: the process ended with status {self.process.wait()}; see above")
        return json.loads(line)


def contest(contestants: list[Contestant], rounds: int, steps: int) -> list[Measured]:
    """Start all, let them take turns, stop them."""
    children: list[Child] = []
    try:
        for contestant in contestants:
            print(f"starting {contestant.name}", file=sys.stderr)
            children.append(Child(contestant))
        for _ in range(rounds):
            for child in children:
                child.turn(steps)
    finally:
        for child in children:
            child.close()
    return [child.measured for child in children]


def serve(contestant: Contestant) -> None:
    """The child's side: build, take one step, then as many as are asked for."""
    start = time.time()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not look like an answer
    build = torch_step if contestant.framework == "torch" else jaxllm_step
    step, facts = build(contestant)
    step()
    first_step = time.time() - start
    step()
    _answer(answers, {"first_step": first_step, **facts})
    for line in sys.stdin:
        seconds, loss = [], float("nan")
        for _ in range(int(line)):
            begin = time.perf_counter()
            loss = step()
            seconds.append(time.perf_counter() - begin)
        _answer(answers, {"seconds": seconds, "loss": loss, "resident_bytes": _resident_bytes()})


def _answer(stream, facts: dict[str, Any]) -> None:
    stream.write(json.dumps(facts) + "\n")
    stream.flush()


def _resident_bytes() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _random_ids(batch: int):
    import numpy as np

    return np.random.default_rng(0).integers(0, VOCAB, (batch, CONTEXT + 1)).astype(np.int32)


# The two models


def jaxllm_step(contestant: Contestant) -> tuple[Callable[[], float], dict[str, Any]]:
    """A function that trains one step and returns the loss, and what its compilation took."""
    import jax

    jax.config.update("jax_num_cpu_devices", contestant.devices)
    import numpy as np

    from jaxllm.models import ModelConfig
    from jaxllm.models.config import AttentionConfig, MLPConfig, NormConfig
    from jaxllm.models.decoder import decoder_spec
    from jaxllm.objectives.next_token import next_token
    from jaxllm.parallel.mesh import MeshConfig, make_mesh
    from jaxllm.parallel.sharding import Layout
    from jaxllm.training.experiment import TrainingConfig
    from jaxllm.training.optimizers import OptimizerConfig, make_optimizer, make_schedule
    from jaxllm.training.state import abstract_state, make_state
    from jaxllm.training.step import jit_step, make_step

    model = ModelConfig(
        vocab_size=VOCAB,
        context_length=CONTEXT,
        d_model=WIDTH,
        num_layers=contestant.layers,
        attention=AttentionConfig(num_heads=HEADS),
        mlp=MLPConfig(d_ff=4 * WIDTH, activation="gelu"),
        norm=NormConfig(kind="layernorm"),
        positions="learned",
        compute_dtype=contestant.precision,
    )
    rule = OptimizerConfig(
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup_steps=0,
        b1=BETAS[0],
        b2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
    )
    training = TrainingConfig(batch_size=contestant.batch, grad_clip=CLIP, remat=contestant.remat)
    spec = decoder_spec(model)
    optimizer, schedule = make_optimizer(rule, spec, training.steps), make_schedule(rule, training.steps)
    layout = Layout(make_mesh(replace(MeshConfig(data=1), **{contestant.axis: contestant.devices})))
    target, shardings = abstract_state(spec, optimizer, layout)
    ids = _random_ids(contestant.batch)
    batch = {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "weights": np.ones((contestant.batch, CONTEXT), np.float32),
        "segment_ids": np.ones((contestant.batch, CONTEXT), np.int32),
        "positions": np.tile(np.arange(CONTEXT, dtype=np.int32), (contestant.batch, 1)),
    }
    batch = jax.device_put(batch, layout.sharding("batch", "length"))
    step = make_step(next_token(model, remat=contestant.remat), optimizer, schedule, training)
    begin = time.perf_counter()
    compiled = jit_step(step, layout, shardings).lower(target, batch).compile()
    compile_seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    state = make_state(spec, optimizer, shardings, seed=0, ema=False)

    def take() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(metrics["loss"])

    return take, {"compile_seconds": compile_seconds, "step_bytes": held - memory.alias_size_in_bytes}


def torch_step(contestant: Contestant) -> tuple[Callable[[], float], dict[str, Any]]:
    """The same in PyTorch: scaled_dot_product_attention, fused projections, fused AdamW, autocast for bfloat16."""
    import torch

    torch.manual_seed(0)
    if contestant.threads:
        torch.set_num_threads(contestant.threads)
    model = _torch_model(contestant.layers)
    run = torch.compile(model) if contestant.compiled else model
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    ids = torch.from_numpy(_random_ids(contestant.batch)).long()
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def take() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=contestant.precision == "bfloat16"):
            loss = run(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return take, {"compile_seconds": float("nan"), "step_bytes": 0}


def _torch_model(layers: int):
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
            self.inward, self.outward = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x):
            rows, length, _ = x.shape
            heads = self.inward(self.attention_norm(x)).view(rows, length, 3, HEADS, -1)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.outward(mixed.transpose(1, 2).reshape(rows, length, WIDTH))
            return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.norm = nn.LayerNorm(WIDTH, bias=False)
            for parameter in self.parameters():
                if parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
            for layer in self.layers:
                x = layer(x)
            logits = functional.linear(self.norm(x), self.embedding.weight)
            return functional.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))

    return Model()


# The tables


def speed_table(contestants: list[Contestant], measured: list[Measured]) -> str:
    eager = {
        c.precision: statistics.median(m.seconds)
        for c, m in zip(contestants, measured, strict=True)
        if c.framework == "torch" and not c.compiled
    }
    lines = [
        f"{'':44} {'ms/step':>8} {'tokens/s':>9} {'speed':>7} {'first step':>11} {'compile':>8} "
        f"{'step MiB':>9} {'peak MiB':>9}"
    ]
    for contestant, m in zip(contestants, measured, strict=True):
        median = statistics.median(m.seconds)
        reference = eager.get(contestant.precision)
        speed = f"{reference / median:.2f} x" if reference else "-"
        step_memory = f"{m.step_bytes / 2**20:,.0f}" if m.step_bytes else "-"
        lines.append(
            f"{contestant.name:44} {median * 1e3:8.0f} {contestant.batch * CONTEXT / median:9,.0f} {speed:>7} "
            f"{m.first_step:9.1f} s {_seconds(m.compile_seconds):>8} {step_memory:>9} {m.resident_bytes / 2**20:9,.0f}"
        )
    lines.append(
        "speed: against eager PyTorch of the same precision, ratio of medians. step MiB: memory of the compiled"
    )
    lines.append("step per device, state included. peak MiB: resident set of the whole process.")
    return "\n".join(lines)


def depth_table(depths: list[int], precision: str, remat: str) -> str:
    """Compile time must not grow with depth: the layers are scanned."""
    lines = [f"{'layers':>8} {'compile':>9} {'first step':>11} {'step MiB':>9}"]
    for depth in depths:
        (m,) = contest([Contestant("jax", precision, remat=remat, layers=depth, batch=1)], rounds=1, steps=1)
        lines.append(f"{depth:8} {_seconds(m.compile_seconds):>9} {m.first_step:9.1f} s {m.step_bytes / 2**20:9,.0f}")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return "-" if value != value else f"{value:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2], help="CPU devices, a jaxllm contestant each")
    parser.add_argument("--axis", default="data", choices=["data", "fsdp"], help="mesh axis of more than one device")
    parser.add_argument("--remat", default="dots", choices=["none", "dots", "full"])
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's threads; 0 leaves its own choice")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn; the first is not counted")
    parser.add_argument("--depths", nargs="*", type=int, default=[4, 48], help="layers to time compilation at; or none")
    parser.add_argument("--no-torch", action="store_true", help="measure jaxllm alone")
    parser.add_argument("--no-compiled", action="store_true", help="leave torch.compile out")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        serve(Contestant(**json.loads(arguments.contestant)))
        return
    if not arguments.no_torch and find_spec("torch") is None:
        parser.error("torch is not installed: pip install -r requirements/parity.txt, or pass --no-torch")

    contestants = []
    for precision in arguments.precision:
        common = {"precision": precision, "batch": arguments.batch}
        if not arguments.no_torch:
            eager = Contestant("torch", threads=arguments.threads, **common)
            contestants += [eager] if arguments.no_compiled else [eager, replace(eager, compiled=True)]
        for devices in arguments.devices:
            contestants.append(Contestant("jax", devices=devices, axis=arguments.axis, remat=arguments.remat, **common))
    print(speed_table(contestants, contest(contestants, arguments.rounds, arguments.steps)))
    if arguments.depths:
        print()
        print(depth_table(arguments.depths, arguments.precision[0], arguments.remat))


if __name__ == "__main__":
    main()
