"""compute steps of a run again, and say where a bit differs"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxllm replay",
        description="Compute steps after a checkpoint twice, compare both with each other, with the losses in the "
        "log, and with the next checkpoint, bit for bit. Nothing is written. Exit status 1: something differs.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory that no process is using")
    parser.add_argument("--from", metavar="STEP", type=int, dest="start", help="of a checkpoint [the newest but one]")
    parser.add_argument("--steps", metavar="N", type=int, help="[up to the next checkpoint]")
    options = parser.parse_args(arguments)

    from jaxllm.cli.progress import reporter
    from jaxllm.pipeline.replay import replay_run

    same = True
    with reporter() as shown:
        for replayed in replay_run(options.run, shown, start=options.start, steps=options.steps):
            same = same and replayed.same
            print(_line(replayed), flush=True)
    if not same:
        print(
            "some bits differ: another machine, mesh or version adds otherwise; the same ones do not", file=sys.stderr
        )
    return 0 if same else 1


def _line(replayed) -> str:
    if math.isnan(replayed.loss):
        differs = f"differs: {', '.join(replayed.differing)}" if replayed.differing else "the same bits"
        return f"checkpoint {replayed.step}: {differs}"
    twice = f"; computed twice: {'; '.join(replayed.differing)} differ" if replayed.differing else ""
    logged = "not in the log" if replayed.logged is None else f"logged {replayed.logged!r}"
    verdict = "" if replayed.logged in (None, replayed.loss) else ", which differs"
    return f"step {replayed.step}: loss {replayed.loss!r}, {logged}{verdict}{twice}"
