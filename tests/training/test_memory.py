"""A lack of memory is named for what it is, with its place, by whoever says it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distjet.dataset.manifest import Manifest
from distjet.errors import OutOfMemoryError
from distjet.training.memory import naming_a_lack_of_memory
from tests.training.test_loop import trainer

TOO_MUCH = 2**50


def test_a_training_says_where_it_ran_out_of_memory(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path)
    run.model.network.register_forward_pre_hook(
        lambda *arguments: torch.empty(TOO_MUCH) if run.streams["train"].step == 3 else None
    )
    message = r"^out of memory in epoch 1, step 3 of the train split on worker 0 \(\d+ jets with \d+ nodes and \d+ edges\): "
    with pytest.raises(OutOfMemoryError, match=message) as error:
        run.fit()
    assert "set batch_size lower, or max_nodes" in str(error.value)
    assert "stream.max_bytes" in str(error.value)


def test_numpy_says_it_in_its_own_way() -> None:
    message = r"out of memory in the beginning: Unable to allocate"
    with pytest.raises(OutOfMemoryError, match=message), naming_a_lack_of_memory(lambda: "the beginning"):
        np.empty(TOO_MUCH)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match"), naming_a_lack_of_memory(lambda: "nowhere"):
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.gpu
def test_a_full_gpu_is_told_from_a_full_machine() -> None:
    message = r"out of GPU memory in a test: CUDA out of memory"
    with pytest.raises(OutOfMemoryError, match=message) as error, naming_a_lack_of_memory(lambda: "a test"):
        torch.empty(TOO_MUCH, device="cuda")
    assert "stream.max_bytes" not in str(error.value)
