"""The learning rate: a pure function of the step, so that resuming needs nothing and no scheduler is stepped."""

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from 0, then half a cosine to 0 (Chen et al. 2020, appendix B.1; the reference code's formula).

    Args:
        step: from 0; the first update of a run with warm-up has rate 0, as in the reference code.
        peak: rate at the end of warm-up.
        warmup_steps: 0 starts at the peak.
        total_steps: of the run; the rate would reach 0 at this step.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
