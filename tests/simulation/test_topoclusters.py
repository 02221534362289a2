import math
from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from distjet.simulation import detector
from distjet.simulation.detector import CELL_ETA, CELL_PHI, GRID, NUM_ETA, NUM_PHI, NUM_SAMPLINGS
from distjet.simulation.pileup import add_deposits, draw_overlay
from distjet.simulation.samples import DetectorConfig
from distjet.simulation.topoclusters import (
    CLUSTER_FIELDS,
    Cells,
    cell_centres,
    find_clusters,
    group_cells,
    split_at_maxima,
    thresholds,
)

NOISE_GEV = 0.25
CUTS = thresholds(DetectorConfig())
COLUMN = {name: number for number, name in enumerate(CLUSTER_FIELDS)}


@pytest.fixture(scope="module")
def busy_event(library):
    """Deposits of ten collisions and noise, and the expected noise."""
    rng = np.random.default_rng(11)
    hard_scatter, pileup = np.zeros(GRID), np.zeros(GRID)
    add_deposits(library, draw_overlay(library, 3, rng), hard_scatter)
    add_deposits(library, draw_overlay(library, 7, rng), pileup)
    hard_scatter[100, 0, 0] += 40.0  # two maxima of one cluster, across the seam in azimuth
    hard_scatter[100, NUM_PHI - 2, 0] += 30.0
    hard_scatter[100, NUM_PHI - 1, 0] += 5.0
    noise = np.full((NUM_ETA, NUM_SAMPLINGS), NOISE_GEV)
    measured = hard_scatter + pileup + rng.normal(0, NOISE_GEV, GRID)
    return Cells(measured, hard_scatter, pileup), noise


def padded(values, fill):
    """Surround the grid with `fill`, and azimuth with its other side."""
    wrapped = np.concatenate([values[:, -1:], values, values[:, :1]], axis=1)
    return np.pad(wrapped, ((1, 1), (0, 0), (1, 1)), constant_values=fill)


def reference_groups(significance):
    """Groups of cells from scipy: label, join over the seam, keep those with seeds, add the shell."""
    labels, num_labels = ndimage.label(significance > CUTS.growth, np.ones((3, 3, 3)))
    seam = [(a, b) for a, b in _neighbours_over_the_seam(labels) if a and b]
    rows, columns = np.array(seam, int).reshape(-1, 2).T
    _, joined = connected_components(coo_matrix((np.ones(len(rows)), (rows, columns)), (num_labels + 1,) * 2), directed=False)
    labels = np.where(labels > 0, joined[labels], -1)
    seeds = np.flatnonzero(significance.ravel() > CUTS.seed)
    order = list(dict.fromkeys(labels.ravel()[seeds].tolist()))
    groups = np.full(significance.shape, -1)
    for number, label in enumerate(order):
        shell = ndimage.binary_dilation(padded(labels == label, False), np.ones((3, 3, 3)))[1:-1, 1:-1, 1:-1]
        groups[shell & (groups < 0)] = number
    return groups, len(order)


def _neighbours_over_the_seam(labels):
    first, last = labels[:, 0], np.pad(labels[:, -1], 1)
    for d_eta in range(3):
        for d_depth in range(3):
            other = last[d_eta : d_eta + NUM_ETA, d_depth : d_depth + NUM_SAMPLINGS]
            yield from zip(first.ravel().tolist(), other.ravel().tolist(), strict=True)


