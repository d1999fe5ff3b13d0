"""The places a training can run in. Each module renders scripts: VERBS maps a verb to a function of the request."""

from launch.places import container, gke, local, skypilot, slurm, tpu_vm, xpk

PLACES = {
    "local": local,
    "container": container,
    "tpu-vm": tpu_vm,
    "gke": gke,
    "xpk": xpk,
    "slurm": slurm,
    "skypilot": skypilot,
}
