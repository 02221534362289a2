import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from distjet.nn.segments import segment_softmax, segment_sum

index_lists = st.lists(st.integers(0, 5), min_size=0, max_size=30)


@given(index_lists, st.integers(0, 2**31))
def test_segment_sum_equals_a_loop(index: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(len(index), 3))
    expected = np.zeros((7, 3))
    for row, segment in zip(values, index, strict=True):
        expected[segment] += row
    result = segment_sum(torch.from_numpy(values), torch.tensor(index, dtype=torch.long), 7)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)


@given(index_lists, st.integers(0, 2**31))
def test_segment_softmax_equals_the_softmax_of_each_segment(index: list[int], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=50, size=(len(index), 2))
    result = segment_softmax(torch.from_numpy(logits), torch.tensor(index, dtype=torch.long), 7).numpy()
    for segment in set(index):
        rows = np.array(index) == segment
        expected = torch.softmax(torch.from_numpy(logits[rows]), dim=0).numpy()
        np.testing.assert_allclose(result[rows], expected, atol=1e-12)


def test_huge_logits_do_not_overflow() -> None:
    weights = segment_softmax(torch.tensor([[1e4], [1e4], [-1e4]]), torch.tensor([0, 0, 0]), 1)
    torch.testing.assert_close(weights, torch.tensor([[0.5], [0.5], [0.0]]))
