"""What follows from the words after --."""

import pytest

from launch.training import REPOSITORY, check_in_source, check_kept, check_name, check_shared, parse_training


@pytest.mark.parametrize(
    "words, directory, name",
    [
        (["quickstart"], "runs/quickstart", "quickstart"),
        (["shakespeare_char"], "runs/shakespeare_char", "shakespeare-char"),
        (["folder/mine.py", "--run", "gs://b/x/Run_1/"], "gs://b/x/Run_1/", "run-1"),
        (["quickstart", "--run=a b"], "a b", "a-b"),
        (["quickstart", "--run=a", "--run", "b"], "b", "b"),
        (["runs/mine"], "runs/mine", "mine"),
        (["gs://bucket/mine"], "gs://bucket/mine", "mine"),
        (["runs/mine/config.json"], "runs/mine-replay", "mine-replay"),
    ],
)
def test_run_directory_and_name(words, directory, name):
    training = parse_training(words)
    assert (training.run_directory, training.name()) == (directory, name)
    assert training.remote == directory.startswith("gs:")


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "no experiment: say what to train after --"),
        ([""], "no experiment"),
        (["--run", "x", "quickstart"], "the experiment comes first after --, not '--run'"),
        (["quickstart", "--run"], "--run needs the name of a directory"),
        (["quickstart", "--run="], "--run needs the name of a directory"),
    ],
)
def test_words_that_can_not_be_trained(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_training(words)


@pytest.mark.parametrize("run", ["1", "語", "a" * 41])
def test_a_run_that_names_no_job(run):
    with pytest.raises(ValueError, match="gives the job no name that every place accepts: name it, --job NAME"):
        parse_training(["quickstart", "--run", run]).name()


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a-", "a b", "a;b", "a" * 41])
def test_names_that_some_place_would_refuse(name):
    with pytest.raises(ValueError, match="a job's name is at most 40 of a-z, 0-9 and -"):
        check_name(name)
    assert check_name("a-1") == "a-1"


@pytest.mark.parametrize(
    "experiment", ["quickstart", "experiments/quickstart.py", "runs/x", "runs/x/config.json", "gs://b/x"]
)
def test_experiments_that_the_hosts_will_have(experiment):
    check_in_source(parse_training([experiment]))


@pytest.mark.parametrize(
    "experiment",
    ["quickstrat", "experiments/no.py", "../outside.py", str(REPOSITORY / "experiments" / "quickstart.py")],
)
def test_experiments_that_the_hosts_would_not_have(experiment):
    with pytest.raises(ValueError, match=f"there is no .*{experiment}"):
        check_in_source(parse_training([experiment]))


def test_a_local_run_directory_on_several_hosts():
    training = parse_training(["quickstart", "--run", "/data/x"])
    check_shared(training, 1, "v5p:2x2x1")
    check_shared(training, 4, "4 nodes", shared=("/data",))
    check_shared(parse_training(["quickstart", "--run", "gs://b/x"]), 4, "v5e:4x4")
    with pytest.raises(ValueError) as caught:
        check_shared(training, 4, "v5e:4x4", shared=("/dat",))
    assert str(caught.value) == (
        "v5e:4x4 has 4 hosts, and the run directory /data/x is local to each of them, but all write to one run: "
        "keep it in an object store, --run gs://BUCKET/x"
    )


def test_a_run_directory_that_would_be_gone():
    with pytest.raises(
        ValueError, match="runs/quickstart lies on the host, and with --spot is lost: .*gs://BUCKET/quickstart"
    ):
        check_kept(parse_training(["quickstart"]), "--spot", "is lost")
