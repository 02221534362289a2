"""What the benchmark of the calibrator compares with is the same network."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("torch_geometric")

from benchmarks.calibrator import Contestant, PygCalibrator, calibrator, dataset, difference, in_memory
from distjet.dataset.streaming.stream import JetStream, StreamConfig


def test_both_contestants_have_the_same_outputs_gradients_and_jets(tmp_path: Path) -> None:
    manifest = dataset(tmp_path, 40)
    stream = JetStream(manifest, "train", StreamConfig(batch_size=20))
    model = calibrator(manifest, torch.device("cpu"))
    naive = PygCalibrator(model)
    loader = in_memory(stream, 20)
    found = difference(Contestant(model, stream), Contestant(naive, loader), next(iter(stream)))
    assert found["max_abs_difference"] < 1e-5
    assert found["max_gradient_difference"] < 1e-4
    assert sum(p.numel() for p in naive.parameters()) > 1e5
    assert [batch.num_graphs for batch in loader] == [20, 20]
    again = JetStream(manifest, "train", StreamConfig(batch_size=20))
    assert sum(batch.num_edges for batch in loader) == sum(batch.num_edges for batch in again)
