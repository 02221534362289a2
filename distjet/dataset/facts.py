"""What does the manifest say about a dataset? As plain values; no shard is opened."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distjet.dataset.manifest import Manifest
from distjet.dataset.schema import SPLITS


def facts(manifest: Manifest) -> dict[str, Any]:
    """Collect what a manifest says, as plain values.

    Returns:
        `path`, `identity` (fingerprints, seed, split fractions, versions), `rows` (per split and sample), `classes` (training
        rows), `accounting` (jets), `inputs` (files), `graph`, `storage` and `columns` (with statistics of the training rows).
    """
    content = manifest.content
    return {
        "path": str(manifest.path),
        "identity": _identity(content),
        "rows": {split: _rows(manifest, split) for split in SPLITS},
        "classes": manifest.class_counts,
        "accounting": content["accounting"] | {"repeated_identities": content["repeated_identities"]},
        "inputs": _inputs(content["inputs"]),
        "graph": _graph(manifest),
        "storage": _storage(manifest),
        "columns": [column | content["statistics"].get(column["name"], {}) for column in content["columns"]],
    }


def _identity(content: Mapping[str, Any]) -> dict[str, Any]:
    config = content["config"]
    train, val = config["split"]["train"], config["split"]["val"]
    return {
        "fingerprint": content["fingerprint"],
        "content": content["content"],
        "seed": config["seed"],
        "fractions": {"train": train, "val": val, "test": round(1 - train - val, 12)},
        "conditions": config["recipe"].get("split", {}),
        "schema_version": content["schema_version"],
        "created_with": content["created_with"],
    }


def _rows(manifest: Manifest, split: str) -> dict[str, Any]:
    samples: Counter[str] = Counter(dict.fromkeys(manifest.samples, 0))
    for shard in manifest.shards(split):
        samples.update(shard.sample_rows)
    return {"total": manifest.num_rows(split), "samples": dict(samples)}


def _inputs(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = ("path", "sample", "fate", "reason")
    return {
        "files": len(files),
        "fates": dict(Counter(file["fate"] for file in files)),
        "size_bytes": sum(file["size_bytes"] for file in files),
        "entries": sum(file["entries"] for file in files),
        "hashed": sum(file.get("xxh3_128") is not None for file in files),
        "checksums": sum(file.get("checksum") is not None for file in files),
        "page_checksums": sum(file.get("page_checksums") is True for file in files),
        "not_used": [{key: file[key] for key in keys} for file in files if file["fate"] != "used"],
    }


def _graph(manifest: Manifest) -> dict[str, Any]:
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    rows = max(sum(shard.rows for shard in shards), 1)
    return {
        "kind": manifest.content["graph"],
        "mean_nodes": sum(shard.nodes for shard in shards) / rows,
        "mean_edges": sum(shard.edges for shard in shards) / rows if manifest.names("edge") else None,
        "largest_graph": max((shard.largest_graph for shard in shards), default=0),
    }


def _storage(manifest: Manifest) -> dict[str, Any]:
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    size_bytes = sum(shard.size_bytes for shard in shards)
    return {
        "size_bytes": size_bytes,
        "bytes_per_jet": size_bytes / max(sum(shard.rows for shard in shards), 1),
        "shards": len(shards),
        "row_groups": sum(len(shard.row_groups) for shard in shards),
    }
