"""The roll call before anything else: all processes of a job report to process 0, at the coordinator's address.

`jax.distributed.initialize` ends a process, without a name, when another does not come. Here process 0 waits, compares
what each shows (`fingerprint.Card`), and tells all of them the same verdict. The connections stay open afterwards:
`companions` watches them. The port is free again for jax's own service, since only listening sockets claim one.

A message is one line of JSON.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from jaxllm.parallel.fingerprint import Card, differences
from jaxllm.parallel.place import Place

PATIENCE = 10.0  # seconds that a verdict may come later than a process's own deadline: they do not start together
LONGEST_LINE = 1 << 20
SHOWN = 12  # differences of one host; the rest is counted


class MissingHosts(TimeoutError):
    """Not all processes of the job came in time. Starting again may help."""


class DifferentHosts(ValueError):
    """Processes that must not train together: starting again as it is can't help."""


@dataclass
class Line:
    """A connection to one process, read line by line."""

    socket: socket.socket
    process: int
    host: str
    _read: bytearray = field(default_factory=bytearray)

    def __str__(self) -> str:
        return f"process {self.process} ({self.host})"

    def send(self, message: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def take(self) -> list[dict[str, Any]] | None:
        """The messages that one read completes; None at the end of the connection. Raises ValueError for no JSON."""
        data = self.socket.recv(65536)
        if not data:
            return None
        self._read += data
        *lines, rest = self._read.split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise ValueError("a line without end")
        self._read = bytearray(rest)
        return [json.loads(line) for line in lines]


def answer_roll(place: Place, card: Card, seconds: float) -> list[Line]:
    """Report, and wait for the verdict; returns the open connections: of process 0 to all others, of others to it.

    Raises MissingHosts and DifferentHosts, the same in every process that came.
    """
    if place.process == 0:
        return _call(place, card, seconds)
    return [_report(place, card, seconds)]


def _call(place: Place, card: Card, seconds: float) -> list[Line]:
    with _listen(place) as server:
        present, verdict, error = _gather(server, place, card, seconds)
    lines = sorted((line for line, _ in present), key=lambda line: line.process)
    for line in lines:
        try:
            line.send(verdict)
        except OSError:
            continue  # it will be missed at once by those who watch the connections
    if error is not None:
        for line in lines:
            line.socket.close()
        raise error
    return lines


def _gather(
    server: socket.socket, place: Place, card: Card, seconds: float
) -> tuple[list[tuple[Line, Card]], dict[str, Any], Exception | None]:
    """Those who came, the verdict that all of them get, and the same as an exception where it is a bad one."""
    here = f"process 0 ({card['host']})"
    deadline = time.monotonic() + seconds
    waiting: dict[int, Line] = {}  # by file number: who has not yet said who it is
    present: dict[int, tuple[Line, Card]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(present) < place.processes - 1 and time.monotonic() < deadline:
            for key, _ in selector.select(timeout=max(0.0, deadline - time.monotonic())):
                if key.fileobj is server:
                    connection, _ = server.accept()
                    waiting[connection.fileno()] = Line(connection, -1, "")
                    selector.register(connection, selectors.EVENT_READ)
                    continue
                line = waiting[key.fd]
                hello = _first_message(line)
                if hello is None:
                    continue
                selector.unregister(key.fileobj)
                del waiting[key.fd]
                problem = _admit(line, hello, place, present, here)
                if problem:
                    return [*present.values()], {"verdict": "different", "message": problem}, DifferentHosts(problem)
    for line in waiting.values():
        line.socket.close()
    absent = [place.named(number) for number in range(1, place.processes) if number not in present]
    came = [*present.values()]
    if absent:
        there = ", ".join([here, *(str(line) for line, _ in came)])
        message = (
            f"{', '.join(absent)} of {place.processes} did not come within {seconds:g} s; there are {there}. Look at "
            f"the logs of those missing: did they start, and do they reach {place.address}?"
        )
        return came, {"verdict": "missing", "message": message}, MissingHosts(message)
    problems = _compare(came, card)
    if problems:
        message = f"the hosts of this job are not alike (compared with {here}):\n" + "\n".join(problems)
        return came, {"verdict": "different", "message": message}, DifferentHosts(message)
    return came, {"verdict": "all here", "host": card["host"]}, None


def _first_message(line: Line) -> dict[str, Any] | None:
    """The greeting once it is whole: {} from whoever is no process of ours, or left again."""
    try:
        messages = line.take()
    except (OSError, ValueError):
        return {}
    return {} if messages is None else messages[0] if messages else None


def _admit(
    line: Line, hello: dict[str, Any], place: Place, present: dict[int, tuple[Line, Card]], here: str
) -> str | None:
    """Note who came; what is wrong with that if something is. Strangers are shown out."""
    if not isinstance(hello, dict) or hello.get("jaxllm") != "roll call":
        line.socket.close()
        return None
    line.process, card = hello["process"], hello["card"]
    line.host = card["host"]
    if hello["processes"] != place.processes or not 0 <= line.process < place.processes:
        present[-1] = line, card
        return (
            f"process {line.process} on {line.host} was told that there are {hello['processes']} processes, {here} "
            f"that there are {place.processes}: JAXLLM_PROCESSES must be the same everywhere, and each job needs a "
            "JAXLLM_COORDINATOR of its own"
        )
    if line.process in present or line.process == 0:
        first = here if line.process == 0 else f"the one on {present[line.process][0].host}"
        present[-1] = line, card
        return (
            f"two processes say that they are number {line.process}: {first} and one on {line.host} (process id "
            f"{card['pid']} there): JAXLLM_PROCESS must differ"
        )
    present[line.process] = line, card
    return None


def _compare(came: list[tuple[Line, Card]], reference: Card) -> list[str]:
    problems = []
    for line, card in sorted(came, key=lambda pair: pair[0].process):
        problems += describe_differences(str(line), card["fields"], reference["fields"])
    return problems


def describe_differences(who: str, mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """A line for each of the first fields in which a process is not as the one it is compared with."""
    found = differences(mine, theirs)
    more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return [f"  {who} differs in {what}" for what in found[:SHOWN] + more]


def _report(place: Place, card: Card, seconds: float) -> Line:
    deadline = time.monotonic() + seconds
    line = _connect(place, deadline, seconds)
    line.send({"jaxllm": "roll call", "process": place.process, "processes": place.processes, "card": card})
    line.socket.settimeout(max(0.1, deadline - time.monotonic()) + PATIENCE)
    try:
        answers = line.take()
        while answers == []:
            answers = line.take()
    except (TimeoutError, ConnectionError):
        answers = None
    except ValueError as error:
        raise DifferentHosts(f"at {place.address} answers something else than process 0 of this job") from error
    if answers is None:
        raise MissingHosts(f"{place.named(0)} at {place.address} took the report, but gave no answer; see its log")
    match answers[0]["verdict"]:
        case "missing":
            raise MissingHosts(answers[0]["message"])
        case "different":
            raise DifferentHosts(answers[0]["message"])
    line.host = answers[0]["host"]
    line.socket.settimeout(None)
    return line


def _connect(place: Place, deadline: float, seconds: float) -> Line:
    problem: OSError = TimeoutError("timed out")
    while (left := deadline - time.monotonic()) > 0:
        try:
            return Line(socket.create_connection((place.host, place.port), timeout=left), 0, place.host)
        except OSError as error:  # not there yet, or its name is not yet known
            problem = error
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
    raise MissingHosts(
        f"{place.named(0)}, the coordinator at {place.address}, did not answer within {seconds:g} s ({problem}): did "
        "it start, and is the port open between the hosts?"
    )


def _listen(place: Place) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", place.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", place.port), backlog=1024)
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen at port {place.port} of JAXLLM_COORDINATOR={place.address} ({error.strerror}): "
            "another job may use it; choose another port"
        ) from error
