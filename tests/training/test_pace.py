"""What hosts tell each other between steps: all of them decide the same, and the slowest is named."""

import numpy as np
import pytest

from jaxllm.parallel import agreement
from jaxllm.training.pace import Pulse, pace_report


class Wire:
    """The exchange of several processes, played one after another: what is sent is heard when all have sent."""

    def __init__(self, processes):
        self.sent = [[] for _ in range(processes)]

    def of(self, process):
        wire = self

        class Exchange:
            pending = False
            heard = 0

            def send(self, numbers):
                wire.sent[process].append(numbers)
                self.pending = True

            def receive(self):
                self.pending = False
                self.heard += 1
                return np.asarray([sent[self.heard - 1] for sent in wire.sent], np.float32)

        return Exchange()


@pytest.mark.parametrize("every, asked_at, stops_at", [(1, 3, 4), (1, 1, 2), (4, 3, 5), (4, 4, 5), (4, 5, 9)])
def test_a_request_to_one_process_stops_all_after_the_same_step(every, asked_at, stops_at):
    wire = Wire(3)
    pulses = [Pulse(every, processes=3, exchange=wire.of(process)) for process in range(3)]
    stopped = {}
    for step in range(1, 12):
        for process, pulse in enumerate(pulses):
            if process not in stopped:
                request = 15 if process == 2 and step >= asked_at else 0
                if number := pulse.agree(step, request, 0.0, 0.0):
                    stopped[process] = (step, number)
    assert stopped == dict.fromkeys(range(3), (stops_at, 15))


def test_alone_a_request_is_followed_at_once():
    pulse = Pulse(100, processes=1)
    assert [pulse.agree(step, 2 if step == 3 else 0, 0.0, 0.0) for step in (1, 2, 3)] == [0, 0, 2]


def test_the_slowest_host_is_named_with_its_ratio_to_the_median():
    rows = np.asarray([[0, 0.01, 1.0], [0, 0.01, 1.0], [0, 0.05, 1.0], [0, 0.01, 1.5]], np.float32)
    report = pace_report(rows)
    assert (report["input_slowest"], report["input_ratio"]) == (2, 5.0)
    assert (report["probe_slowest"], report["probe_ratio"]) == (3, 1.5)
    assert report["probe_median"] == 1.0
    assert pace_report(np.zeros((2, 3), np.float32))["input_ratio"] is None


def test_an_exchange_of_one_process():
    exchange = agreement.Exchange()
    assert not exchange.pending
    exchange.send((1.0, 2.5))
    assert exchange.pending
    np.testing.assert_array_equal(exchange.receive(), [[1.0, 2.5]])
    assert not exchange.pending
    assert agreement.everyone(True) and not agreement.everyone(False)
    assert agreement.tell_all("name", "x") == "x"
    with agreement.process_0_first("work"):
        agreement.barrier("nobody else")
