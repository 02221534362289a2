"""W processes make the steps of one for taggers too: batch norms, graphs made on the host, penalties over the batch."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.ranks import SINGLE
from distjet.training.settings import TrainConfig
from tests.training.ranks import on_ranks
from tests.training.test_parallel import first_steps

pytestmark = pytest.mark.integration

PFN = "model={name: particle_flow_network, inputs: [em_fraction]}"
CASES = {
    "particle_net": ["model={name: particle_net_lite, dropout: 0}"],
    "particle_next": ["model={name: particle_next, dropout: 0, scales: [4, 8]}"],
    "lund_net": ["model={name: lund_net, dropout: 0}"],
    "lorentz_net": ["model={name: lorentz_net, dropout: 0, num_blocks: 2}"],
    "disco": [PFN, "loss.decorrelation={name: disco, weight: 10}"],
    "adversary": [PFN, "loss.decorrelation={name: adversary, variable: mu, start: 0, full: 0.1}"],
    "together": [PFN, "ensemble={num_members: 3, together: true}"],
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_processes_make_the_steps_of_one(
    labelled_dataset: Manifest, tmp_path: Path, pool: ProcessPoolExecutor, overrides: list[str]
) -> None:
    places = [f"dataset={labelled_dataset.path}", f"output={tmp_path}", "batch_size=150", "optimizer.lr=1e-4"]
    config = load(TrainConfig, [], [*places, *overrides])
    nodes, gradients, weights = first_steps(SINGLE, config, 3)
    found = on_ranks(pool, 2, tmp_path, first_steps, config, 3)
    assert [sum(share) for share in zip(*(part[0] for part in found), strict=True)] == nodes
    for part in found:
        deviations = [(ours - theirs).norm() / ours.norm() for ours, theirs in zip(gradients, part[1], strict=True)]
        # where rounding decides about a neighbour or the side of a ReLU, a gradient moves by more than rounding
        assert max(deviations) < 5e-3, deviations
        assert (part[2] - weights).abs().max() < 1e-4
        assert (part[2] == found[0][2]).all()
