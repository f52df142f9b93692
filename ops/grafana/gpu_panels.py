"""What only GPUs have to show: each rank's own device, and all of a host by NVIDIA's exporter."""

from collections.abc import Sequence

from grafana_foundation_sdk.models import dashboard

from ops.grafana.expressions import RANKS, rate
from ops.grafana.panels import BAD, WARNING, Query, lines

_RANK = "{{run}} rank {{rank}}"


def gpu_panels() -> list[dashboard.Panel]:
    """All of them; each is marked as needing a GPU."""
    return [*_devices(), *_dcgm()]


def _devices() -> list[dashboard.Panel]:
    """What each rank says of its own device."""
    return [
        lines(
            "Device memory",
            "What torch's allocator holds, has reserved, and held at most, beside the device's size. Reserved near "
            "size: a larger batch will not fit.",
            "bytes",
            [Query(f"diptych_device_memory_bytes{{{RANKS}}}", "{{run}} rank {{rank}} {{kind}}")],
            width=6,
            span=(0, None),
            gpu=True,
        ),
        lines(
            "Utilisation",
            "Share of the time in which a kernel ran, as the driver counts it. Low beside a long data stage: starved.",
            "percentunit",
            [Query(f"diptych_device_utilization_ratio{{{RANKS}}}", _RANK)],
            width=6,
            span=(0, 1),
            gpu=True,
        ),
        lines(
            "Temperature",
            "Of each device. One that is hotter than the others is slowed down first.",
            "celsius",
            [Query(f"diptych_device_temperature_celsius{{{RANKS}}}", _RANK)],
            width=6,
            limits={85: WARNING, 90: BAD},
            alerts=["DiptychGpuHot"],
            gpu=True,
        ),
        lines(
            "Power",
            "Of each device. Level and near its limit: busy.",
            "watt",
            [Query(f"diptych_device_power_watts{{{RANKS}}}", _RANK)],
            width=6,
            span=(0, None),
            gpu=True,
        ),
    ]


def _dcgm() -> list[dashboard.Panel]:
    """What NVIDIA's DCGM exporter says of all GPUs of a host, ours or not."""
    hosts, name = 'Hostname=~"$host"', "{{Hostname}} GPU {{gpu}}"

    def gpus(
        title: str, reads: str, unit: str, expr: str, most: float | None = None, alerts: Sequence[str] = ()
    ) -> dashboard.Panel:
        reads = f"{reads} From DCGM's exporter."
        return lines(title, reads, unit, [Query(expr, name)], span=(0, most), alerts=alerts, gpu=True)

    return [
        gpus(
            "GPU utilisation",
            "Share of the time in which a kernel ran.",
            "percent",
            f"DCGM_FI_DEV_GPU_UTIL{{{hosts}}}",
            most=100,
        ),
        gpus("Framebuffer", "Memory in use, by whatever process.", "mbytes", f"DCGM_FI_DEV_FB_USED{{{hosts}}}"),
        gpus("GPU temperature", "Slowed down above the vendor's limit.", "celsius", f"DCGM_FI_DEV_GPU_TEMP{{{hosts}}}"),
        gpus("GPU power", "As drawn now.", "watt", f"DCGM_FI_DEV_POWER_USAGE{{{hosts}}}"),
        gpus(
            "Last XID error",
            "0: none. Others are NVIDIA's numbers of faults; 79: fell off the bus.",
            "none",
            f"DCGM_FI_DEV_XID_ERRORS{{{hosts}}}",
            alerts=["DiptychGpuXid"],
        ),
        gpus(
            "Slowed down by heat",
            "Share of the time; the counter is in nanoseconds.",
            "percentunit",
            f"{rate('DCGM_FI_DEV_THERMAL_VIOLATION', hosts)} / 1e9",
            alerts=["DiptychGpuThrottled"],
        ),
        gpus("NVLink sent", "Bytes a second.", "Bps", f"DCGM_FI_PROF_NVLINK_TX_BYTES{{{hosts}}}"),
    ]
