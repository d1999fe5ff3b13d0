#!/usr/bin/env bash
# What happens on every host, wherever it stands: install jaxllm, train in the foreground or detached, follow, stop.
#
#   host.sh install cpu|cuda|tpu            this repository into its .venv, with the pinned requirements
#   host.sh run    JOB LOGS -- EXPERIMENT ...   train; output also to LOGS/JOB/HOST.log, unless LOGS is -
#   host.sh start  JOB LOGS -- EXPERIMENT ...   the same, detached; nothing where the job already runs
#   host.sh follow JOB LOGS                 show the log of the last start till it ends; exits as the training did
#   host.sh stop   JOB LOGS                 ask the training to save and stop, and wait for that
#   host.sh status JOB LOGS                 one line; exits 0 while the job runs
#
# HOST is the machine's name, or JAXLLM_HOST where several processes share a machine.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
host=${JAXLLM_HOST:-$(uname -n)}

fail() {
  echo "error: $1" >&2
  exit "${2:-2}"
}

find_jaxllm() {
  if [[ -x $repository/.venv/bin/jaxllm ]]; then
    echo "$repository/.venv/bin/jaxllm"
  else
    command -v jaxllm || fail "jaxllm is not installed on $host; install it: $repository/launch/host.sh install cpu (or cuda, tpu)" 127
  fi
}

# A Python that jaxllm can run on. The machines' own is often older; uv, itself pinned, then brings one.
make_environment() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" > /dev/null &&
      "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      "$candidate" -m venv "$repository/.venv"
      return
    fi
  done
  command -v python3 > /dev/null || fail "there is no python3 on $host; install Python 3.11 or newer" 127
  echo "no Python 3.11 or newer on $host: installing one with uv" >&2
  python3 -m pip install --user --requirement "$repository/requirements/host.txt" ||
    fail "uv could not be installed on $host; install Python 3.11 or newer with its venv module" 127
  python3 -m uv venv --seed --python 3.12 "$repository/.venv"
}

install_jaxllm() {
  local accelerator=${1:-}
  case $accelerator in
    cpu) set -- ;;
    cuda | tpu) set -- --requirement "$repository/requirements/$accelerator.txt" ;;
    *) fail "install for what? host.sh install cpu, cuda or tpu, not '$accelerator'" ;;
  esac
  [[ -x $repository/.venv/bin/python ]] || make_environment
  local pip=("$repository/.venv/bin/python" -m pip --disable-pip-version-check --quiet install)
  "${pip[@]}" --requirement "$repository/requirements/base.txt" --requirement "$repository/requirements/build.txt" "$@"
  "${pip[@]}" --no-deps --no-build-isolation --editable "$repository"
}

# A second TERM means that the first was not heard: a training that waits for a host that is gone can't hear it.
pass_on() {
  heard=yes
  [[ -n $child ]] || exit 143
  if [[ $1 == TERM && $signal == TERM ]]; then
    kill -KILL "$child" 2> /dev/null || true
  else
    signal=$1
    kill -s "$1" "$child" 2> /dev/null || true
  fi
}

# The training saves and exits 0 when it is asked to stop; whoever started this must not take that for the end of the run,
# so the exit status is then that of the signal.
train() {
  local jaxllm log=/dev/null tee_id pipe status heard
  jaxllm=$(find_jaxllm)
  if [[ $logs != - ]]; then
    mkdir -p "$logs/$job"
    log=$logs/$job/$host.log
  fi
  pipe=$(mktemp -d)
  mkfifo "$pipe/output"
  # What writes the log outlives every signal, or the last words of a stopped training would be lost.
  (trap '' INT TERM HUP PIPE && exec tee -a "$log" < "$pipe/output") &
  tee_id=$!
  signal='' child=''
  trap 'pass_on TERM' TERM
  trap 'pass_on INT' INT
  trap 'pass_on HUP' HUP
  # Without its own process group a background process would ignore Ctrl-C.
  set -m
  {
    echo "--- $(date -u +%Y-%m-%dT%H:%M:%SZ) $job on $host: jaxllm train$(printf ' %q' "$@")"
    exec "$jaxllm" train "$@"
  } > "$pipe/output" 2>&1 < /dev/null &
  child=$!
  set +m
  # A signal cuts `wait` short, with the status of the signal in place of the training's: then it is asked for again.
  while :; do
    heard='' status=0
    wait "$child" || status=$?
    [[ -n $heard ]] || break
  done
  wait "$tee_id" || true
  rm -rf "$pipe"
  if [[ -n $signal && $status == 0 ]]; then
    status=$((128 + $(kill -l "$signal")))
  fi
  [[ -z ${STATUS_FILE:-} ]] || echo "$status" > "$STATUS_FILE"
  return "$status"
}

record() { # NAME: of a file beside the log
  echo "$logs/$job/$host.$1"
}

is_running() {
  [[ -f $(record pid) ]] && kill -0 "$(< "$(record pid)")" 2> /dev/null
}

start() {
  if is_running; then
    echo "$job already runs on $host"
    return
  fi
  find_jaxllm > /dev/null
  mkdir -p "$logs/$job"
  rm -f "$(record status)"
  touch "$(record log)"
  echo "$(($(wc -l < "$(record log)") + 1))" > "$(record begin)"
  # A session of its own: it goes on when the connection that started it ends.
  STATUS_FILE=$(record status) setsid nohup "$repository/launch/host.sh" run "$job" "$logs" -- "$@" \
    > /dev/null 2>&1 < /dev/null &
  echo "$!" > "$(record pid)"
  echo "$job started on $host"
}

follow() {
  local status
  [[ -f $(record pid) ]] || fail "$job was never started on $host"
  tail --lines="+$(< "$(record begin)")" --follow=name --pid="$(< "$(record pid)")" "$(record log)" 2> /dev/null |
    sed -u "s|^|[$host] |"
  status=$(cat "$(record status)" 2> /dev/null) || status=255
  echo "[$host] $job ended with status $status"
  return "$status"
}

stop() {
  is_running || fail "$job does not run on $host" 1
  kill -TERM "$(< "$(record pid)")"
  echo "asked $job on $host to save and stop" >&2
  while is_running; do sleep 1; done
}

status() {
  if is_running; then
    echo "[$host] $job runs, process $(< "$(record pid)")"
  else
    echo "[$host] $job does not run; last status: $(cat "$(record status)" 2> /dev/null || echo none)"
    return 1
  fi
}

verb=${1:-}
case $verb in
  install) install_jaxllm "${2:-}" ;;
  run | start | follow | stop | status)
    [[ $# -ge 3 ]] || fail "host.sh $verb needs a job and a folder for logs; see $repository/launch/host.sh"
    job=$2 logs=$3
    shift 3
    case $verb in
      run | start)
        [[ ${1:-} == -- && $# -ge 2 ]] || fail "host.sh $verb JOB LOGS -- EXPERIMENT ...: no experiment"
        shift
        ;;
    esac
    case $verb in
      run) train "$@" ;;
      *) "$verb" "$@" ;;
    esac
    ;;
  *) fail "unknown '$verb': host.sh install, run, start, follow, stop or status" ;;
esac
