import pytest
import torch

from spips_core.fusion import PerceptronFusion, WeightedFusion


def perceptron(num_streams, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fusion = PerceptronFusion(num_streams).double()
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter, std=2)
    return fusion


@pytest.mark.parametrize("logits", [[0.0, 0, 0], [5.0, -3, 1], [-60.0, 0, 20], [0.3], [1.0, -1]])
def test_weights_are_positive_and_sum_to_1_for_any_parameters(logits):
    fusion = WeightedFusion(len(logits))
    fusion.logits.data = torch.tensor(logits)
    assert (fusion.weights > 0).all()
    assert fusion.weights.sum().item() == pytest.approx(1, abs=1e-6)


def test_weighted_score_is_the_sum_of_weight_times_mean():
    fusion = WeightedFusion(3)
    fusion.logits.data = torch.tensor([0.2, 0.3, 0.5]).log()
    means = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    assert torch.allclose(fusion(means), torch.tensor([2.8, 0.0, 2.0]))


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_perceptron_is_exactly_0_at_zero_and_positive_elsewhere(num_streams):
    for seed in range(5):
        fusion = perceptron(num_streams, seed)
        assert fusion(torch.zeros(4, num_streams, dtype=torch.float64)).tolist() == [0, 0, 0, 0]
        assert (fusion(1e-3 * torch.eye(num_streams, dtype=torch.float64)) > 0).all()


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_perceptron_rises_with_every_mean(num_streams):
    generator = torch.Generator().manual_seed(7)
    for seed in range(5):
        fusion = perceptron(num_streams, seed)
        means = torch.rand(50, num_streams, generator=generator, dtype=torch.float64)
        for stream in range(num_streams):
            higher = means.clone()
            higher[:, stream] += 1e-3
            assert (fusion(higher) > fusion(means)).all()


def test_perceptron_is_not_linear():
    fusion = perceptron(3, seed=0)
    means = torch.full((1, 3), 0.5, dtype=torch.float64)
    assert abs(fusion(2 * means) - 2 * fusion(means)).item() > 1e-3


def test_perceptron_scores_each_row_by_itself():
    fusion = perceptron(3, seed=0)
    means = torch.rand(6, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    alone = torch.cat([fusion(row[None]) for row in means])
    assert torch.allclose(fusion(means), alone, rtol=1e-12)
