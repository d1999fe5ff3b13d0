"""Which process of a job this is, from the launcher's variables."""

import pytest

from jaxllm.parallel.place import Place, find_place

GIVEN = {"JAXLLM_COORDINATOR": "10.0.0.7:8476", "JAXLLM_PROCESSES": "4", "JAXLLM_PROCESS": "3"}


def test_the_launchers_variables_say_where():
    place = find_place(GIVEN)
    assert place == Place("10.0.0.7:8476", 3, 4)
    assert (place.host, place.port) == ("10.0.0.7", 8476)
    assert find_place({**GIVEN, "JAXLLM_COORDINATOR": "[fe80::1]:99"}).host == "fe80::1"


def test_alone_without_them_and_in_a_job_of_one():
    assert find_place({"JAX_PLATFORMS": "cpu"}) is None
    assert find_place({**GIVEN, "JAXLLM_PROCESSES": "1", "JAXLLM_PROCESS": "0"}) is None


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"JAXLLM_PROCESS": ""}, "JAXLLM_COORDINATOR and JAXLLM_PROCESSES set, but not JAXLLM_PROCESS"),
        ({"JAXLLM_COORDINATOR": "", "JAXLLM_PROCESSES": ""}, "not JAXLLM_COORDINATOR and JAXLLM_PROCESSES"),
        ({"JAXLLM_COORDINATOR": "10.0.0.7"}, "'10.0.0.7' is not HOST:PORT"),
        ({"JAXLLM_COORDINATOR": "host:99999"}, "is not HOST:PORT"),
        ({"JAXLLM_PROCESSES": "four"}, "JAXLLM_PROCESSES='four'"),
        ({"JAXLLM_PROCESSES": "0"}, "at least 1"),
        ({"JAXLLM_PROCESS": "4"}, "from 0 to 3"),
        ({"JAXLLM_PROCESS": "-1"}, "from 0 to 3"),
    ],
)
def test_wrong_variables_are_refused(changed, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        find_place(GIVEN | changed)


class Pod:
    """What jax knows of a TPU pod, as of `GkeTpuCluster`."""

    hosts = ("t1v-0", "t1v-1:8471")

    @classmethod
    def is_env_present(cls):
        return True

    @classmethod
    def get_process_count(cls):
        return len(cls.hosts)

    @classmethod
    def get_process_id(cls):
        return 1

    @classmethod
    def get_coordinator_address(cls, timeout_secs, override_coordinator_port):
        return "t1v-0:8476"

    @classmethod
    def _get_worker_list_in_slice(cls):
        return list(cls.hosts)


def test_a_tpu_pod_needs_no_variables(monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    # The names that are called must be jax's.
    for name in vars(Pod):
        assert name.startswith("__") or name == "hosts" or hasattr(cloud_tpu_cluster.GkeTpuCluster, name)
    monkeypatch.setattr(cloud_tpu_cluster, "GkeTpuCluster", Pod)
    place = find_place({})
    assert place == Place("t1v-0:8476", 1, 2, ("t1v-0", "t1v-1"))
    assert place.named(1) == "process 1 (t1v-1)"
    monkeypatch.setattr(Pod, "hosts", ("t1v-0",))
    assert find_place({}) is None
