"""Which topological clusters do the calorimeter's cells form, and what do they look like?

The 4-2-0 algorithm: a cell of |E| above 4 sigma seeds a cluster, cells above 2 sigma pass it on to their 26 neighbours
(periodic in azimuth), the last shell is taken whatever its energy. Two clusters that share cells above 2 sigma are one; a shell
cell between two clusters goes to the one whose first seed has the lower number. A cluster with several local maxima is then
split by steepest ascent; a maximum counts if it is a seed of at least `min_maximum_gev`, the cells below any other join the
neighbouring clusters, ring after ring. Clusters of negative energy are dropped.

Cells are numbered (eta * NUM_PHI + phi) * NUM_SAMPLINGS + sampling: a cell's neighbours in depth are adjacent in memory.

Reference:
    ATLAS Collaboration, "Topological cell clustering in the ATLAS calorimeters", arXiv:1603.02934.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, wrap_phi
from distjet.simulation.detector import CELL_ETA, CELL_PHI, GRID, MAX_ABS_ETA, NUM_ETA, NUM_PHI, NUM_SAMPLINGS
from distjet.simulation.samples import DetectorConfig

Indices = NDArray[np.int32]

DEPTHS = (0.6, 3.0, 7.0)
"Depth of the samplings' centres in nuclear interaction lengths."

CLUSTER_FIELDS = (
    "E",
    "eta",
    "phi",
    "fEM",
    "fHAD1",
    "fHAD2",
    "lambda",
    "r2",
    "density",
    "significance",
    "ncell",
    "emaxfrac",
    "fPU",
)
"Columns of `find_clusters`."
SAMPLING_FRACTIONS = ("fEM", "fHAD1", "fHAD2")
"Those of them that are shares of the energy."


class Thresholds(NamedTuple):
    """Seed and growth thresholds in units of the noise, and the smallest local maximum in GeV."""

    seed: float
    growth: float
    min_maximum_gev: float


class Cells(NamedTuple):
    """Energies of an event in GeV, each of shape GRID: measured, and deposited by the hard scatter and by pileup."""

    measured: Floats
    hard_scatter: Floats
    pileup: Floats


def thresholds(config: DetectorConfig) -> Thresholds:
    """Pick the numbers that the kernels need."""
    return Thresholds(config.seed_threshold, config.growth_threshold, config.min_maximum_gev)


def find_clusters(cells: Cells, noise_gev: Floats, cuts: Thresholds) -> Floats:
    """Build the clusters of one event.

    Args:
        cells: Energies of the event.
        noise_gev: Expected noise, shape (NUM_ETA, NUM_SAMPLINGS).
        cuts: Thresholds.

    Returns:
        One row per cluster of positive energy with the columns CLUSTER_FIELDS: energy (GeV), centre, energy fractions of the
        samplings, depth (interaction lengths), second moment of the distance to the centre, mean energy per cell area (GeV),
        significance, number of cells, energy fraction of the hottest cell, pileup's share of the true deposits.
    """
    significance = _significance(cells.measured, noise_gev)
    members, labels, num_groups = group_cells(significance, cuts.seed, cuts.growth)
    owners, num_clusters = split_at_maxima(cells.measured.ravel(), significance, members, (labels, num_groups), cuts)
    moments = _moments(cells, noise_gev, members, owners, num_clusters)
    return moments[moments[:, 0] > 0]


@njit(cache=True, nogil=True)
def _significance(energy: Floats, noise_gev: Floats) -> Floats:
    """Absolute energy over noise of every cell, float32, flat."""
    out = np.empty(NUM_ETA * NUM_PHI * NUM_SAMPLINGS, np.float32)
    cell = 0
    for i in range(NUM_ETA):
        for j in range(NUM_PHI):
            for k in range(NUM_SAMPLINGS):
                out[cell] = abs(energy[i, j, k]) / noise_gev[i, k]
                cell += 1
    return out


@njit(cache=True, nogil=True)
def _neighbours(cell: int, out: Indices) -> int:
    """Write the cell itself and its up to 26 neighbours to `out`; return their number."""
    column, k = divmod(cell, NUM_SAMPLINGS)
    i, j = divmod(column, NUM_PHI)
    count = 0
    for ii in range(max(i - 1, 0), min(i + 2, NUM_ETA)):
        for dj in range(-1, 2):
            jj = j + dj
            if jj < 0:
                jj += NUM_PHI
            elif jj >= NUM_PHI:
                jj -= NUM_PHI
            base = (ii * NUM_PHI + jj) * NUM_SAMPLINGS
            for kk in range(max(k - 1, 0), min(k + 2, NUM_SAMPLINGS)):
                out[count] = base + kk
                count += 1
    return count


@njit(cache=True, nogil=True)
def group_cells(significance: Floats, seed: float, growth: float) -> tuple[Indices, Indices, int]:
    """Grow groups of cells around seeds.

    Args:
        significance: |E| / noise of all cells, flat.
        seed: Threshold that starts a group.
        growth: Threshold that passes it on.

    Returns:
        The cells in groups, shape (M,), group after group; the group of every cell of the grid, -1 for none; number of groups.
    """
    labels = np.full(significance.size, -1, np.int32)
    members = np.empty(significance.size, np.int32)
    near = np.empty(27, np.int32)
    num_members = num_groups = 0
    for start in range(significance.size):
        if significance[start] <= seed or labels[start] >= 0:
            continue
        labels[start] = num_groups
        members[num_members] = start
        next_member, num_members = num_members, num_members + 1
        while next_member < num_members:
            cell = members[next_member]
            next_member += 1
            if significance[cell] <= growth:
                continue
            for n in range(_neighbours(cell, near)):
                if labels[near[n]] < 0:
                    labels[near[n]] = num_groups
                    members[num_members] = near[n]
                    num_members += 1
        num_groups += 1
    return members[:num_members].copy(), labels, num_groups


@njit(cache=True, nogil=True)
def split_at_maxima(
    energy: Floats, significance: Floats, members: Indices, groups: tuple[Indices, int], cuts: Thresholds
) -> tuple[Indices, int]:
    """Split groups at their local maxima.

    Args:
        energy: Energies of all cells in GeV, flat.
        significance: |E| / noise of all cells, flat.
        members: Cells in groups, shape (M,).
        groups: Group of every cell of the grid, and the number of groups.
        cuts: Which local maxima count.

    Returns:
        The cluster of every member, shape (M,), and the number of clusters.
    """
    labels, num_groups = groups
    splits, num_maxima = _find_maxima(energy, significance, members, groups, cuts)
    whole = np.full(num_groups, -1, np.int32)
    uphill = np.full(energy.size, -1, np.int32)
    owner = np.full(energy.size, -1, np.int32)
    waiting = np.empty(members.size, np.int32)
    num_clusters = num_waiting = 0
    for cell in members[splits]:
        if num_maxima[labels[cell]] > 1:
            owner[cell] = num_clusters
            num_clusters += 1
    for cell in members:
        group = labels[cell]
        if num_maxima[group] < 2:
            if whole[group] < 0:
                whole[group] = num_clusters
                num_clusters += 1
            owner[cell] = whole[group]
            continue
        owner[cell] = owner[_climb(cell, energy, labels, uphill)]
        if owner[cell] < 0:
            waiting[num_waiting] = cell
            num_waiting += 1
    _join_neighbours(waiting[:num_waiting], energy, labels, owner)
    return owner[members], num_clusters


@njit(cache=True, nogil=True)
def _find_maxima(
    energy: Floats, significance: Floats, members: Indices, groups: tuple[Indices, int], cuts: Thresholds
) -> tuple[NDArray[np.bool_], Indices]:
    """Find the local maxima that count: a flag per member, and their number per group."""
    labels, num_groups = groups
    num_maxima = np.zeros(num_groups, np.int32)
    splits = np.zeros(members.size, np.bool_)
    for m, cell in enumerate(members):
        if energy[cell] <= cuts.min_maximum_gev or significance[cell] <= cuts.seed:
            continue
        if _hottest_neighbour(cell, energy, labels) == cell:
            splits[m] = True
            num_maxima[labels[cell]] += 1
    return splits, num_maxima


@njit(cache=True, nogil=True)
def _join_neighbours(waiting: Indices, energy: Floats, labels: Indices, owner: Indices) -> None:
    """Give each waiting cell to the owner of its hottest owned neighbour, ring after ring, until none waits."""
    found = np.empty(waiting.size, np.int32)
    near = np.empty(27, np.int32)
    while waiting.size > 0:
        for w, cell in enumerate(waiting):
            found[w] = -1
            highest = -np.inf
            for n in range(_neighbours(cell, near)):
                owned = owner[near[n]] >= 0 and labels[near[n]] == labels[cell]
                if owned and energy[near[n]] > highest:
                    found[w], highest = owner[near[n]], energy[near[n]]
        owner[waiting] = found[: waiting.size]
        waiting = waiting[found[: waiting.size] < 0]


@njit(cache=True, nogil=True)
def _climb(cell: int, energy: Floats, labels: Indices, uphill: Indices) -> int:
    """Follow the steepest ascent to a local maximum; `uphill` remembers the steps already known."""
    while True:
        if uphill[cell] < 0:
            uphill[cell] = _hottest_neighbour(cell, energy, labels)
        if uphill[cell] == cell:
            return cell
        cell = uphill[cell]


@njit(cache=True, nogil=True)
def _hottest_neighbour(cell: int, energy: Floats, labels: Indices) -> int:
    """Find the cell of largest energy among a cell and its neighbours in the same group."""
    column, k = divmod(cell, NUM_SAMPLINGS)
    i, j = divmod(column, NUM_PHI)
    best, highest = cell, energy[cell]
    for ii in range(max(i - 1, 0), min(i + 2, NUM_ETA)):
        for dj in range(-1, 2):
            base = (ii * NUM_PHI + (j + dj) % NUM_PHI) * NUM_SAMPLINGS
            for near in range(base + max(k - 1, 0), base + min(k + 2, NUM_SAMPLINGS)):
                if energy[near] > highest and labels[near] == labels[cell]:
                    best, highest = near, energy[near]
    return best


@njit(cache=True, nogil=True)
def _moments(cells: Cells, noise_gev: Floats, members: Indices, owners: Indices, num_clusters: int) -> Floats:
    """Sum over cells, then normalise; distances are taken from each cluster's first cell, to keep digits and wrap azimuths."""
    rows = np.zeros((num_clusters, len(CLUSTER_FIELDS)))
    sums = np.zeros((num_clusters, 10))
    origin = np.full(num_clusters, -1, np.int32)
    measured, hard_scatter, pileup = cells.measured.ravel(), cells.hard_scatter.ravel(), cells.pileup.ravel()
    for m, cell in enumerate(members):
        cluster = owners[m]
        if origin[cluster] < 0:
            origin[cluster] = cell // NUM_SAMPLINGS
        column, k = divmod(cell, NUM_SAMPLINGS)
        i, j = divmod(column, NUM_PHI)
        first_i, first_j = divmod(origin[cluster], NUM_PHI)
        d_eta = (i - first_i) * CELL_ETA
        d_phi = ((j - first_j + NUM_PHI // 2) % NUM_PHI - NUM_PHI // 2) * CELL_PHI
        weight = max(measured[cell], 0.0)
        row, total = rows[cluster], sums[cluster]
        row[0] += measured[cell]
        row[3 + k] += weight
        row[10] += 1
        row[11] = max(row[11], weight)
        total[0] += weight
        total[1] += weight * d_eta
        total[2] += weight * d_phi
        total[3] += weight * (d_eta**2 + d_phi**2)
        total[4] += weight * weight
        total[5] += noise_gev[i, k] ** 2
        total[6] += hard_scatter[cell]
        total[7] += pileup[cell]
    for cluster in range(num_clusters):
        if rows[cluster, 0] > 0:
            _normalise(rows[cluster], sums[cluster], origin[cluster])
    return rows


@njit(cache=True, nogil=True)
def _normalise(row: Floats, total: Floats, origin: int) -> None:
    """Turn a cluster's sums into its moments, in place."""
    i, j = divmod(origin, NUM_PHI)
    weight = total[0]
    d_eta, d_phi = total[1] / weight, total[2] / weight
    row[1] = -MAX_ABS_ETA + CELL_ETA * (i + 0.5) + d_eta
    row[2] = (CELL_PHI * (j + 0.5) + d_phi) % (2 * math.pi) - math.pi
    for k in range(NUM_SAMPLINGS):
        row[3 + k] /= weight
        row[6] += row[3 + k] * DEPTHS[k]
    row[7] = max(total[3] / weight - d_eta**2 - d_phi**2, 0.0)
    row[8] = total[4] / weight / (CELL_ETA * CELL_PHI)
    row[9] = row[0] / math.sqrt(total[5])
    row[11] /= weight
    deposited = total[6] + total[7]
    row[12] = total[7] / deposited if deposited > 0 else 0.0


def cell_centres() -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Pseudorapidity, azimuth and sampling of every cell, flat; for tests and displays."""
    i, j, k = np.unravel_index(np.arange(math.prod(GRID)), GRID)
    return -MAX_ABS_ETA + CELL_ETA * (i + 0.5), wrap_phi(-math.pi + CELL_PHI * (j + 0.5)), k
