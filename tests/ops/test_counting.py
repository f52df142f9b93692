"""The watch that the budgets of a step rest on."""

import gc
from collections import Counter

import torch

from ops.bench.counting import Watch, Work

KILOBYTE = 1024


def kilobyte() -> torch.Tensor:
    return torch.ones(KILOBYTE // 4)


def test_each_part_has_its_own_operators_and_bytes() -> None:
    x, part = kilobyte(), ["first"]
    watch = Watch(lambda: part[0])
    with watch:
        y = x + 1
        part[0] = "second"
        y.mul_(2).view(2, -1)
    first, second = watch.work["first"], watch.work["second"]
    assert first == Work(operators=Counter({"add.Tensor": 1}), bytes_moved=2 * KILOBYTE, held_bytes=KILOBYTE)
    operators = Counter({"mul_.Tensor": 1, "view.default": 1})
    assert second == Work(operators=operators, bytes_moved=2 * KILOBYTE, held_bytes=KILOBYTE)
    assert watch.total.dispatches == 3


def test_held_bytes_are_the_most_alive_at_once_and_saved_activations_are_among_them() -> None:
    x = kilobyte().requires_grad_()
    watch = Watch()
    with watch:
        y = x.exp().exp().exp()  # autograd keeps each result
    assert watch.total.held_bytes == 3 * KILOBYTE
    with torch.no_grad():
        freed = Watch()
        with freed:
            z = x.exp().exp().exp()
    assert freed.total.held_bytes == 2 * KILOBYTE
    del y, z


def test_views_inputs_and_what_is_changed_in_place_are_not_held() -> None:
    x, y = kilobyte(), kilobyte()
    watch = Watch()
    with watch:
        x.view(2, -1).t().add_(1)
        torch.add(x, y, out=y)
        y.detach()
    assert watch.total.held_bytes == 0


def test_what_outlives_the_watch_is_let_go_of_without_it() -> None:
    watch = Watch()
    with watch:
        x = kilobyte() + 1
    held = watch._held_bytes
    del x
    gc.collect()
    assert (held, watch._held_bytes) == (KILOBYTE, 0)


def test_marks_for_the_profiler_are_no_operators() -> None:
    weight = kilobyte().requires_grad_()
    weight.grad = kilobyte()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    watch = Watch()
    with watch:
        optimizer.step()
    assert not [name for name in watch.total.operators if "profiler" in name or "record" in name]
    assert watch.total.dispatches >= 1
