"""Layers, graph operations and losses that know no dataset."""
