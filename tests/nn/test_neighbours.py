"""Neighbours are those that scipy's tree finds, by the loop and by operations of torch."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from distjet.nn.neighbours import nearest, nearest_by_operations

SIZES = [1, 5, 0, 17, 40, 2, 16]
FINDERS = {"loop": nearest, "operations": nearest_by_operations}


def make_points(width: int, sizes: list[int] = SIZES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(width)
    return torch.randn(sum(sizes), width, generator=generator), torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int64)


def expected_of(points: torch.Tensor, ptr: torch.Tensor, k: int, include_self: bool) -> torch.Tensor:
    """The same from scipy, whose missing neighbours have the number of points of the tree."""
    rows = []
    for lo, hi in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
        if lo == hi:
            continue
        tree = cKDTree(points[lo:hi].double().numpy())
        first = 1 if include_self else 2  # a point is nearest to itself
        _, found = tree.query(points[lo:hi].double().numpy(), k=range(first, first + k))
        rows.append(np.where(found == hi - lo, len(points), found + lo))
    return torch.from_numpy(np.concatenate(rows))


@pytest.mark.parametrize("finder", FINDERS.values(), ids=FINDERS)
@pytest.mark.parametrize("width", [1, 2, 3, 64, 256])
@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("k", [1, 7, 16])
def test_neighbours_are_those_of_a_tree(finder, width: int, include_self: bool, k: int) -> None:
    points, ptr = make_points(width)
    assert torch.equal(finder(points, ptr, k, include_self=include_self), expected_of(points, ptr, k, include_self))


@pytest.mark.parametrize("finder", FINDERS.values(), ids=FINDERS)
@pytest.mark.parametrize("width", [2, 8])
def test_a_jet_far_from_the_origin_keeps_its_neighbours(finder, width: int) -> None:
    """In the products from which distances are made, what tells neighbours apart would be rounded off."""
    points, ptr = make_points(width, [30])
    shifted = (points / 1000 + 64).double()  # what is left of the points in float32
    table, expected = finder(shifted.float(), ptr, 5), expected_of(shifted, ptr, 5, False)
    distances = [(shifted[found] - shifted[:, None]).norm(dim=2) for found in (table, expected)]  # some are equal
    torch.testing.assert_close(*distances, rtol=1e-4, atol=0)


def test_a_bound_on_the_nodes_changes_nothing() -> None:
    points, ptr = make_points(2)
    batch = torch.repeat_interleave(torch.arange(len(SIZES)), ptr.diff())
    assert torch.equal(nearest_by_operations(points, ptr, 16, batch=batch, max_nodes=100), nearest(points, ptr, 16))


@pytest.mark.parametrize("finder", FINDERS.values(), ids=FINDERS)
def test_no_jets(finder) -> None:
    assert finder(torch.zeros(0, 2), torch.tensor([0]), 3, max_nodes=4).shape == (0, 3)


def test_equal_points_are_neighbours_but_not_of_themselves() -> None:
    table = nearest(torch.zeros(4, 2), torch.tensor([0, 4]), 3)
    assert [sorted(row) for row in table.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_the_table_can_be_exported() -> None:
    class Find(torch.nn.Module):
        def forward(self, points: torch.Tensor, ptr: torch.Tensor) -> torch.Tensor:
            return nearest(points, ptr, 16, max_nodes=40)

    points, ptr = make_points(2)
    exported = torch.export.export(Find(), (points, ptr)).module()
    assert torch.equal(exported(points, ptr), nearest(points, ptr, 16))
