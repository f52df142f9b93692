"""Values as Grafana writes them, for the units that our dashboards use."""

import math

_SCALES = {
    "bytes": tuple((1024.0**power, name) for power, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))),
    "mbytes": ((1.0, "MiB"), (1024.0, "GiB")),
    "Bps": ((1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")),
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "mins"), (3600.0, "hours"), (86400.0, "days")),
    "percentunit": ((0.01, "%"),),
    "percent": ((1.0, "%"),),
    "celsius": ((1.0, "°C"),),
    "watt": ((1.0, "W"),),
}


def scale(value: float, unit: str) -> tuple[float, str]:
    """By how much a value is divided before it is written, and what is written behind it."""
    if unit.startswith("suffix:"):
        return 1.0, unit.removeprefix("suffix:").strip()
    scales = _SCALES.get(unit, ((1.0, ""),))
    if value == 0 and unit == "s":
        return 1.0, "s"
    return max((each for each in scales if each[0] <= abs(value)), default=scales[0])


def amount(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit.

    Args:
        value: in the unit's base.
        unit: Grafana's name of it; `suffix:X` appends X.
        decimals: digits after the point; None gives three significant ones.
    """
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if not math.isfinite(value):
        return str(value)
    factor, name = scale(value, unit)
    written = digits(value / factor, decimals)
    return f"{written}%" if name == "%" else f"{written} {name}".rstrip()


def digits(value: float, decimals: int | None = None) -> str:
    """A number of so many digits after the point, or of three significant ones; whole numbers as they are."""
    if decimals is not None or value.is_integer():
        return f"{value:.{decimals or 0}f}"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
