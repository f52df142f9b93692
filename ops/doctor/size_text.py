"""A number of bytes as people write it."""


def size_text(count: float) -> str:
    """Three digits and a unit, such as 23.1 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} TB"
