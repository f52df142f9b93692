"""Nothing in a step asks the device for a value: fake tensors have none to give."""

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.config import EncoderConfig, HeadConfig
from model.loss import nt_xent
from model.simclr import SimCLR
from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.draws import draw_views
from pipelines.plan import plan_views
from train.config import OptimizerConfig
from train.optimizer import build_optimizer, set_learning_rate


def test_a_step_of_resnet50_at_224_pixels_waits_for_nothing() -> None:
    config, ids, side = ViewsConfig(), np.arange(8), np.full(8, 300)
    plan = plan_views(config, draw_views(config, ids, side, side, seed=0, epoch=0), canvas=256)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fake_plan = plan.map(fake.from_tensor)
        canvas = torch.zeros(8, 3, 256, 256, dtype=torch.uint8)
        model = SimCLR(EncoderConfig(), HeadConfig())
        optimizer = build_optimizer(OptimizerConfig(), model)
        for step in range(2):
            set_learning_rate(optimizer, 0.1 * step)
            views = TwoViews(config, torch.bfloat16, torch.channels_last)(canvas, fake_plan)
            assert views.shape == (16, 3, 224, 224)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z = model(views)
            loss = nt_xent(z.float(), 0.1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert loss.shape == ()
