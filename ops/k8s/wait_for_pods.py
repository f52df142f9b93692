"""Wait until every pod of a Job has an address: what an init container does before the ranks look for each other.

    python -m ops.k8s.wait_for_pods --first=NAME-0.SERVICE --pods=16

A rank gives up after `timeouts.startup_seconds`, which is meant for compiling and for cold data. Pods may wait much
longer than that for a node. Here they wait without limit, and say once a minute for whom.
"""

import argparse
import itertools
import socket
import sys
import time
from collections.abc import Sequence

POLL_SECONDS = 2.0
SAY_SECONDS = 60.0


def main() -> int:
    """Wait for the pods that were asked for; 2 if the first one's name is none."""
    parser = argparse.ArgumentParser(prog="wait_for_pods", description="Wait until all pods of a Job have addresses.")
    parser.add_argument("--first", required=True, help="host name of the first pod, NAME-0.SERVICE")
    parser.add_argument("--pods", type=int, required=True, help="how many there are")
    asked = parser.parse_args()
    try:
        names = pod_names(asked.first, asked.pods)
    except ValueError as error:
        print(f"wait_for_pods: error: {error}", file=sys.stderr)
        return 2
    wait(names)
    return 0


def pod_names(first: str, count: int) -> list[str]:
    """Host names of an Indexed Job's pods.

    Args:
        first: that of the first, NAME-0.SERVICE.
        count: of pods.

    Raises:
        ValueError: `first` is not of that form.
    """
    host, dot, service = first.partition(".")
    name, dash, index = host.rpartition("-")
    if not (dot and dash) or index != "0":
        raise ValueError(f"--first={first}: not the name of a Job's first pod, NAME-0.SERVICE")
    return [f"{name}-{pod}.{service}" for pod in range(count)]


def wait(names: Sequence[str]) -> None:
    """Return when all names have had an address."""
    missing = list(names)
    said = -SAY_SECONDS
    for attempt in itertools.count():
        missing = [name for name in missing if not has_address(name)]
        if not missing:
            break
        if attempt * POLL_SECONDS - said >= SAY_SECONDS:
            said = attempt * POLL_SECONDS
            print(f"wait_for_pods: {len(missing)} of {len(names)} have no address: {', '.join(missing)}", flush=True)
        time.sleep(POLL_SECONDS)
    print(f"wait_for_pods: all {len(names)} have addresses", flush=True)


def has_address(name: str) -> bool:
    """Whether a host name can be resolved now."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
