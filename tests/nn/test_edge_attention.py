"""The block equals its equations, evaluated naively edge by edge on the concatenations that the code avoids."""

import torch

from distjet.nn.edge_attention import EdgeAttentionBlock
from tests.batches import make_batch


def naive(block: EdgeAttentionBlock, h: torch.Tensor, g: torch.Tensor, e: torch.Tensor, batch) -> torch.Tensor:
    act, norm = torch.nn.functional.silu, block.normalise(h)
    width = h.shape[1]
    on_nodes = g[batch.batch]
    w_v = torch.cat([block.value_in.node.weight, block.value_in.graph.weight], 1)
    w_a = block.attention_ends.weight
    w_a = torch.cat([w_a[:width], w_a[width:], block.attention_edge.weight], 1)
    b_a = block.attention_ends.bias[:width] + block.attention_ends.bias[width:]
    w_u = torch.cat([block.update_in.node.weight, block.update_in.graph.weight], 1)
    result = h.clone()
    for i in range(len(h)):
        incoming = [k for k in range(batch.edge_index.shape[1]) if batch.edge_index[1, k] == i]
        message = torch.zeros(width)
        if incoming:
            logits, values = [], []
            for k in incoming:
                j = int(batch.edge_index[0, k])
                hidden = act(w_a @ torch.cat([norm[i], norm[j], e[k]]) + b_a)
                logits.append(block.attention_out.weight @ hidden)
                v = act(w_v @ torch.cat([norm[j], on_nodes[j]]) + block.value_in.node.bias)
                values.append(block.value_out(v))
            weights = torch.softmax(torch.stack(logits), dim=0)
            heads = torch.stack(values).view(len(incoming), block.num_heads, -1)
            message = (weights.unsqueeze(-1) * heads).sum(0).flatten()
        update = act(w_u @ torch.cat([norm[i], message, on_nodes[i]]) + block.update_in.node.bias)
        result[i] = h[i] + block.update_out(update)
    return result


def test_factored_block_equals_the_equations() -> None:
    torch.manual_seed(1)
    batch = make_batch([4, 1, 6])
    block = EdgeAttentionBlock(width=8, num_graph=3, num_edge=1, num_heads=2)
    h = torch.randn(batch.num_nodes, 8)
    with torch.no_grad():
        result = block(h, batch.u, batch.edge_attr, batch.edge_index, batch.batch)
        expected = naive(block, h, batch.u, batch.edge_attr, batch)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


def test_a_node_without_neighbours_gets_no_message() -> None:
    torch.manual_seed(2)
    block = EdgeAttentionBlock(width=8, num_graph=3, num_edge=1, num_heads=4)
    lonely = make_batch([1])
    result = block(torch.randn(1, 8), lonely.u, lonely.edge_attr, lonely.edge_index, lonely.batch)
    assert torch.isfinite(result).all()
