import pytest

from distjet.ranks import RankInfo


def test_main_is_the_first_process_of_the_run_not_of_the_node() -> None:
    second_node = RankInfo(world_rank=4, world_size=8, local_rank=0, num_nodes=2)
    assert not second_node.is_main
    assert RankInfo(world_rank=0, world_size=8, local_rank=0, num_nodes=2).is_main


def test_impossible_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"world_rank must be in \[0, 2\); got 2"):
        RankInfo(world_rank=2, world_size=2)
