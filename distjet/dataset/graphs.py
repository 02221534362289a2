"""Which constituents of a jet are neighbours? The Delaunay triangulation in (eta, phi), exact and for many small jets at once.

Coordinates are rounded to a grid of 2^-20 (1e-6 rad, far below any detector's resolution). On integers, "left or right of a
line" is exact in 64 bits, and "inside or outside of a circle" is decided by floating point where that is certain and by 3 x
24-bit limbs where it is not. So the result is the same on every machine and for every order of the constituents, and
calorimeter towers on a regular grid, points on a line and points on a circle are handled without joggling.

Points are added in lexicographic order to the hull of those before them, then edges are flipped until each is locally Delaunay
(Lawson). Points with the same coordinates are chained to the first of them; points on one line become a path.
"""

import numpy as np
from numba import njit

from distjet.dataset.edges import MAX_NODES, Edges
from distjet.errors import DataError

GRID = float(1 << 20)
"Grid points per unit of eta or phi."
MAX_COORDINATE = 8.0
"Coordinates must be smaller, for the integer arithmetic to be exact."

_LIMB_BITS = 24
_LIMB_MASK = (1 << _LIMB_BITS) - 1
_CIRCLE_ERROR = 8.9e-16  # bound on the relative rounding error of the floating-point determinant, 8 units of 2^-53
START, TWIN, AFTER, BEFORE, EDGE, STACK = range(6)
_HULL = -1  # twin of a half-edge on the hull


