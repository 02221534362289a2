"""Edges as bytes: what goes in comes out, and bytes of another graph are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.graphs.edges import Edges, decode_edges, encode_edges, num_edges
from distjet.errors import DataError
from tests.dataset.files import pairs_of


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, int]]]]:
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 254, 255, 256, 257, 300]), max_size=6))
    result = []
    for size in sizes:
        node = st.integers(0, max(size - 1, 0))
        pairs = draw(st.sets(st.tuples(node, node).filter(lambda pair: pair[0] < pair[1]), max_size=40)) if size > 1 else set()
        if draw(st.booleans()):
            pairs |= {(0, end) for end in range(1, size)}  # the largest degree that there is
        result.append((size, sorted(pairs)))
    return result


def as_edges(given_graphs: list[tuple[int, list[tuple[int, int]]]]) -> tuple[Edges, np.ndarray]:
    flat = np.array([pair for _, pairs in given_graphs for pair in pairs], np.uint16).reshape(-1, 2)
    offsets = np.cumsum([0, *(len(pairs) for _, pairs in given_graphs)])
    return Edges(flat[:, 0].copy(), flat[:, 1].copy(), offsets), np.cumsum([0, *(size for size, _ in given_graphs)])


@settings(deadline=None)  # the first call compiles
@given(graphs())
def test_edges_survive_packing(given_graphs):
    edges, node_offsets = as_edges(given_graphs)
    packed, byte_offsets = encode_edges(edges, node_offsets)
    again = decode_edges(packed, byte_offsets, node_offsets)
    for mine, theirs in zip(again, edges, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(num_edges(np.diff(byte_offsets), np.diff(node_offsets)), np.diff(edges.offsets))
    for i, (size, pairs) in enumerate(given_graphs):
        row = {"num_nodes": size, "edges": packed[byte_offsets[i] : byte_offsets[i + 1]].tobytes()}
        assert pairs_of(row) == pairs
        assert len(row["edges"]) == (size + len(pairs)) * (2 if size > 255 else 1)


@pytest.mark.parametrize(
    ("size", "content"),
    [
        (3, [1, 0, 0]),  # a degree without its end
        (3, [1, 0, 0, 1, 2]),  # an end without its degree
        (3, [1, 0, 0, 3]),  # an end beyond the graph
        (3, [0, 1, 0, 1]),  # an end that is the node itself
        (3, [0, 0]),  # shorter than the degrees
        (256, [0] * 511),  # half a number
    ],
)
def test_bytes_that_are_no_edges_are_refused(size, content):
    packed = np.array([1, 0, 1, *content], np.uint8)
    with pytest.raises(DataError, match=f"row 1: its {len(content)} bytes of edges do not fit a graph of {size} nodes"):
        decode_edges(packed, np.array([0, 3, 3 + len(content)]), np.array([0, 2, 2 + size]))
