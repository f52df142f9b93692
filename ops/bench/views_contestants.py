"""Who makes views: ours in its variants, other libraries, and the floor."""

import sys
from dataclasses import asdict
from typing import Any

from ops.bench.measure import Contestant
from ops.bench.views_setting import Setting

OURS = "ours"
SAMPLE = "ours, an order per view"
COMPILED = "ours, compiled"
COMPILED_SAMPLE = "ours, compiled, an order per view"
KORNIA = "Kornia"
KORNIA_COMPILED = "Kornia, compiled"
TORCHVISION = "torchvision v2"
LIGHTLY = "lightly SimCLRTransform"
DALI = "DALI operators"
FLOOR, FLOOR_IN_CACHE = "floor: copy of 256 MB", "floor: copy of a batch"

PLAIN = {"reference": "torchvision", "jitter_order": "batch"}
"""Of `ViewsConfig`: as the peers compute and draw."""

_LARGE_COPY_BYTES = 1 << 28
_VARIANTS: dict[str, dict[str, Any]] = {
    OURS: {},
    SAMPLE: {"jitter_order": "sample"},
    COMPILED: {"compile": True},
    COMPILED_SAMPLE: {"compile": True, "jitter_order": "sample"},
    "ours, the paper's formulas": {"reference": "paper"},
    "ours, bicubic": {"interpolation": "bicubic"},
    "ours, Kornia engine": {"engine": "kornia"},
}


def contestants(setting: Setting, kornia_ratio: float, peer_python: str) -> list[Contestant]:
    """All on one setting, ours first.

    Args:
        setting: of all.
        kornia_ratio: how many times as fast as Kornia ours is to be.
        peer_python: in which lightly is installed.
    """

    def contestant(
        name: str,
        function: str,
        distribution: str = "",
        python: str = sys.executable,
        ratio: float | None = None,
        **options: Any,
    ) -> Contestant:
        return Contestant(
            name=name,
            call=f"ops.bench.{function}",
            options={"setting": asdict(setting), **options},
            distributions=(distribution,) if distribution else (),
            python=python,
            wanted_ratio=ratio,
        )

    return [
        *(
            contestant(name, "views_ours:views", views_config={**PLAIN, **variant})
            for name, variant in _VARIANTS.items()
        ),
        contestant(KORNIA, "views_kornia:views", "kornia", ratio=kornia_ratio, compiled=False),
        contestant(KORNIA_COMPILED, "views_kornia:views", "kornia", compiled=True),
        contestant(TORCHVISION, "views_torchvision:views", "torchvision"),
        contestant(LIGHTLY, "views_lightly:views", "lightly", python=peer_python),
        contestant(DALI, "views_dali:views", "nvidia-dali-cuda130"),
        contestant(FLOOR, "views_floor:copying", least_bytes=_LARGE_COPY_BYTES),
        contestant(FLOOR_IN_CACHE, "views_floor:copying", least_bytes=0),
    ]
