"""What a process and those below it hold of the machine's memory."""

from pathlib import Path


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process and all its descendants: a page that n processes share counts 1/n in each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        return 0
    own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(memory_bytes(int(child)) for children in lists for child in children.split())
