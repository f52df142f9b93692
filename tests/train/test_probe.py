import learning_on_ranks
import pytest
import torch
from rank_pool import RankPool
from torch import Tensor

from train.probe import Probe

CPU = torch.device("cpu")


def toy_batches(count: int, unlabelled: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Two views each of 16 samples of three separable classes; h (32, 5), labels (16,)."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.eye(3, 5, dtype=torch.float64)
    batches = []
    for _ in range(count):
        labels = torch.randint(0, 3, (16,), generator=generator)
        noise = torch.randn(2, 16, 5, dtype=torch.float64, generator=generator)
        h = (centres[labels] + noise).flatten(0, 1)
        if unlabelled:
            labels[::3] = -1
        batches.append((h, labels))
    return batches


def test_it_learns_what_a_line_can_separate() -> None:
    probe = Probe(5, 3, 0.05, CPU)
    for h, labels in toy_batches(100):
        probe.update(h, labels)
    probe.accuracy()
    for h, labels in toy_batches(5):
        probe.update(h, labels)
    assert float(probe.accuracy()) > 0.9


def test_accuracy_is_that_before_learning_and_starts_anew_when_read() -> None:
    probe = Probe(5, 3, 0.05, CPU)
    h, labels = toy_batches(1)[0]
    probe.update(h, labels)
    assert float(probe.accuracy()) == pytest.approx(float((labels == 0).double().mean()))  # zero weights say class 0
    assert probe.accuracy().isnan()


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_learn_what_one_process_would(
    world_size: int, unlabelled: bool, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    batches = toy_batches(6, unlabelled)
    state, accuracy = learning_on_ranks.probe_after(batches)
    for theirs, their_accuracy in {2: two_ranks, 4: four_ranks}[world_size].run(learning_on_ranks.probe_after, batches):
        assert their_accuracy == pytest.approx(accuracy)
        for name in ("weight", "bias", "weight/exp_avg"):
            assert torch.allclose(theirs[name], state[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
def test_what_one_rank_saved_between_readings_resumes_the_accuracy_of_all(
    world_size: int, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    ranks = {2: two_ranks, 4: four_ranks}[world_size]
    batches = toy_batches(6, unlabelled=True)
    _, accuracy = learning_on_ranks.probe_after(batches)
    saved, _ = ranks.run(learning_on_ranks.probe_after, batches[:3])[0]
    for theirs in ranks.run(learning_on_ranks.accuracy_resumed, batches[3:], saved):
        assert theirs == pytest.approx(accuracy)


def test_views_without_label_teach_nothing() -> None:
    h, labels = toy_batches(1)[0]
    some = labels.clone()
    some[8:] = -1
    first, second = Probe(5, 3, 0.05, CPU), Probe(5, 3, 0.05, CPU)
    first.update(h, some)
    second.update(torch.cat([h[:8], h[16:24]]), labels[:8])
    assert torch.allclose(first.weight, second.weight)
    assert float(first.accuracy()) == float(second.accuracy())
    none = Probe(5, 3, 0.05, CPU)
    none.update(h, torch.full_like(labels, -1))
    assert not none.weight.any()


def test_it_neither_draws_random_numbers_nor_reaches_into_the_encoder() -> None:
    h, labels = toy_batches(1)[0]
    h.requires_grad_()
    before = torch.get_rng_state()
    probe = Probe(5, 3, 0.05, CPU)
    probe.update(h, labels)
    assert h.grad is None
    assert probe.weight.grad is not None
    assert probe.weight.grad.grad_fn is None
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scale_of_a_representation_does_not_matter() -> None:
    first, second = Probe(5, 3, 0.05, CPU), Probe(5, 3, 0.05, CPU)
    for h, labels in toy_batches(3):
        first.update(h, labels)
        second.update(1000 * h, labels)
    assert torch.allclose(first.weight, second.weight, rtol=1e-4)


def test_a_probe_restored_in_the_middle_goes_on_as_if_it_had_never_stopped() -> None:
    batches = toy_batches(6)
    whole, first, second = (Probe(5, 3, 0.05, CPU) for _ in range(3))
    for h, labels in batches:
        whole.update(h, labels)
    for h, labels in batches[:3]:
        first.update(h, labels)
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    counted = saved["counted"].clone()
    second.restore(saved)
    for h, labels in batches[3:]:
        second.update(h, labels)
    assert torch.equal(saved["counted"], counted)  # restored from, not shared
    assert whole.state().keys() == second.state().keys()
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in whole.state().items())