def delaunay_edges(delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> Edges:
    """Triangulate the constituents of many jets.

    Args:
        delta_eta: Pseudorapidity relative to the jet axis, shape (P,).
        delta_phi: Azimuth relative to the jet axis in rad, wrapped to [-pi, pi), shape (P,).
        offsets: Where each jet's constituents start, shape (J + 1,).

    Returns:
        Edges with local indices.

    Raises:
        DataError: If a coordinate is not finite or not below 8, or a jet has more than 65535 constituents.

    Reference:
        C. L. Lawson, "Software for C1 surface interpolation", Mathematical Software III (1977) 161.
    """
    eta, phi = (np.ascontiguousarray(values, dtype=np.float64) for values in (delta_eta, delta_phi))
    starts = np.ascontiguousarray(offsets, dtype=np.int64)
    if not (in_range(eta).all() and in_range(phi).all()):
        raise DataError(f"coordinates of constituents must be finite and below {MAX_COORDINATE} relative to the jet axis")
    most = int(np.diff(starts).max(initial=0))
    if most > MAX_NODES:
        raise DataError(f"a graph can have {MAX_NODES} constituents (got {most})")
    capacity = 3 * len(eta) + 1
    source, target = np.empty(capacity, np.uint16), np.empty(capacity, np.uint16)
    edge_offsets = np.zeros(len(starts), np.int64)
    count = _triangulate_all(eta, phi, starts, source, target, edge_offsets)
    return Edges(source[:count], target[:count], edge_offsets)


def in_range(coordinate: np.ndarray) -> np.ndarray:
    """Tell which coordinates can be triangulated; false for NaN and infinity."""
    return np.abs(coordinate) < MAX_COORDINATE


@njit(cache=True, nogil=True)
def _triangulate_all(eta, phi, offsets, source, target, edge_offsets):  # type: ignore[no-untyped-def]
    """Triangulate each jet into the flat edge arrays; returns the number of edges."""
    largest = 0
    for jet in range(len(offsets) - 1):
        largest = max(largest, offsets[jet + 1] - offsets[jet])
    x, y = np.empty(largest, np.int64), np.empty(largest, np.int64)
    order = np.empty(largest, np.int32)
    mesh = _new_mesh(largest)
    edges, sorted_edges = np.empty(3 * largest + 1, np.int64), np.empty(3 * largest + 1, np.int64)
    first_edge = np.empty(largest + 1, np.int64)
    total = 0
    for jet in range(len(offsets) - 1):
        first, size = offsets[jet], offsets[jet + 1] - offsets[jet]
        for i in range(size):
            x[i] = np.int64(np.rint(eta[first + i] * GRID))
            y[i] = np.int64(np.rint(phi[first + i] * GRID))
        count = _triangulate(x[:size], y[:size], order, mesh, edges)
        _sort_edges(edges, count, first_edge[: size + 1], sorted_edges)
        for i in range(count):
            source[total + i] = sorted_edges[i] >> 16
            target[total + i] = sorted_edges[i] & 0xFFFF
        total += count
        edge_offsets[jet + 1] = total
    return total


@njit(cache=True, nogil=True)
def _new_mesh(size):  # type: ignore[no-untyped-def]
    """Allocate a triangulation of up to `size` points, as one array with a row for each kind of link.

    Half-edge h belongs to triangle h // 3, starts at point mesh[START, h], ends where the next one of its triangle starts, and
    has its triangle on the left. mesh[TWIN, h] is the same edge seen from the other side. On the hull, counter-clockwise, point
    p is followed by mesh[AFTER, p], preceded by mesh[BEFORE, p], and mesh[EDGE, p] is the half-edge that starts there.
    mesh[STACK] holds half-edges that are still to be checked.
    """
    return np.empty((6, 12 * size + 3), np.int32)


@njit(cache=True, nogil=True)
def _triangulate(x, y, order, mesh, edges):  # type: ignore[no-untyped-def]
    """Find the edges of one point set, packed as smaller << 16 | larger, unsorted; returns their number."""
    size = len(x)
    _sort_points(x, y, order[:size])
    distinct, count = _chain_duplicates(x, y, order[:size], edges)
    points = order[:distinct]
    line = _length_of_line(x, y, points)
    if line == distinct:
        for i in range(distinct - 1):
            edges[count] = _pack(points[i], points[i + 1])
            count += 1
        return count
    triangles = _fan(x, y, points, line, mesh)
    for i in range(line + 1, distinct):
        triangles = _add_point(x, y, points[i - 1], points[i], mesh, triangles)
    return _collect(mesh, triangles, edges, count)


@njit(cache=True, nogil=True)
def _pack(a, b):  # type: ignore[no-untyped-def]
    return (np.int64(min(a, b)) << 16) | np.int64(max(a, b))


@njit(cache=True, nogil=True)
def _sort_edges(edges, count, first, sorted_edges):  # type: ignore[no-untyped-def]
    """Sort packed edges: buckets by the smaller end, which are short, then insertion."""
    first[:] = 0
    for i in range(count):
        first[(edges[i] >> 16) + 1] += 1
    for point in range(1, len(first)):
        first[point] += first[point - 1]
    for i in range(count):
        point = edges[i] >> 16
        sorted_edges[first[point]] = edges[i]
        first[point] += 1
    for i in range(1, count):
        edge, place = sorted_edges[i], i
        while place > 0 and sorted_edges[place - 1] > edge:
            sorted_edges[place] = sorted_edges[place - 1]
            place -= 1
        sorted_edges[place] = edge


@njit(cache=True, nogil=True)
def _sort_points(x, y, order):  # type: ignore[no-untyped-def]
    """Order point numbers by (x, y, number)."""
    for i in range(len(order)):
        order[i] = i
    gap = len(order) // 2
    while gap > 0:
        for i in range(gap, len(order)):
            point, j = order[i], i
            while j >= gap and _is_after(x, y, order[j - gap], point):
                order[j] = order[j - gap]
                j -= gap
            order[j] = point
        gap = gap // 2


@njit(cache=True, nogil=True)
def _is_after(x, y, a, b):  # type: ignore[no-untyped-def]
    if x[a] != x[b]:
        return x[a] > x[b]
    if y[a] != y[b]:
        return y[a] > y[b]
    return a > b


@njit(cache=True, nogil=True)
def _chain_duplicates(x, y, order, edges):  # type: ignore[no-untyped-def]
    """Link points with the same coordinates to the first of them and move the distinct ones to the front."""
    distinct = count = 0
    for i in range(len(order)):
        point = order[i]
        if distinct > 0 and x[order[distinct - 1]] == x[point] and y[order[distinct - 1]] == y[point]:
            edges[count] = _pack(order[distinct - 1], point)
            count += 1
        else:
            order[distinct] = point
            distinct += 1
    return distinct, count


@njit(cache=True, nogil=True)
def _length_of_line(x, y, points):  # type: ignore[no-untyped-def]
    """Count the leading points that lie on one line."""
    length = min(2, len(points))
    while length < len(points) and _turn(x, y, points[0], points[1], points[length]) == 0:
        length += 1
    return length


@njit(cache=True, nogil=True)
def _turn(x, y, a, b, c):  # type: ignore[no-untyped-def]
    """Positive if a -> b -> c turns left, zero on a line; exact, below 2^50."""
    return (x[b] - x[a]) * (y[c] - y[a]) - (y[b] - y[a]) * (x[c] - x[a])


@njit(cache=True, nogil=True)
def _join(mesh, h, g):  # type: ignore[no-untyped-def]
    mesh[TWIN, h] = g
    mesh[TWIN, g] = h


@njit(cache=True, nogil=True)
def _put_on_hull(mesh, h, a, b):  # type: ignore[no-untyped-def]
    """Make half-edge h, from point a to point b, an edge of the hull."""
    mesh[TWIN, h] = _HULL
    mesh[EDGE, a] = h
    mesh[AFTER, a] = b
    mesh[BEFORE, b] = a


@njit(cache=True, nogil=True)
def _fan(x, y, points, line, mesh):  # type: ignore[no-untyped-def]
    """Connect the first point off the line with the points on it; returns the number of triangles."""
    apex = points[line]
    left = _turn(x, y, points[0], points[1], apex) > 0
    for t in range(line - 1):
        # counter-clockwise, so from the far end of the line if the apex is on its right
        a, b = (points[t], points[t + 1]) if left else (points[line - 1 - t], points[line - 2 - t])
        mesh[START, 3 * t], mesh[START, 3 * t + 1], mesh[START, 3 * t + 2] = a, b, apex
        _put_on_hull(mesh, 3 * t, a, b)
        if t > 0:
            _join(mesh, 3 * t + 2, 3 * (t - 1) + 1)
    last = line - 2
    _put_on_hull(mesh, 3 * last + 1, mesh[START, 3 * last + 1], apex)
    _put_on_hull(mesh, 2, apex, mesh[START, 0])
    return line - 1


@njit(cache=True, nogil=True)
def _add_point(x, y, rightmost, point, mesh, triangles):  # type: ignore[no-untyped-def]
    """Connect a point right of the hull with all hull edges that it sees, then restore the Delaunay property."""
    first = rightmost
    while _turn(x, y, mesh[BEFORE, first], first, point) < 0:
        first = mesh[BEFORE, first]
    last, previous, pending = first, _HULL, 0
    while _turn(x, y, last, mesh[AFTER, last], point) < 0:
        following, h = mesh[AFTER, last], 3 * triangles
        mesh[START, h], mesh[START, h + 1], mesh[START, h + 2] = following, last, point
        _join(mesh, h, mesh[EDGE, last])
        if previous == _HULL:
            lower = h + 1
        else:
            _join(mesh, h + 1, previous)
        previous = h + 2
        mesh[STACK, pending] = h
        pending += 1
        triangles += 1
        last = following
    _put_on_hull(mesh, lower, first, point)
    _put_on_hull(mesh, previous, point, last)
    _flip_until_delaunay(x, y, mesh, pending)
    return triangles


@njit(cache=True, nogil=True)
def _flip_until_delaunay(x, y, mesh, pending):  # type: ignore[no-untyped-def]
    """Flip the edges on the stack, and those around each flip, wherever a neighbour lies inside a triangle's circle."""
    while pending > 0:
        pending -= 1
        a = mesh[STACK, pending]
        b = mesh[TWIN, a]
        if b == _HULL:
            continue
        a_next, a_last = a - a % 3 + (a + 1) % 3, a - a % 3 + (a + 2) % 3
        b_next, b_last = b - b % 3 + (b + 1) % 3, b - b % 3 + (b + 2) % 3
        apex, opposite = mesh[START, a_last], mesh[START, b_last]
        if not _is_inside_circle(x, y, (mesh[START, a], mesh[START, a_next], apex), opposite):
            continue
        # a and b, which were two sides of the edge that goes, become those of the new one between the two apexes
        mesh[START, a], mesh[START, b] = opposite, apex
        _take_place(mesh, a, b_last)
        _take_place(mesh, b, a_last)
        _join(mesh, a_last, b_last)
        mesh[STACK, pending] = a
        mesh[STACK, pending + 1] = b_next
        pending += 2


@njit(cache=True, nogil=True)
def _take_place(mesh, h, old):  # type: ignore[no-untyped-def]
    """Let half-edge h stand where half-edge `old` stood, with its twin or on the hull."""
    g = mesh[TWIN, old]
    mesh[TWIN, h] = g
    if g == _HULL:
        mesh[EDGE, mesh[START, h]] = h
    else:
        mesh[TWIN, g] = h


@njit(cache=True, nogil=True)
def _is_inside_circle(x, y, triangle, p):  # type: ignore[no-untyped-def]
    """Tell whether p is strictly inside the circle through a counter-clockwise triangle; exact."""
    a, b, c = triangle
    ax, ay, bx, by, cx, cy = x[a] - x[p], y[a] - y[p], x[b] - x[p], y[b] - y[p], x[c] - x[p], y[c] - y[p]
    squares = (ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy)  # below 2^50
    minors = (bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx)
    t0 = float(squares[0]) * float(minors[0])
    t1 = float(squares[1]) * float(minors[1])
    t2 = float(squares[2]) * float(minors[2])
    determinant = t0 + t1 + t2
    error = (abs(t0) + abs(t1) + abs(t2)) * _CIRCLE_ERROR
    if abs(determinant) > error:
        return determinant > 0
    return _is_positive_sum_of_products(squares, minors)


@njit(cache=True, nogil=True)
def _is_positive_sum_of_products(left, right):  # type: ignore[no-untyped-def]
    """Tell whether left . right > 0 for three pairs below 2^50, in limbs of 24 bits."""
    high, middle, low = np.int64(0), np.int64(0), np.int64(0)
    for i in range(3):
        left_high, left_low = left[i] >> _LIMB_BITS, left[i] & _LIMB_MASK
        right_high, right_low = right[i] >> _LIMB_BITS, right[i] & _LIMB_MASK
        high += left_high * right_high
        middle += left_high * right_low + left_low * right_high
        low += left_low * right_low
    middle += low >> _LIMB_BITS
    high += middle >> _LIMB_BITS
    rest = (middle & _LIMB_MASK) | (low & _LIMB_MASK)
    return high > 0 or (high == 0 and rest != 0)


@njit(cache=True, nogil=True)
def _collect(mesh, triangles, edges, count):  # type: ignore[no-untyped-def]
    """Write each edge of the triangulation once; returns the number of edges."""
    for h in range(3 * triangles):
        if mesh[TWIN, h] < h:  # the second side of an inner edge, or an edge of the hull
            edges[count] = _pack(mesh[START, h], mesh[START, h - h % 3 + (h + 1) % 3])
            count += 1
    return count