def reference_split(energy, significance, groups):
    """Clusters by climbing cell by cell, in plain Python."""

    @cache
    def neighbours(cell):
        i, j, k = np.unravel_index(cell, GRID)
        around = [(i + a, (j + b) % NUM_PHI, k + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
        inside = [c for c in around if 0 <= c[0] < NUM_ETA and 0 <= c[2] < NUM_SAMPLINGS]
        return [n for n in (int(np.ravel_multi_index(c, GRID)) for c in inside) if groups[n] == groups[cell]]

    def summit(cell):
        best = max(neighbours(cell), key=lambda n: energy[n])
        return cell if best == cell else summit(best)

    members = np.flatnonzero(groups >= 0).tolist()
    summits = {cell: summit(cell) for cell in members}
    counting = {s for s in summits.values() if energy[s] > CUTS.min_maximum_gev and significance[s] > CUTS.seed}
    num_counting = Counter(int(groups[s]) for s in counting)
    owners = {c: s if num_counting[int(groups[c])] > 1 else -1 - int(groups[c]) for c, s in summits.items()}
    waiting = {cell for cell, owner in owners.items() if owner >= 0 and owner not in counting}
    while waiting:
        near = {cell: [n for n in neighbours(cell) if n not in waiting] for cell in waiting}
        joined = {cell: owners[max(around, key=lambda n: energy[n])] for cell, around in near.items() if around}
        owners |= joined
        waiting -= set(joined)
    return owners


def test_groups_agree_with_scipy(busy_event):
    cells, noise = busy_event
    significance = np.abs(cells.measured) / noise[:, np.newaxis]
    expected, num_expected = reference_groups(significance)
    members, labels, num_groups = group_cells(significance.ravel(), CUTS.seed, CUTS.growth)
    assert num_groups == num_expected > 20
    np.testing.assert_array_equal(labels, expected.ravel())
    np.testing.assert_array_equal(np.sort(members), np.flatnonzero(expected.ravel() >= 0))


def test_splitting_agrees_with_a_plain_climb(busy_event):
    cells, noise = busy_event
    energy, significance = cells.measured.ravel(), (np.abs(cells.measured) / noise[:, np.newaxis]).ravel()
    members, labels, num_groups = group_cells(significance, CUTS.seed, CUTS.growth)
    owners, num_clusters = split_at_maxima(energy, significance, members, (labels, num_groups), CUTS)
    expected = reference_split(energy, significance, labels)
    pairs = {(int(owner), expected[int(cell)]) for owner, cell in zip(owners, members, strict=True)}
    assert len(pairs) == num_clusters == len(set(expected.values())) > num_groups


def test_moments_agree_with_numpy(busy_event):
    cells, noise = busy_event
    significance = (np.abs(cells.measured) / noise[:, np.newaxis]).ravel().astype(np.float32)
    members, labels, num_groups = group_cells(significance, CUTS.seed, CUTS.growth)
    energy = cells.measured.ravel()
    owners, num_clusters = split_at_maxima(energy, significance, members, (labels, num_groups), CUTS)
    eta, phi, sampling = cell_centres()
    rows = find_clusters(cells, noise, CUTS)
    sums = [energy[members[owners == n]].sum() for n in range(num_clusters)]
    positive = [n for n in range(num_clusters) if sums[n] > 0]
    assert len(rows) == len(positive) > 20
    for row, n in zip(rows, positive, strict=True):
        own = members[owners == n]
        weight = np.maximum(energy[own], 0)
        centre = np.average(eta[own], weights=weight), np.angle(np.average(np.exp(1j * phi[own]), weights=weight))
        d_phi = np.angle(np.exp(1j * (phi[own] - row[COLUMN["phi"]])))
        spread = np.average((eta[own] - centre[0]) ** 2 + d_phi**2, weights=weight)
        deposits = cells.hard_scatter.ravel()[own].sum(), cells.pileup.ravel()[own].sum()
        assert row[COLUMN["E"]] == pytest.approx(energy[own].sum())
        assert row[COLUMN["eta"]] == pytest.approx(centre[0], abs=1e-9)
        assert row[COLUMN["phi"]] == pytest.approx(centre[1], abs=2e-3)  # mean angle against mean direction
        assert row[COLUMN["r2"]] == pytest.approx(spread, abs=1e-9)
        assert row[COLUMN["ncell"]] == len(own)
        assert row[COLUMN["significance"]] == pytest.approx(energy[own].sum() / (NOISE_GEV * math.sqrt(len(own))))
        assert row[COLUMN["emaxfrac"]] == pytest.approx(weight.max() / weight.sum())
        assert row[COLUMN["density"]] == pytest.approx((weight**2).sum() / weight.sum() / (CELL_ETA * CELL_PHI))
        for k, name in enumerate(("fEM", "fHAD1", "fHAD2")):
            assert row[COLUMN[name]] == pytest.approx(weight[sampling[own] == k].sum() / weight.sum())
        assert row[COLUMN["fPU"]] == pytest.approx(deposits[1] / sum(deposits) if sum(deposits) else 0.0)


def test_clusters_turn_with_the_event(busy_event):
    cells, noise = busy_event
    turned = Cells(*(np.roll(grid, 37, axis=1) for grid in cells))
    before, after = find_clusters(cells, noise, CUTS), find_clusters(turned, noise, CUTS)
    assert before[:, 0].sum() == pytest.approx(after[:, 0].sum(), rel=0.01)
    np.testing.assert_allclose(np.sort(before[:, 0])[-20:], np.sort(after[:, 0])[-20:], rtol=1e-3)


def test_a_single_cell_is_a_cluster_at_its_centre():
    measured = np.zeros(GRID)
    measured[98, 0, 1] = 10.0
    noise = np.full((NUM_ETA, NUM_SAMPLINGS), 0.05)
    (row,) = find_clusters(Cells(measured, measured, np.zeros(GRID)), noise, CUTS)
    expected = {"E": 10.0, "eta": CELL_ETA / 2, "phi": -math.pi + CELL_PHI / 2, "fHAD1": 1.0, "lambda": 3.0, "r2": 0.0,
                "ncell": 27, "emaxfrac": 1.0, "fPU": 0.0}  # fmt: skip
    for name, value in expected.items():
        assert row[COLUMN[name]] == pytest.approx(value, abs=1e-12), name


def test_noise_alone_makes_few_clusters():
    rng = np.random.default_rng(5)
    noise = detector.electronic_noise(DetectorConfig())
    quantiles = detector.gaussian_quantiles()
    numbers = []
    for _ in range(10):
        measured = np.zeros(GRID)
        draws = rng.integers(0, 65536, measured.size, dtype=np.uint16)
        detector.add_noise(measured, draws, quantiles, noise, np.zeros_like(noise))
        numbers.append(len(find_clusters(Cells(measured, np.zeros(GRID), np.zeros(GRID)), noise, CUTS)))
    assert 0.5 < np.mean(numbers) < 6  # 4.6 cells above 4 sigma are expected, half of them negative
