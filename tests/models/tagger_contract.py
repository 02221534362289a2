"""What every tagging network must do, as functions of a network."""

import io

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork
from tests.batches import empty, permute_nodes, single


def scores(network: TaggerNetwork, batch: GraphBatch) -> Tensor:
    """Logits in evaluation, without gradients."""
    network.eval()
    with torch.no_grad():
        return network(network.on_host(batch))


def check_shapes(network: TaggerNetwork, batch: GraphBatch, num_classes: int) -> None:
    assert scores(network, batch).shape == (batch.num_graphs, num_classes)
    assert scores(network, batch).isfinite().all()
    assert scores(network, empty(batch)).shape == (0, num_classes)


def check_gradients(network: TaggerNetwork, batch: GraphBatch) -> None:
    network.train()
    logits = network(network.on_host(batch))
    (logits * torch.randn(logits.shape)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def check_permutation(network: TaggerNetwork, batch: GraphBatch) -> None:
    shuffled, _ = permute_nodes(batch)
    torch.testing.assert_close(scores(network, shuffled), scores(network, batch), atol=1e-5, rtol=1e-5)


def check_singles(network: TaggerNetwork, batch: GraphBatch) -> None:
    alone = torch.cat([scores(network, single(batch, graph)) for graph in range(batch.num_graphs)])
    torch.testing.assert_close(scores(network, batch), alone, atol=1e-5, rtol=1e-5)


def check_saving(network: TaggerNetwork, other: TaggerNetwork, batch: GraphBatch) -> None:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    torch.testing.assert_close(scores(other, batch), scores(network, batch), atol=0, rtol=0)


def gradients_of(network: nn.Module) -> dict[str, Tensor | None]:
    """Gradients of all parameters by name."""
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def check_export(network: TaggerNetwork, batch: GraphBatch, other: GraphBatch) -> None:
    """A program made of one batch gives the scores of another: numbers of jets and constituents stay free."""
    nodes, jets = torch.export.Dim("nodes"), torch.export.Dim("jets")
    shapes = ({0: nodes}, {0: nodes}, {0: jets + 1}, {0: nodes}, {0: jets})
    program = torch.export.export(_OfTensors(network.eval()), _tensors(batch), dynamic_shapes=(shapes,))
    found = program.module()(*_tensors(other))
    torch.testing.assert_close(found, scores(network, other), atol=1e-5, rtol=1e-5)


class _OfTensors(nn.Module):
    def __init__(self, network: TaggerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> Tensor:
        x, p4, ptr, graph, u = tensors
        batch = GraphBatch(x=x, p4=p4, ptr=ptr, u=u, jet=u, targets={}, weight=u)
        vars(batch)["batch"] = graph
        return self.network(batch)


def _tensors(batch: GraphBatch) -> tuple[Tensor, ...]:
    return batch.x, batch.p4, batch.ptr, batch.batch, batch.u
