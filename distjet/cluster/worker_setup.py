"""What does every process of a cluster of our own do first?

Ray starts many of them, so nothing heavy is imported here.
"""

import os


def tell_which_cluster() -> None:
    """Name its cluster to a worker's process: parts of Ray look for any on the machine, and may find that of somebody else."""
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
