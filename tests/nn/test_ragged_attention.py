"""Spec: attention in blocks is attention within each jet, with the bias of each pair, whatever the sizes are."""

import numpy as np
import pytest
import torch

from distjet.nn.ragged_attention import RaggedAttention, attend_with_tokens

NUM_HEADS, WIDTH = 2, 6


def layouts(sizes: list[int]) -> list[RaggedAttention]:
    ptr = torch.tensor([0, *np.cumsum(sizes)])
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return [RaggedAttention.of_sizes(np.array(sizes), ptr, batch), RaggedAttention.of_length(40, ptr, sum(sizes))]


def jet_by_jet(projected: torch.Tensor, bias_of_pair, sizes: list[int]) -> torch.Tensor:
    results, start = [], 0
    for size in sizes:
        q, k, v = projected[start : start + size].reshape(size, 3, NUM_HEADS, WIDTH // NUM_HEADS).unbind(1)
        bias = bias_of_pair(start + torch.arange(size)[:, None], start + torch.arange(size)[None])
        logits = torch.einsum("ihc,jhc->ijh", q, k) / (WIDTH / NUM_HEADS) ** 0.5 + bias
        results.append(torch.einsum("ijh,jhc->ihc", logits.softmax(1), v).flatten(1))
        start += size
    return torch.cat(results)


def bias_of_pair(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Some symmetric function of two constituents, for each head."""
    total, product = (a + b).double(), (a * b).double()
    return torch.stack([torch.sin(1.3 * total + 0.7 * product), torch.cos(0.9 * total + 0.1 * product)], dim=-1)


@pytest.mark.parametrize("sizes", [[1], [3, 1, 40, 16, 17, 2, 33, 16], [5, 0, 7], [0, 0]])
def test_blocks_are_jets(sizes: list[int]) -> None:
    torch.manual_seed(0)
    projected = torch.randn(sum(sizes), 3 * WIDTH, dtype=torch.float64)
    expected = jet_by_jet(projected, bias_of_pair, sizes)
    for layout in layouts(sizes):
        values = bias_of_pair(layout.pairs.first, layout.pairs.second)
        found = layout.attend(projected, layout.blocks_of_bias(values), 0.0)
        torch.testing.assert_close(found, expected)


def test_every_pair_is_looked_at_once() -> None:
    sizes = [3, 1, 17]
    grouped, together = layouts(sizes)
    listed = sorted(zip(grouped.pairs.first.tolist(), grouped.pairs.second.tolist(), strict=True))
    assert len(listed) == len(set(listed)) == 6 + 1 + 153
    assert all(first >= second for first, second in listed)
    real = together.pairs.weights > 0
    assert listed == sorted(zip(together.pairs.first[real].tolist(), together.pairs.second[real].tolist(), strict=True))


def test_a_token_attends_to_its_jet_and_to_itself() -> None:
    torch.manual_seed(0)
    queries, of_nodes, of_tokens = torch.randn(2, WIDTH), torch.randn(5, 2 * WIDTH), torch.randn(2, 2 * WIDTH)
    found = attend_with_tokens(queries, (of_nodes, of_tokens), torch.tensor([0, 0, 0, 1, 1]), NUM_HEADS)
    for jet, nodes in enumerate((of_nodes[:3], of_nodes[3:])):
        keys, values = torch.cat([of_tokens[jet : jet + 1], nodes]).chunk(2, dim=1)
        heads = [
            x.reshape(1, -1, NUM_HEADS, WIDTH // NUM_HEADS).transpose(1, 2) for x in (queries[jet : jet + 1], keys, values)
        ]
        expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten()
        torch.testing.assert_close(found[jet], expected)


def test_dropout_of_attention_leaves_the_mean() -> None:
    torch.manual_seed(0)
    (layout, _), projected = layouts([30]), torch.randn(30, 3 * WIDTH)
    biases = layout.blocks_of_bias(torch.zeros(len(layout.pairs.first), NUM_HEADS))
    many = torch.stack([layout.attend(projected, biases, 0.5) for _ in range(200)])
    assert many.std(0).min() > 0.01
    torch.testing.assert_close(many.mean(0), layout.attend(projected, biases, 0.0), atol=0.2, rtol=0)
