import torch

from distjet.nn.dense import dense_mask, to_dense
from tests.batches import empty, make_batch


def test_rows_are_filled_from_their_start_and_cut_at_the_length():
    batch = make_batch([3, 1, 7, 5])
    dense, mask = to_dense(batch.x, batch.ptr, batch.batch, 5), dense_mask(batch.ptr, 5)
    padded, expected_mask = batch.to_padded(7)
    assert torch.equal(dense, padded[:, :5])
    assert torch.equal(mask, expected_mask[:, :5])


def test_gradient_comes_back_to_the_constituents_that_were_kept():
    batch = make_batch([2, 4])
    values = batch.x.clone().requires_grad_()
    weight = torch.randn(2, 3, values.shape[1])
    (to_dense(values, batch.ptr, batch.batch, 3) * weight).sum().backward()
    expected = torch.cat([weight[0, :2], weight[1], torch.zeros(1, values.shape[1])])
    assert torch.equal(values.grad, expected)


def test_no_jets_make_no_rows():
    batch = empty(make_batch([3]))
    assert to_dense(batch.x, batch.ptr, batch.batch, 4).shape == (0, 4, batch.x.shape[1])
    assert dense_mask(batch.ptr, 4).shape == (0, 4)
