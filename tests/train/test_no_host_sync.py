"""Nothing in a step asks the device for a value: fake tensors have none to give."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import EncoderConfig, HeadConfig
from model.loss import nt_xent
from model.running_statistics import RunningStatistics
from model.simclr import SimCLR
from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.draws import draw_views
from pipelines.plan import Plan, plan_views
from train.config import OptimizerConfig
from train.non_finite import NonFiniteWatch
from train.optimizer import build_optimizer, set_learning_rate
from train.probe import Probe

VIEWS = ViewsConfig()


def plan_of_eight() -> Plan:
    ids, side = np.arange(8), np.full(8, 300)
    return plan_views(VIEWS, draw_views(VIEWS, ids, side, side, seed=0, epoch=0), canvas=256)


class RefuseCopiesToTheHost(TorchDispatchMode):
    """FakeTensorMode lets through what only copies, and waits all the same."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        got = [leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if "cuda" in given and "cpu" in got:
            raise RuntimeError(f"{func} copies to the host")
        return result


def test_a_step_of_resnet50_at_224_pixels_waits_for_nothing() -> None:
    plan = plan_of_eight()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, RefuseCopiesToTheHost():
        fake_plan = plan.map(fake.from_tensor)
        canvas = torch.zeros(8, 3, 256, 256, dtype=torch.uint8)
        model = SimCLR(EncoderConfig(), HeadConfig(), 224)
        optimizer = build_optimizer(OptimizerConfig(), model)
        for step in range(2):
            set_learning_rate(optimizer, 0.1 * step)
            views = TwoViews(VIEWS, torch.bfloat16, torch.channels_last)(canvas, fake_plan)
            assert views.shape == (16, 3, 224, 224)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z, _ = model(views)
            loss = nt_xent(z.float(), 0.1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert loss.shape == ()


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_on_a_device_a_step_copies_nothing_to_the_host() -> None:
    """Autograd wants a real device for its backward; the gradients of the update are made up here."""
    plan = plan_of_eight()
    with FakeTensorMode(allow_non_fake_inputs=True):
        canvas = torch.empty(8, 3, 256, 256, dtype=torch.uint8, device="cuda")
        there = plan.map(lambda tensor: torch.empty_like(tensor, device="cuda"))
        with torch.device("cuda"):
            model = SimCLR(EncoderConfig(), HeadConfig(), 224)
            labels = torch.zeros(8, dtype=torch.int64)
            overflow = torch.zeros(())
        optimizer: Any = build_optimizer(OptimizerConfig(), model)
        statistics = RunningStatistics(model)
        probe = Probe(2048, 10, 0.001, torch.device("cuda"))
        watch = NonFiniteWatch(torch.device("cuda"), 10)
        batch: Any = SimpleNamespace(step=0, sample_id=torch.arange(8))
        with RefuseCopiesToTheHost():
            for _ in range(2):
                views = TwoViews(VIEWS, torch.bfloat16, torch.channels_last)(canvas, there)
                before = statistics.copy()
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    z, h = model(views)
                loss = nt_xent(z, 0.1)
                for parameter in model.parameters():
                    parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
                statistics.restore_if(overflow, before)
                optimizer.found_inf, optimizer.grad_scale = overflow, None
                optimizer.step()
                probe.update(h.float(), labels)
                watch.look(batch, loss.detach(), z.detach())
    assert loss.device.type == "cuda"


def test_the_guards_notice_what_waits() -> None:
    with FakeTensorMode(), RefuseCopiesToTheHost():
        value = torch.empty(3, device="cuda")
        with pytest.raises(RuntimeError, match="copies to the host"):
            value.cpu()
        with pytest.raises(RuntimeError):
            value.sum().item()
