"""Which part of a distributed run is this process?

One frozen value, built once in `distjet.cluster` and passed down; nothing below detects its rank from the environment. Data are
sharded by WORLD rank, devices chosen by LOCAL rank, and the main process is `world_rank == 0`: on two nodes a local rank stands
for two processes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RankInfo:
    """Position of one process among all processes of a run."""

    world_rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    num_nodes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.world_rank < self.world_size:
            raise ValueError(f"world_rank must be in [0, {self.world_size}); got {self.world_rank}")

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.world_rank == 0


SINGLE = RankInfo()
