"""Spec: sums over all pairs of a jet, with backward passes of their own, have the derivatives that finite differences find."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from distjet.nn import lorentz_messages
from distjet.nn.lorentz_messages import How, Messages
from distjet.nn.minkowski import block_invariants, block_places, inner, pair_invariants, psi
from distjet.nn.pair_moments import Moments

PTR = torch.tensor([0, 3, 5, 6, 10])
"Jets of 3, 2, 1 and 4 particles."
WIDTH = 5


def four_vectors(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    momentum = torch.randn(int(PTR[-1]), 3, dtype=torch.float64, generator=generator)
    return torch.cat([momentum, (momentum.square().sum(1, keepdim=True) + 0.3).sqrt()], dim=1).requires_grad_()


def all_pairs() -> tuple[Tensor, Tensor]:
    """Ends of all ordered pairs of different particles of a jet (2, E), and the place of each pair in the blocks."""
    ends, places, place = [], [], 0
    for first, last in pairwise(PTR.tolist()):
        for i in range(first, last):
            for j in range(first, last):
                if i != j:
                    ends.append((i, j))
                    places.append(place)
                place += 1
    return torch.tensor(ends).T, torch.tensor(places)


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_blocks_hold_the_invariants_of_all_pairs() -> None:
    p4 = four_vectors()
    ends, places = all_pairs()
    blocks = block_invariants(p4, PTR)
    torch.testing.assert_close(blocks[places], pair_invariants(p4, ends))
    a, b = p4[ends[0]], p4[ends[1]]
    metric = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(inner(a, b), (a * b * metric).sum(1))
    torch.testing.assert_close(blocks[places, 1], psi((a * b * metric).sum(1)))
    torch.testing.assert_close(blocks[places, 0], psi(((a - b) ** 2 * metric).sum(1)))
    assert blocks.shape == (30, 2)
    torch.testing.assert_close(blocks.sum(0), blocks[places].sum(0))  # nothing but zeros on the diagonals
    assert torch.autograd.gradcheck(lambda p4: block_invariants(p4, PTR), (p4,))


def test_psi_is_odd_and_logarithmic() -> None:
    torch.testing.assert_close(psi(torch.tensor([1 - torch.e, 0.0, torch.e**2 - 1])), torch.tensor([-1.0, 0.0, 2.0]))


def test_moments_are_those_of_every_pair() -> None:
    a, b, w, p4 = random(10, WIDTH, seed=1), random(10, WIDTH, seed=2), random(2, WIDTH, seed=3), four_vectors()
    ends, _ = all_pairs()
    values = a[ends[0]] + b[ends[1]] + pair_invariants(p4, ends) @ w
    found = Moments.apply(a, b, w, block_invariants(p4, PTR), PTR, block_places(PTR))
    torch.testing.assert_close(found, torch.stack([values.sum(0), values.square().sum(0)]))

    def function(a: Tensor, b: Tensor, w: Tensor, p4: Tensor) -> Tensor:
        return Moments.apply(a, b, w, block_invariants(p4, PTR), PTR, block_places(PTR))

    assert torch.autograd.gradcheck(function, (a, b, w, p4))


@pytest.mark.parametrize("rows_at_once", [1, 5, 2048])
@pytest.mark.parametrize(("moves", "by_difference"), [(True, True), (True, False), (False, True)])
def test_messages_have_the_right_derivatives(
    moves: bool, by_difference: bool, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a jet has more pairs than are computed together."""
    monkeypatch.setattr(lorentz_messages, "ROWS_AT_ONCE", rows_at_once)
    shapes = [
        (10, WIDTH),
        (10, WIDTH),
        (2, WIDTH),
        (WIDTH, WIDTH),
        (WIDTH,),
        (WIDTH,),
        (1,),
        (WIDTH, WIDTH),
        (WIDTH,),
        (WIDTH,),
    ]
    weights = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        *weights, p4 = tensors
        return Messages.apply(How(moves, by_difference, True), *weights, p4, block_invariants(p4, PTR), PTR)

    assert torch.autograd.gradcheck(function, (*weights, four_vectors()))


def test_large_moves_are_clamped() -> None:
    shapes = [
        (10, WIDTH),
        (10, WIDTH),
        (2, WIDTH),
        (WIDTH, WIDTH),
        (WIDTH,),
        (WIDTH,),
        (1,),
        (WIDTH, WIDTH),
        (WIDTH,),
        (WIDTH,),
    ]
    weights = [random(*shape, seed=seed).abs().detach() for seed, shape in enumerate(shapes)]
    p4 = (1e4 * four_vectors().detach()).requires_grad_()
    parts = (p4, torch.zeros(30, 2, dtype=torch.float64), PTR)
    _, move = Messages.apply(How(True, True, True), *weights, *parts)
    move.sum().backward()
    assert move.abs().max() == 100
    assert move[5].tolist() == [0] * 4  # it is alone in its jet
    assert not p4.grad.any()
