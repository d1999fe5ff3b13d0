"""What is to be trained: the words after `--`, the same in every place, and what follows from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# xpk allows 40 characters, and a pod's name, made from the job's, at most 63.
LONGEST_NAME = 40
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Training:
    """`jaxllm train EXPERIMENT ...`."""

    words: tuple[str, ...]
    """EXPERIMENT and everything after it."""

    @property
    def experiment(self) -> str:
        return self.words[0]

    @property
    def run_directory(self) -> str:
        """Where the run is kept, as the training itself will see it."""
        given = None
        words = iter(self.words[1:])
        for word in words:
            if word == "--run":
                given = next(words, "")
            elif word.startswith("--run="):
                given = word.removeprefix("--run=")
        if given:
            return given
        path = Path(self.experiment)
        if path.suffix == ".json":
            return str(path.parent.with_name(f"{path.parent.name}-replay"))
        return self.experiment if self.resumes else f"runs/{path.stem}"

    @property
    def resumes(self) -> bool:
        """Whether EXPERIMENT is the directory of an earlier run, not the name or file of an experiment."""
        if Path(self.experiment).suffix in (".py", ".json") or "/" not in self.experiment:
            return False
        return not (REPOSITORY / "experiments" / f"{self.experiment}.py").is_file()

    @property
    def remote(self) -> bool:
        """Whether the run is kept in an object store, which every host sees."""
        return "://" in self.run_directory

    def name(self) -> str:
        """A name for the job: that of the run. Raises ValueError where none can be made of it."""
        last = self.run_directory.rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise ValueError(f"the run {last!r} gives the job no name that every place accepts: name it, --job NAME")
        return name


def parse_training(words: list[str]) -> Training:
    """Raises ValueError where no experiment is named, or the options of `jaxllm train` come before it."""
    usage = "launch/run PLACE [options] -- EXPERIMENT [--run DIR] [--a.b=c ...]"
    if not words or not words[0]:
        raise ValueError(f"no experiment: say what to train after --\nusage: {usage}")
    if words[0].startswith("-"):
        raise ValueError(f"the experiment comes first after --, not {words[0]!r}\nusage: {usage}")
    if words[-1] == "--run" or "--run=" in words:
        raise ValueError("--run needs the name of a directory: --run DIR")
    return Training(tuple(words))


def check_name(name: str) -> str:
    """Raises ValueError for a job name that some place would refuse."""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"--job {name!r}: a job's name is at most {LONGEST_NAME} of a-z, 0-9 and -, begins with a letter "
            "and does not end with -"
        )
    return name


def check_in_source(training: Training) -> None:
    """Refuse an experiment that the copied source won't hold; minutes of waiting for machines would come first."""
    experiment = training.experiment
    path = Path(experiment)
    if path.suffix == ".py":
        inside = REPOSITORY / path if not path.is_absolute() else None
        if inside is None or not inside.is_file() or not inside.resolve().is_relative_to(REPOSITORY):
            raise ValueError(
                f"there is no {experiment} in {REPOSITORY}, which is what the hosts get: name the file relative to that"
            )
        return
    if path.suffix == ".json" or training.resumes or (REPOSITORY / "experiments" / f"{experiment}.py").is_file():
        return
    raise ValueError(
        f"there is no experiments/{experiment}.py in {REPOSITORY}; an earlier run is named by its directory"
    )


def check_shared(training: Training, hosts: int, where: str, shared: tuple[str, ...] = (), advice: str = "") -> None:
    """Refuse a run directory that `hosts` hosts do not all see. `shared`: directories that they do."""
    if hosts == 1 or training.remote or is_under(training.run_directory, shared):
        return
    raise ValueError(
        f"{where} has {hosts} hosts, and the run directory {training.run_directory} is local to each of them, but all "
        f"write to one run: {advice or 'keep it in an object store'}, --run gs://BUCKET/{training.name()}"
    )


def check_kept(training: Training, where: str, why: str, shared: tuple[str, ...] = ()) -> None:
    """Refuse a run directory that would be gone when it is wanted again."""
    if not training.remote and not is_under(training.run_directory, shared):
        raise ValueError(
            f"the run directory {training.run_directory} lies on the host, and with {where} {why}: keep it in an "
            f"object store, --run gs://BUCKET/{training.name()}"
        )


def is_under(directory: str, shared: tuple[str, ...]) -> bool:
    return any(Path(directory).is_relative_to(folder) for folder in shared)
