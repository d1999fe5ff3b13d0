"""A Cloud TPU VM, from the queue or at once: created where there is none of that name, else used again.

Every host gets the commit that is checked out, installs it with pinned requirements and trains detached, so that a lost
connection costs nothing: the same command, or `logs`, looks on again. A preempted TPU is had anew with --restarts, and
the run goes on from its last checkpoint. The TPU is kept, and paid for, until `delete`. JAX finds the hosts by itself.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from launch.request import Request, add_restarts, add_spot, positive
from launch.script import BY_HOST, command, indented, needs, one_line, quote, script
from launch.source import archive, described, head
from launch.tpus import Slice, parse_slice
from launch.training import Training, check_in_source, check_kept, check_shared

GCLOUD = needs("gcloud", "https://cloud.google.com/sdk/docs/install")
# Both interfaces' words for a TPU that is there, and for one that is gone.
READY, LOST = "ACTIVE | READY", "SUSPENDING | SUSPENDED | FAILED | PREEMPTED | TERMINATED | STOPPED"

STATE = r"""
# Of the TPU: a word of Cloud TPU's, or ABSENT.
state() {
  local status=0
  @DESCRIBE@ 2> "$logs/gcloud.err" || status=$?
  if [[ $status != 0 ]]; then
    if grep -qE 'NOT_FOUND|not found' "$logs/gcloud.err"; then
      echo ABSENT
    else
      cat "$logs/gcloud.err" >&2
      return "$status"
    fi
  fi
}
""".strip()

OBTAIN = r"""
# Returns when the TPU is there. One that was lost is replaced as long as restarts are left.
obtain() {
  local now before=
  while :; do
    now=$(state)
    [[ $now == "$before" ]] || echo "$(date +%T) TPU $job: $now" >&2
    before=$now
    case $now in
      ABSENT) create ;;
      @READY@) return ;;
      @LOST@)
        if ((restarts < 1)); then
          echo "error: the TPU $job is $now: --restarts N would have it anew, launch/run tpu-vm delete gives it up" >&2
          exit 1
        fi
        restarts=$((restarts - 1))
        delete
        ;;
      *) sleep 30 ;;
    esac
  done
}

# After a broken connection or a SIGTERM: is the TPU being taken away? That takes minutes to be told.
is_lost() {
  local now
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    now=$(state) || now=unknown
    case $now in
      @READY@ | unknown) sleep 30 ;;
      ABSENT | DELETING)
        echo "error: the TPU $job was deleted" >&2
        exit 1
        ;;
      *) return 0 ;;
    esac
  done
  return 1
}
"""
OBTAIN = OBTAIN.strip().replace("@READY@", READY).replace("@LOST@", LOST)

TRAIN = r"""
send_source
while :; do
  obtain
  copy
  prepare
  while :; do
    status=0
    follow || status=$?
    [[ $status != 0 ]] || exit 0
    case $status in
      143 | 255)
        if is_lost; then continue 2; fi
        [[ $status == 255 ]] || exit "$status"
        echo "the connection to $job was lost: looking on" >&2
        ;;
      *) exit "$status" ;;
    esac
  done
