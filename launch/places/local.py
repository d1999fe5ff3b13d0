"""This machine, in one process or several.

Several processes find each other on the loopback interface; each sees all devices of the machine unless told otherwise
(--env CUDA_VISIBLE_DEVICES=..., or fake ones: --env XLA_FLAGS=--xla_force_host_platform_device_count=4).
When one process fails the others are stopped, and the exit status is that of the first to fail.
"""

from __future__ import annotations

import argparse

from launch.request import COORDINATOR, PORT, PROCESS, PROCESSES, Request, positive
from launch.script import command, quote, script
from launch.training import REPOSITORY

HOST = REPOSITORY / "launch" / "host.sh"

WAIT = r"""
pids=()
stop_all() {
  for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2> /dev/null || true; done
}
trap stop_all TERM INT HUP
""".strip()

# A second TERM makes host.sh kill.
COLLECT = r"""
status=0 patience=0
while :; do
  running=0
  for i in "${!pids[@]}"; do
    if kill -0 "${pids[i]}" 2> /dev/null; then
      running=1
    else
      one=0
      wait "${pids[i]}" || one=$?
      unset "pids[i]"
      if [[ $one != 0 && $status == 0 ]]; then
        status=$one patience=$((SECONDS + 120))
        echo "process $i ended with status $one: stopping the others" >&2
        stop_all
      fi
    fi
  done
  [[ $running == 1 ]] || break
  if [[ $patience != 0 && $SECONDS -ge $patience ]]; then
    echo "the others did not stop within two minutes: killing them" >&2
    stop_all
    patience=0
  fi
  sleep 0.2 || true
done
exit "$status"
""".strip()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="how many; 1 by default")
    parser.add_argument("--port", type=positive, default=PORT, help=f"of the first process; {PORT} by default")


def start(request: Request) -> str:
    """host.sh once, in this process's place; or several times side by side."""
    processes, port = request.options.processes, request.options.port
    if port > 65535:
        raise ValueError(f"--port {port}: a port is at most 65535")
    enter = command("cd", request.directory)
    if processes == 1:
        return script(request.title, enter, "exec " + command(*request.host_command(HOST, "run", request.logs)))
    machine = "machine=$(uname -n)"
    starts = []
    for process in range(processes):
        variables = {COORDINATOR: f"127.0.0.1:{port}", PROCESSES: str(processes), PROCESS: str(process)}
        words = request.host_command(HOST, "run", request.logs, **variables)
        # The name of the host is the one word that is known only when the script runs.
        starts.append(f'JAXLLM_HOST="$machine-{process}" {command(*words)} &\npids+=("$!")')
    return script(request.title, enter, machine, WAIT, *starts, COLLECT)


def logs(request: Request) -> str:
    """Show the logs, and what is added to them, until Ctrl-C."""
    return script(request.title, f"exec tail --lines=+1 --follow=name {quote(str(request.folder))}/*.log")


VERBS = {"start": start, "logs": logs}
TRAINING_VERBS = ("start",)
