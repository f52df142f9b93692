import rank_functions
import torch
from rank_pool import RankPool


def test_gradients_of_collectives_are_those_of_the_sum_of_all_losses(two_ranks: RankPool) -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], dtype=torch.float64)
    answers = two_ranks.run(rank_functions.sum_of_collectives, x)
    everything = x.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for rank in range(2):
        weights = torch.tensor([1.0, 2.0], dtype=torch.float64) * (1 + rank)
        total = total + (everything * weights[:, None]).sum() + (everything.sum(0) ** 2).sum() * (1 + rank)
    total.backward()
    assert everything.grad is not None
    assert torch.allclose(sum(loss for loss, _ in answers), total)
    assert torch.allclose(torch.stack([gradient for _, gradient in answers]), everything.grad)