done
""".strip()


@dataclass(frozen=True)
class Machine:
    """How gcloud speaks of the TPU: as a queued resource, or as a TPU VM."""

    job: str
    zone: str
    project: str | None
    at_once: bool
    internal: bool

    @property
    def where(self) -> tuple[str, ...]:
        return (f"--zone={self.zone}", *((f"--project={self.project}",) if self.project else ()))

    @property
    def all_hosts(self) -> tuple[str, ...]:
        # In batches, which is the default, the second would only begin when the first has ended its training.
        several = ("--worker=all",) if self.at_once else ("--node=all", "--worker=all", "--batch-size=all")
        return (*several, *self.where, *(("--internal-ip",) if self.internal else ()))

    def gcloud(self, verb: str, *words: str) -> str:
        return command("gcloud", "compute", "tpus", "tpu-vm" if self.at_once else "queued-resources", verb, *words)

    def state(self) -> str:
        field = "state" if self.at_once else "state.state"
        return STATE.replace("@DESCRIBE@", self.gcloud("describe", self.job, *self.where, f"--format=value({field})"))

    def delete(self) -> str:
        force = () if self.at_once else ("--force",)
        return self.gcloud("delete", self.job, *self.where, *force, "--quiet")

    def on_hosts(self, remote: str) -> str:
        return self.gcloud("ssh", self.job, *self.all_hosts, f"--command={remote}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tpu", metavar="KIND:TOPOLOGY", help="such as v5p:4x4x4 or v6e:16x16; needed to start")
    parser.add_argument("--zone", required=True, help="such as us-east5-a")
    parser.add_argument("--project", help="the Google Cloud project; gcloud's own by default")
    parser.add_argument("--slices", type=positive, default=1, metavar="N", help="that many TPUs, joined by the network")
    parser.add_argument("--at-once", action="store_true", help="a TPU VM now or not at all, not a place in the queue")
    add_spot(parser, reserved="flag")
    add_restarts(parser, "when the TPU was taken away")
    parser.add_argument("--runtime", metavar="VERSION", help="Cloud TPU software; that for JAX by default")
    parser.add_argument("--create-flag", metavar="FLAG", action="append", default=[], help="for gcloud's create")
    parser.add_argument("--internal-ip", action="store_true", help="reach the hosts by their internal addresses")
    parser.add_argument("--dirty", action="store_true", help="send the working tree as it is")


def start(request: Request) -> str:
    """Obtain, copy, install, train, follow; again when the TPU was lost."""
    options, training, job = request.options, request.training, request.job
    tpu = _tpu(request)
    commit = head(options.dirty)
    check_in_source(training)
    _check_run_directory(training, tpu, request)
    machine, source = _machine(request), request.folder / "source.tar.gz"
    functions = (
        _function("create", _create(machine, tpu, request)),
        _function("delete", machine.delete()),
        _function("send_source", archive(commit, options.dirty, source)),
        _function("copy", machine.gcloud("scp", str(source), f"{job}:jaxllm-{job}.tar.gz", *machine.all_hosts)),
        _function("prepare", machine.on_hosts(_prepare(request))),
        _function("follow", f"{machine.on_hosts(_host(job, 'follow'))} | by_host"),
    )
    comment = f"# {options.slices} x {tpu}, {tpu.hosts} hosts each; source: {described(commit, options.dirty)}"
    variables = (*_variables(request), f"restarts={options.restarts}")
    return script(request.title, comment, *variables, GCLOUD, *functions, BY_HOST, machine.state(), OBTAIN, TRAIN)


def status(request: Request) -> str:
    """What Cloud TPU says, and what each host does."""
    machine = _machine(request)
    parts = (machine.gcloud("describe", request.job, *machine.where), machine.on_hosts(_host(request.job, "status")))
    return script(request.title, GCLOUD, *parts)


def logs(request: Request) -> str:
    """Follow the training on all hosts; the exit status is its own."""
    follow = f"{_machine(request).on_hosts(_host(request.job, 'follow'))} | by_host"
    return script(request.title, _variables(request)[1], GCLOUD, BY_HOST, follow)


def stop(request: Request) -> str:
    """Ask the training on all hosts to save and stop; the TPU is kept."""
    return script(request.title, GCLOUD, _machine(request).on_hosts(_host(request.job, "stop")))


def delete(request: Request) -> str:
    """Give the TPU back, whatever it does."""
    return script(request.title, GCLOUD, _machine(request).delete())


def _tpu(request: Request) -> Slice:
    options = request.options
    if not options.tpu:
        raise ValueError("which TPU? --tpu KIND:TOPOLOGY, such as --tpu v5p:4x4x4")
    tpu = parse_slice(options.tpu)
    if tpu.generation.runtime is None:
        raise ValueError(f"{tpu.generation.name} is only offered by GKE: launch/run gke --tpu {tpu} ...")
    if tpu != tpu.usual and tpu.generation.name != "v4":
        raise ValueError(
            f"Cloud TPU gives {tpu.accelerator_type} the topology {tpu.usual.topology}; {tpu.topology} is had on GKE: "
            f"--tpu {tpu.usual}, or launch/run gke --tpu {tpu} ..."
        )
    if options.at_once and options.slices > 1:
        raise ValueError("--at-once gives one TPU VM; several slices come from the queue: leave out --at-once")
    return tpu


def _check_run_directory(training: Training, tpu: Slice, request: Request) -> None:
    hosts = tpu.hosts * request.options.slices
    check_shared(training, hosts, f"{request.options.slices} x {tpu}" if request.options.slices > 1 else f"{tpu}")
    if request.options.restarts:
        check_kept(training, "--restarts", "a new TPU would not have it")
    if request.options.spot:
        check_kept(training, "--spot", "is lost when the TPU is taken away")


def _create(machine: Machine, tpu: Slice, request: Request) -> str:
    options = request.options
    runtime = options.runtime or tpu.generation.runtime
    if tpu == tpu.usual:
        kind = (f"--accelerator-type={tpu.accelerator_type}",)
    else:
        kind = (f"--type={tpu.generation.name}", f"--topology={tpu.topology}")
    if machine.at_once:
        nodes, version = (), f"--version={runtime}"
    elif options.slices == 1:
        nodes, version = (f"--node-id={request.job}",), f"--runtime-version={runtime}"
    else:
        nodes = (f"--node-count={options.slices}", f"--node-prefix={request.job}")
        version = f"--runtime-version={runtime}"
    tier = ("--spot",) if options.spot else ("--reserved",) if options.reserved else ()
    return machine.gcloud("create", request.job, *machine.where, *kind, version, *nodes, *tier, *options.create_flag)


def _prepare(request: Request) -> str:
    """What every host does before it trains; harmless where the job runs already, as gcloud may say it twice."""
    job = request.job
    folder = f"jaxllm/{job}"
    begin = one_line(request.host_command("launch/host.sh", "start", "logs"))
    steps = (
        f"mkdir -p {folder}",
        # Of another commit; what it ran, logged and installed is kept.
        f"rm -rf {folder}/jaxllm {folder}/experiments {folder}/launch",
        f"tar -xzf jaxllm-{job}.tar.gz -C {folder}",
        f"cd {folder}",
        "launch/host.sh install tpu",
        begin,
    )
    return f"if ! {_host(job, 'status')} 2> /dev/null; then {' && '.join(steps)}; fi"


def _host(job: str, verb: str) -> str:
    return f"jaxllm/{job}/launch/host.sh {verb} {job} jaxllm/{job}/logs"


def _machine(request: Request) -> Machine:
    options = request.options
    return Machine(request.job, options.zone, options.project, options.at_once, options.internal_ip)


def _variables(request: Request) -> tuple[str, ...]:
    return (f"job={request.job}", f"logs={quote(str(request.folder))}")


def _function(name: str, body: str) -> str:
    return f"{name}() {{\n{indented(body)}\n}}"


VERBS = {"start": start, "status": status, "logs": logs, "stop": stop, "delete": delete}
TRAINING_VERBS = ("start",)
