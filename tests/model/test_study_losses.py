import numpy as np
import pytest
import rank_functions
import reference
import reference_losses
import torch
from rank_pool import RankPool
from torch import Tensor

from model.config import LossConfig
from model.loss import contrastive_loss, nt_xent

CONFIGS = {
    f"{name}, {'semi-hard' if semi_hard else 'all'}, margin {margin}": LossConfig(
        name=name,
        temperature=0.3,
        semi_hard=semi_hard,
        margin=margin,
    )
    for name in ("nt_logistic", "margin_triplet")
    for semi_hard in (False, True)
    for margin in (0.2, 0.8)
}


def projections(rows: int = 12, dim: int = 5, seed: int = 0) -> Tensor:
    """Pairs that lie nearer than chance, as in training."""
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randn(2, rows // 2, dim, dtype=torch.float64, generator=generator)
    return torch.cat([first, first + 0.7 * noise])


def loops(config: LossConfig, z: "np.typing.NDArray[np.float64]") -> float:
    if config.name == "nt_logistic":
        return reference_losses.nt_logistic(z, config.temperature, config.margin, semi_hard=config.semi_hard)
    return reference_losses.margin_triplet(z, config.margin, semi_hard=config.semi_hard)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("rows", [4, 12])
def test_value_and_gradient_are_those_of_loops(rows: int, config: LossConfig) -> None:
    z = projections(rows).requires_grad_()
    loss = contrastive_loss(config, z)
    loss.backward()
    values = z.detach().numpy()
    assert loss.item() == pytest.approx(loops(config, values), rel=1e-12)
    assert z.grad is not None
    gradient = reference.numeric_gradient(lambda x: loops(config, x), values)
    assert np.abs(z.grad.numpy() - gradient).max() < 1e-7


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_value_and_gradient_over_ranks_are_those_of_one_process(config: LossConfig, two_ranks: RankPool) -> None:
    z = projections(16).requires_grad_()
    whole = contrastive_loss(config, z)
    whole.backward()
    answers = two_ranks.run(rank_functions.study_loss_and_gradient, config, z.detach())
    assert sum(float(loss) for loss, _ in answers) / 2 == pytest.approx(whole.item(), rel=1e-12)
    halves = [gradient.chunk(2) for _, gradient in answers]
    assert z.grad is not None
    gradient = torch.cat([torch.cat([half[view] for half in halves]) for view in range(2)])
    assert torch.allclose(gradient, z.grad, rtol=1e-10, atol=1e-14)


def test_an_anchor_without_semi_hard_negatives_has_no_negative_term() -> None:
    z = torch.eye(4, dtype=torch.float64).repeat(2, 1)  # negatives are farther than the positive by more than 0.8
    config = LossConfig(name="margin_triplet", semi_hard=True, margin=0.8)
    assert contrastive_loss(config, z).item() == 0


def test_nt_xent_is_chosen_with_its_settings() -> None:
    z = projections()
    config = LossConfig(temperature=0.2, l2_normalise=False)
    assert torch.equal(contrastive_loss(config, z), nt_xent(z, 0.2, l2_normalise=False))


def test_semi_hard_negatives_of_nt_xent_are_refused() -> None:
    with pytest.raises(ValueError, match="NT-Xent weighs all negatives"):
        LossConfig(semi_hard=True)
