"""The block equals its equations, evaluated naively edge by edge on the concatenations that the code avoids."""

import pytest
import torch

from distjet.nn.edge_convolution import EdgeConvolutionBlock, NodeBlock
from tests.batches import make_batch


def naive(block: EdgeConvolutionBlock, h: torch.Tensor, batch) -> torch.Tensor:
    act, norm, on_nodes = torch.nn.functional.silu, block.normalise(h), batch.u[batch.batch]
    w_m = torch.cat([block.message_node.node.weight, block.message_node.graph.weight, block.message_edge.weight], 1)
    result = h.clone()
    for i in range(len(h)):
        incoming = [k for k in range(batch.edge_index.shape[1]) if batch.edge_index[1, k] == i]
        messages = [torch.zeros(h.shape[1])]
        for k in incoming:
            j = int(batch.edge_index[0, k])
            inputs = torch.cat([norm[j], on_nodes[j], batch.edge_attr[k]])
            messages.append(block.message_out.weight @ act(w_m @ inputs + block.message_node.node.bias))
        total = torch.stack(messages).sum(0) / (max(len(incoming), 1) if block.aggregation == "mean" else 1)
        result[i] = h[i] + update(block, torch.cat([norm[i], total]), on_nodes[i])
    return result


def update(block, known: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
    inner = block.update.inner
    weight = torch.cat([inner.node.weight, inner.graph.weight], 1)
    return block.update.outer(torch.nn.functional.silu(weight @ torch.cat([known, graph]) + inner.node.bias))


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_the_block_equals_its_equations(aggregation) -> None:
    torch.manual_seed(1)
    batch = make_batch([4, 1, 6])
    block = EdgeConvolutionBlock(width=8, num_graph=3, num_edge=1, aggregation=aggregation)
    h = torch.randn(batch.num_nodes, 8)
    with torch.no_grad():
        result = block(h, batch.u, batch.edge_attr, batch.edge_index, batch.batch)
        torch.testing.assert_close(result, naive(block, h, batch), atol=1e-6, rtol=1e-5)


def test_a_node_block_updates_each_node_from_itself_and_its_graph() -> None:
    torch.manual_seed(1)
    batch = make_batch([4, 1, 6])
    block, h = NodeBlock(width=8, num_graph=3), torch.randn(11, 8)
    with torch.no_grad():
        result = block(h, batch.u, batch.edge_attr, batch.edge_index, batch.batch)
        expected = torch.stack([h[i] + update(block, block.normalise(h)[i], batch.u[batch.batch[i]]) for i in range(len(h))])
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
