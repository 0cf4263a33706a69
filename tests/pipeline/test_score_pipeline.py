import pytest

from pipeline.config import ComputeConfig
from pipeline.errors import ContractError
from pipeline.score_pipeline import Workers, choose_workers


@pytest.mark.parametrize(
    ("cluster", "compute", "expected"),
    [
        ({"CPU": 2}, {}, Workers(1, 0, 0)),
        ({"CPU": 1}, {}, Workers(1, 0, 0)),
        ({}, {}, Workers(1, 0, 0)),
        ({"CPU": 3}, {}, Workers(1, 0, 1)),
        ({"CPU": 4}, {}, Workers(2, 0, 1)),
        ({"CPU": 2}, {"actors": 2}, Workers(2, 0, 0)),
        ({"CPU": 16}, {}, Workers(12, 0, 1)),
        ({"CPU": 16, "GPU": 8}, {}, Workers(8, 1, 1)),
        ({"CPU": 8, "GPU": 8}, {}, Workers(8, 1, 0)),
        ({"CPU": 16, "GPU": 2}, {"gpus_per_actor": 0.5}, Workers(4, 0.5, 1)),
        ({"CPU": 16, "GPU": 2}, {"gpus_per_actor": 0}, Workers(12, 0, 1)),
        ({"CPU": 16, "GPU": 2}, {"actors": 1}, Workers(1, 1, 1)),
    ],
)
def test_workers_fit_the_cluster_and_leave_room_to_load(cluster, compute, expected):
    assert choose_workers(ComputeConfig(**compute), cluster) == expected


def test_gpus_that_the_cluster_lacks_are_refused_unless_a_number_of_actors_is_waited_for():
    with pytest.raises(ContractError, match="expected 0 on a cluster without GPUs, got 1"):
        choose_workers(ComputeConfig(gpus_per_actor=1), {"CPU": 4})
    assert choose_workers(ComputeConfig(gpus_per_actor=1, actors=3), {"CPU": 8}).actors == 3
