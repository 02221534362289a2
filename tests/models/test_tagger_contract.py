"""What every tagger of the table promises, whoever wrote it: one suite, in the wrapper in which it is used."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import Tagger
from distjet.models.tagger_configs import TAGGERS
from tests.batches import empty, make_batch, permute_nodes, single
from tests.taggers import untrained

SIZES = [1, 2, 3, 150, 20, 7]
NOISE = {"particle_flow_network": 2e-4}
"What float32 leaves of a sum over many constituents that stand in another order; else 1e-5."


@pytest.fixture(params=sorted(TAGGERS))
def tagger(request: pytest.FixtureRequest, labelled_dataset: Manifest) -> Tagger:
    return untrained(request.param, labelled_dataset)


@pytest.fixture(scope="module")
def jets(labelled_dataset: Manifest) -> GraphBatch:
    """Jets of one to many constituents, with as many columns as the dataset has."""
    return make_jets(labelled_dataset, SIZES)


def make_jets(manifest: Manifest, sizes: list[int], seed: int = 1) -> GraphBatch:
    batch, random = make_batch(sizes, seed), torch.Generator().manual_seed(seed)
    columns = {"x": len(manifest.names("node")), "u": len(manifest.names("graph"))}
    made = {name: torch.randn(len(getattr(batch, name)), width, generator=random) for name, width in columns.items()}
    p4 = torch.stack([batch.p4[slice(*pair)].sum(0) for pair in zip(batch.ptr[:-1], batch.ptr[1:], strict=True)])
    pt = torch.hypot(p4[:, 0], p4[:, 1])
    mass = (p4[:, 3] ** 2 - (p4[:, :3] ** 2).sum(1)).clamp(min=0).sqrt()
    jet = torch.stack([pt, torch.asinh(p4[:, 2] / pt), torch.atan2(p4[:, 1], p4[:, 0]), p4[:, 3], mass], 1)
    return dataclasses.replace(batch, **made, jet=jet, edge_degrees=None, edge_ends=None, num_edges=0)


def scores(tagger: Tagger, batch: GraphBatch) -> Tensor:
    with torch.no_grad():
        return tagger(tagger.on_host(batch)).logits


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("name", sorted(TAGGERS))
def test_shapes(name: str, num_classes: int, labelled_dataset: Manifest, jets: GraphBatch) -> None:
    tagger = untrained(name, labelled_dataset, num_classes=num_classes)
    assert scores(tagger, jets).shape == (len(SIZES), num_classes)
    assert scores(tagger, jets).isfinite().all()
    assert scores(tagger, empty(jets)).shape == (0, num_classes)


def test_gradient_reaches_every_parameter(tagger: Tagger, labelled_dataset: Manifest) -> None:
    jets = make_jets(labelled_dataset, [30, 9, 150, 60, 45, 12, 25, 80], seed=2)
    logits = tagger.train()(tagger.on_host(jets)).logits
    nn.functional.cross_entropy(logits, torch.arange(8) % 2).backward()
    silent = [name for name, p in tagger.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    assert all(torch.isfinite(p.grad).all() for p in tagger.parameters())


def test_order_of_constituents_does_not_matter(tagger: Tagger, jets: GraphBatch) -> None:
    shuffled, _ = permute_nodes(jets, seed=5)
    torch.testing.assert_close(
        scores(tagger, shuffled), scores(tagger, jets), atol=NOISE.get(tagger.config.name, 1e-5), rtol=2e-5
    )


def test_other_jets_of_a_batch_do_not_matter(tagger: Tagger, jets: GraphBatch) -> None:
    alone = torch.cat([scores(tagger, single(jets, graph)) for graph in range(jets.num_graphs)])
    torch.testing.assert_close(scores(tagger, jets), alone, atol=1e-5, rtol=2e-5)


def test_saved_weights_give_the_same_numbers(
    tagger: Tagger, jets: GraphBatch, labelled_dataset: Manifest, tmp_path: Path
) -> None:
    torch.save(tagger.state_dict(), tmp_path / "weights.pt")
    other = untrained(tagger.config.name, labelled_dataset, seed=9)
    assert not torch.equal(scores(other, jets), scores(tagger, jets))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(scores(other, jets), scores(tagger, jets))


def test_bfloat16_stays_close_to_float32(tagger: Tagger, labelled_dataset: Manifest) -> None:
    jets = make_jets(labelled_dataset, [8, 50, 12, 100])
    exact = scores(tagger, jets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = scores(tagger, jets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.05 * float(exact.abs().max()) + 1e-3)
