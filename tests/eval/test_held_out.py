import torch

from eval.held_out import held_out_rows


def test_a_tenth_of_each_class_is_held_out_and_one_image_is_always_left() -> None:
    labels = torch.tensor([0] * 100 + [1] * 15 + [2] * 2 + [3])
    held_out = held_out_rows(labels, 5)
    assert torch.bincount(labels[held_out], minlength=5).tolist() == [10, 2, 1, 0, 0]
    assert torch.equal(held_out, held_out_rows(labels, 5))


def test_images_are_held_out_all_over_a_class() -> None:
    held_out = held_out_rows(torch.zeros(10_000, dtype=torch.int64), 1)
    thirds = [int(part.sum()) for part in held_out.split(3334)]
    assert sum(thirds) == 1000
    assert all(abs(third - 333) < 60 for third in thirds)
