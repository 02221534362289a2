"""Where does a worker of Ray Train stand?"""

from distjet.ranks import RankInfo


def from_ray() -> RankInfo:
    """Build the RankInfo of the calling Ray Train worker."""
    from ray import train

    context = train.get_context()
    local_sizes = context.get_local_world_size()
    return RankInfo(
        world_rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        num_nodes=max(1, context.get_world_size() // max(local_sizes, 1)),
    )
