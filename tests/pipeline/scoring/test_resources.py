import pytest

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ComputeConfig
from pipeline.scoring.resources import Scorers, choose_scorers


@pytest.mark.parametrize(
    ("nodes", "compute", "expected"),
    [
        ([{"CPU": 2}], {}, Scorers(2, 0, 0, False)),
        ([{"CPU": 1}], {}, Scorers(1, 0, 0, True)),
        ([], {}, Scorers(1, 0, 0, True)),
        ([{"CPU": 1}, {"CPU": 2}], {}, Scorers(3, 0, 0, False)),
        ([{"CPU": 2}] * 8, {}, Scorers(16, 0, 0, False)),
        ([{"CPU": 3}], {}, Scorers(3, 0, 0.01, False)),
        ([{"CPU": 2}], {"scorers": 1}, Scorers(1, 0, 0, True)),
        ([{"CPU": 2}], {"scorers": 2, "compile": True}, Scorers(2, 0, 0, True)),
        ([{"CPU": 2}], {"scorers": 1, "compile": False}, Scorers(1, 0, 0, False)),
        ([{}, {"CPU": 16}], {}, Scorers(16, 0, 0.01, False)),
        ([{"CPU": 16, "GPU": 8}], {}, Scorers(8, 1, 0.01, False)),
        ([{"CPU": 2}, {"CPU": 8, "GPU": 4}], {}, Scorers(4, 1, 0.01, False)),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_scorer": 0.5}, Scorers(4, 0.5, 0.01, False)),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_scorer": 0.4}, Scorers(4, 0.4, 0.01, False)),
        ([{"CPU": 16, "GPU": 3}] * 2, {"gpus_per_scorer": 2}, Scorers(2, 2, 0.01, False)),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_scorer": 0}, Scorers(16, 0, 0.01, False)),
        ([{"CPU": 16, "GPU": 2}], {"scorers": 1}, Scorers(1, 1, 0.01, False)),
        ([{"CPU": 16, "GPU": 2}], {"compile": True}, Scorers(2, 1, 0.01, True)),
    ],
)
def test_scorers_fit_the_cluster_and_leave_room_to_load(nodes, compute, expected):
    assert choose_scorers(ComputeConfig(**compute), nodes, num_pairs=9_000) == expected


@pytest.mark.parametrize(
    ("nodes", "compute", "may_load", "expected"),
    [
        ([{"CPU": 2}], {}, True, True),
        ([{"CPU": 2}], {}, False, False),
        ([{"CPU": 2}], {"scorers": 1}, True, False),
        ([{"CPU": 2}, {"CPU": 2}], {"scorers": 5}, True, True),
        ([{"CPU": 1, "GPU": 1}], {}, True, False),
        ([], {}, True, False),
    ],
)
def test_scorers_load_images_if_they_may_and_no_cpu_is_left_to_load_them(
    nodes, compute, may_load, expected
):
    compute = ComputeConfig(**compute)
    assert choose_scorers(compute, nodes, 9_000, may_load=may_load).load_images is expected


@pytest.mark.parametrize(("num_rows", "compiles"), [(11_999, False), (12_000, True)])
def test_kernels_are_compiled_if_scorers_on_cpus_have_enough_pairs(num_rows, compiles):
    assert choose_scorers(ComputeConfig(), [{"CPU": 2}], num_rows).compile_kernels is compiles
    assert not choose_scorers(ComputeConfig(), [{"CPU": 2, "GPU": 1}], num_rows).compile_kernels


@pytest.mark.parametrize(("num_rows", "scorers"), [(0, 1), (999, 1), (1_000, 2), (9_000, 16)])
def test_a_short_manifest_gets_few_scorers(num_rows, scorers):
    assert choose_scorers(ComputeConfig(), [{"CPU": 16}], num_rows).num_scorers == scorers
    assert choose_scorers(ComputeConfig(scorers=3), [{"CPU": 16}], num_rows).num_scorers == 3


def test_gpus_that_no_node_has_are_refused_unless_the_number_of_scorers_is_given():
    with pytest.raises(ContractError, match="expected at most the 0 GPUs of a node, got 1"):
        choose_scorers(ComputeConfig(gpus_per_scorer=1), [{"CPU": 4}], 1)
    with pytest.raises(ContractError, match="expected at most the 1 GPUs of a node, got 2"):
        choose_scorers(ComputeConfig(gpus_per_scorer=2), [{"CPU": 4, "GPU": 1}] * 2, 1)
    assert (
        choose_scorers(ComputeConfig(gpus_per_scorer=1, scorers=3), [{"CPU": 8}], 1).num_scorers
        == 3
    )
