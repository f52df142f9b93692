"""Values as Grafana writes them, for the units that our dashboards use."""

import math

_SCALES = {
    "bytes": (1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB")),
    "decmbytes": (1000.0, ("MB", "GB", "TB")),
    "Bps": (1000.0, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s")),
}
_LONG_TIMES = ((86400.0, "days"), (3600.0, "hours"), (60.0, "mins"))
_SHORT_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SYMBOLS = {"celsius": "°C", "watt": "W", "percent": "%"}


def amount(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit.

    Args:
        value: in the unit's base.
        unit: Grafana's name of it; `suffix:X` appends X.
        decimals: digits after the point; None gives three significant ones.
    """
    if not math.isfinite(value):
        return str(value)
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{_digits(100 * value, decimals)}%"
    if unit == "s":
        factor, name = _time(abs(value))
        return f"{_digits(value / factor, decimals)} {name}"
    if unit in _SCALES:
        base, names = _SCALES[unit]
        power = min(int(math.log(max(abs(value), 1.0), base)), len(names) - 1)
        return f"{_digits(value / base**power, decimals)} {names[power]}"
    return (
        f"{_digits(value, decimals)}{unit.removeprefix('suffix:')}"
        if unit.startswith("suffix:")
        else _plain(value, unit, decimals)
    )


def _plain(value: float, unit: str, decimals: int | None) -> str:
    symbol = _SYMBOLS.get(unit, "")
    return f"{_digits(value, decimals)} {symbol}".rstrip()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return (
        f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")
        if abs(value) < 100
        else f"{value:.0f}"
    )


def _time(seconds: float) -> tuple[float, str]:
    for factor, name in (*_LONG_TIMES, *_SHORT_TIMES):
        if seconds >= factor:
            return factor, name
    return (1.0, "s") if seconds == 0 else _SHORT_TIMES[-1]
