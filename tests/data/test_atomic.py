"""Files that are there as a whole or not at all."""

import errno

import numpy as np
import pytest

from jaxllm.data.atomic import new_file
from jaxllm.data.mixing.importance import ImportanceModel


def test_a_full_disk_is_reported_with_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a" / "documents.parquet"
    with pytest.raises(OSError, match="documents.parquet") as caught, new_file(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert not list(path.parent.iterdir())


def test_an_importance_model_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "models" / "a.npy"
    ImportanceModel(np.arange(3.0)).save(path)
    ImportanceModel(np.arange(4.0)).save(path)
    assert ImportanceModel.load(path).log_ratio.tolist() == [0, 1, 2, 3]
    assert [one.name for one in path.parent.iterdir()] == ["a.npy"]
