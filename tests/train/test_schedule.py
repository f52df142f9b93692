import pytest
import reference

from train.config import OptimizerConfig
from train.schedule import learning_rate


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 40), (10, 100)])
def test_the_curve_is_the_reference_codes(warmup: int, total: int) -> None:
    for step in range(total + 1):
        ours = learning_rate(step, peak=4.8, warmup_steps=warmup, total_steps=total)
        assert ours == pytest.approx(reference.learning_rate(step, 4.8, warmup, total), abs=1e-12)


def test_it_starts_at_zero_peaks_after_warmup_and_ends_at_zero() -> None:
    rates = [learning_rate(step, peak=2.0, warmup_steps=10, total_steps=100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 2.0
    assert rates[100] == pytest.approx(0)


def test_a_run_that_is_all_warmup_does_not_divide_by_zero() -> None:
    assert learning_rate(5, peak=1.0, warmup_steps=5, total_steps=5) == 1.0


def test_scaling_rules_are_the_papers() -> None:
    assert OptimizerConfig(base_lr=0.3).peak_lr(4096) == pytest.approx(4.8)
    assert OptimizerConfig(base_lr=0.075, lr_scaling="sqrt").peak_lr(4096) == pytest.approx(4.8)
