"""What a process and those below it hold of the machine's memory."""

from pathlib import Path


def memory_bytes(pid: int) -> int:
    """Most that a process and all its descendants can have held, as if all had their peaks at once.

    Proportional set sizes, in which a page that n processes share counts 1/n in each, and how far the resident set of
    each has fallen from its peak. Processes that have ended are not in it.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        return 0
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in [*lines, *status] if line.endswith(" kB")}
    own = 1024 * (kib["Pss"] + kib["VmHWM"] - kib["VmRSS"])
    return own + sum(memory_bytes(int(child)) for children in lists for child in children.split())
