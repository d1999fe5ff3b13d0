"""A Slurm cluster: one job, one task a node, each with all GPUs of its node.

Slurm runs this repository and the current folder where they are, so both must lie on a file system that all nodes
share. Before the time limit (and before preemption, where the cluster sends the job's signal then) the training saves;
with --restarts the job then queues again and goes on.
"""

from __future__ import annotations

import argparse
import os

from launch.request import COORDINATOR, PORT, PROCESS, PROCESSES, Request, add_restarts, positive
from launch.script import command, needs, quote, script, write_file
from launch.training import REPOSITORY, check_shared

SLURM = "the Slurm client, on a machine of the cluster: https://slurm.schedmd.com/quickstart_admin.html"
HOST = REPOSITORY / "launch" / "host.sh"
# Seconds that the others get when one task has ended, to save or to say what went wrong.
LINGER = 600
# What says where and for whom a job runs, as sbatch has it.
LIMITS = ("partition", "account", "qos", "constraint", "reservation")

BATCH = r"""
asked=
# scancel sends signals to the tasks alone, not to this script.
# shellcheck disable=SC2329 # the trap invokes it
save_and_stop() {
  asked=1
  scancel --signal=TERM "$SLURM_JOB_ID"
}
trap 'save_and_stop' USR1
@VARIABLES@
# shellcheck disable=SC2016 # each task has its own number
srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=@LINGER@ bash -c '@PROCESS@exec "$0" "$@"' \
  @WORDS@ &
step=$!
while :; do
  status=0
  wait "$step" || status=$?
  kill -0 "$step" 2> /dev/null || break
done
if [[ -n $asked && $status != 0 && ${SLURM_RESTART_COUNT:-0} -lt @RESTARTS@ ]]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
""".strip()

RENDEZVOUS = f"""\
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export {COORDINATOR}="${{nodes%%$'\\n'*}}:@PORT@" {PROCESSES}="$SLURM_JOB_NUM_NODES\""""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=positive, default=1, metavar="N", help="1 by default")
    parser.add_argument("--gpus", type=positive, metavar="N", help="of each node; none by default")
    parser.add_argument("--cpus", type=positive, metavar="N", help="of each node")
    parser.add_argument("--time", metavar="LIMIT", help="such as 3-00:00:00")
    for name in LIMITS:
        parser.add_argument(f"--{name}", metavar="NAME", help="as sbatch has it")
    parser.add_argument("--sbatch-flag", metavar="FLAG", action="append", default=[], help="for sbatch, as it is")
    parser.add_argument("--shared", metavar="DIR", action="append", default=[], help="a folder that all nodes share")
    parser.add_argument("--port", type=positive, default=PORT, help=f"of the first node; {PORT} by default")
    parser.add_argument("--grace", type=positive, default=300, metavar="SECONDS", help="before the limit, to save; 300")
    add_restarts(parser, "at the time limit or after preemption")


def start(request: Request) -> str:
    """Write the batch script beside the logs and submit it."""
    options = request.options
    _check_run_directory(request)
    path = request.folder / "job.sbatch"
    given = {name: getattr(options, name) for name in ("time", *LIMITS)}
    words = [
        *("sbatch", f"--job-name={request.job}", f"--nodes={options.nodes}", "--ntasks-per-node=1"),
        *((f"--gpus-per-node={options.gpus}",) if options.gpus else ()),
        *((f"--cpus-per-task={options.cpus}",) if options.cpus else ()),
        *(f"--{name}={value}" for name, value in given.items() if value),
        f"--chdir={request.directory}",
        f"--output={_pattern(str(request.folder))}/slurm-%j.log",
        "--open-mode=append",
        "--requeue" if options.restarts else "--no-requeue",
        f"--signal=B:USR1@{options.grace}",
        *options.sbatch_flag,
        str(path),
    ]
    return script(request.title, needs("sbatch", SLURM), write_file(path, batch(request)), command(*words))


def batch(request: Request) -> str:
    """The script that Slurm runs on the first node."""
    options = request.options
    several = options.nodes > 1
    words = command(*request.host_command(HOST, "run", request.logs))
    filled = {
        "@VARIABLES@": RENDEZVOUS.replace("@PORT@", str(options.port)) if several else "",
        "@PROCESS@": f'{PROCESS}="$SLURM_PROCID" ' if several else "",
        "@LINGER@": str(LINGER),
        "@RESTARTS@": str(options.restarts),
        "@WORDS@": words,  # last, for it holds what others wrote
    }
    text = BATCH
    for mark, value in filled.items():
        text = text.replace(mark, value)
    return script(request.title, text)


def status(request: Request) -> str:
    """The job in the queue."""
    return script(request.title, needs("squeue", SLURM), command("squeue", "--me", f"--name={request.job}"))


def logs(request: Request) -> str:
    """Show the logs, and what is added to them, until Ctrl-C."""
    return script(request.title, f"exec tail --lines=+1 --follow=name {quote(str(request.folder))}/*.log")


def stop(request: Request) -> str:
    """Ask the training on all nodes to save and stop."""
    words = ("scancel", "--me", f"--name={request.job}", "--signal=TERM")
    return script(request.title, needs("scancel", SLURM), command(*words))


def delete(request: Request) -> str:
    """Take the job out of the queue, or end it."""
    return script(request.title, needs("scancel", SLURM), command("scancel", "--me", f"--name={request.job}"))


def _check_run_directory(request: Request) -> None:
    directory = os.path.abspath(request.directory / request.training.run_directory)
    shared = (str(request.directory), str(REPOSITORY), *map(os.path.abspath, request.options.shared))
    if any(os.path.commonpath((directory, folder)) == folder for folder in shared):
        return
    nodes = request.options.nodes
    check_shared(
        request.training,
        nodes,
        "this job" if nodes > 1 else "",
        advice="keep it on a file system that all nodes share, and say which with --shared DIR, or in an object store",
    )


def _pattern(path: str) -> str:
    """A path in which Slurm replaces nothing."""
    return path.replace("\\", "\\\\").replace("%", "%%")


VERBS = {"start": start, "status": status, "logs": logs, "stop": stop, "delete": delete}
TRAINING_VERBS = ("start",)
