"""Compare all pipeline schedules: idle time, bubble beside the published one, memory; and draw their timelines.

python experiments/schedules.py --ranks 8 --microbatches 20 --picture schedules.png
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from jaxllm.parallel.schedules import SCHEDULES, build_schedule
from jaxllm.plan.schedule_formulas import PUBLISHED
from jaxllm.plan.schedule_simulation import Costs, Simulation, simulate

HEADINGS = ("schedule", "stages", "time", "idle", "overhead", "bubble", "formula", "activations", "parameters")
ROW = "{:<12} {:>6} {:>9} {:>7} {:>8} {:>16} {:>9} {:>11} {:>10}"


def main() -> None:
    options = parse_arguments()
    per_rank = Costs(
        options.forward, options.input_gradient, options.weight_gradient, options.overlapped, options.transfer
    )
    print(f"{options.ranks} ranks, {options.microbatches} microbatches; {describe_costs(per_rank)}\n")
    print(ROW.format(*HEADINGS))
    drawn, refused = [], []
    for name in options.schedules:
        try:
            schedule = build_schedule(name, options.ranks, options.microbatches, options.chunks)
        except ValueError as error:
            refused.append(f"{name}: {error}")
            continue
        run = simulate(schedule, per_rank.for_stage(schedule), kept_for_weights=options.kept_for_weights)
        print(row(name, run, per_rank, options.chunks))
        drawn.append(run)
    print(LEGEND)
    print("".join(f"\nLeft out: {reason}" for reason in refused))
    if options.picture and drawn:
        from jaxllm.plan.schedule_picture import draw_schedules

        print(draw_schedules(drawn, options.picture))


LEGEND = """
idle: share of all ranks' time; overhead: idle over busy time. bubble: idle time of the rank that idles most; in
brackets only between its own first start and last end. formula: the published bubble, for free communication.
activations: microbatches held at most by a rank, each as large as those of a P-th of the model; parameters: copies of a
P-th of the model."""


def row(name: str, run: Simulation, per_rank: Costs, chunks: int) -> str:
    """One line of the table."""
    published = PUBLISHED[name]
    formula = published.bubble(run.schedule.ranks, per_rank, chunks)
    bubble = f"{float(run.idle):.5g} ({float(run.bubble):.5g})"
    return ROW.format(
        name,
        run.schedule.stages,
        f"{float(run.makespan):.6g}",
        f"{run.idle_share:.1%}",
        f"{run.overhead:.1%}",
        bubble,
        f"({float(formula):.5g})" if published.measure == "bubble" else f"{float(formula):.5g} ",
        f"{float(run.peak_activations):g}",
        f"{float(max(use.parameters for use in run.ranks)):g}",
    )


def describe_costs(costs: Costs) -> str:
    return (
        f"a P-th of the model takes F {float(costs.forward):g}, I {float(costs.input_gradient):g}, "
        f"W {float(costs.weight_gradient):g}, F&B {float(costs.pair):g}; a message {float(costs.transfer):g}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8, help="[%(default)s]")
    parser.add_argument("--microbatches", type=int, default=20, help="of the whole step [%(default)s]")
    parser.add_argument("--chunks", type=int, default=2, help="stages a rank in interleaved 1F1B [%(default)s]")
    for name, what in [
        ("forward", "a forward"),
        ("input-gradient", "a backward without the gradient of weights"),
        ("weight-gradient", "the gradient of weights"),
    ]:
        parser.add_argument(f"--{name}", type=Fraction, default=Fraction(1), help=f"time of {what} [%(default)s]")
    parser.add_argument("--overlapped", type=Fraction, help="time of a forward and a backward in one [their sum]")
    parser.add_argument("--transfer", type=Fraction, default=Fraction(0), help="time of a message [%(default)s]")
    parser.add_argument(
        "--kept-for-weights",
        type=Fraction,
        default=Fraction(1),
        help="share of activations that stays until the gradient of weights [%(default)s]",
    )
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES), metavar="NAME")
    parser.add_argument("--picture", type=Path, help="draw the timelines into this .png, .svg or .pdf")
    return parser.parse_args()


if __name__ == "__main__":
    main()
