"""cluster.yaml is what `ray up` accepts, checked with Ray's own schema and without a cloud."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.mark.integration
def test_cluster_yaml_passes_rays_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = yaml.safe_load(CLUSTER.read_text())
    validate_config(prepare_config(cluster))
    assert cluster["head_node_type"] in cluster["available_node_types"]
    # the schema does not look into these two
    assert set(cluster["provider"]) == {"type", "region", "availability_zone", "cache_stopped_nodes"}
    assert all(set(node["node_config"]) == {"InstanceType"} for node in cluster["available_node_types"].values())
