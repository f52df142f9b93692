"""A Slurm cluster of two nodes that lives as long as the process that starts it.

To be used in namespaces of its own (ops/slurm/check.py makes them): mounts, so that /etc/hosts can name the nodes;
network, so that ports are free and the nodes' addresses are theirs alone; processes, so that all end with the first.

    node1: this network namespace, 10.99.0.1, with slurmctld, slurmd and munged
      |    a pair of virtual Ethernet devices
    node2: another one, 10.99.0.2, another host name, with a slurmd

Debian's Slurm is built without --enable-multiple-slurmd; two host names do without it.
"""

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

KILL_WAIT_SECONDS = 30
"""Slurm's default, between SIGTERM and SIGKILL."""
_ADDRESSES = {"node1": "10.99.0.1", "node2": "10.99.0.2"}
_START_SECONDS = 30.0
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
# Processors, memory and graphics cards are made up, so that batch files find what they ask for. Slurm only counts them.
_CONFIGURATION = """\
ClusterName=diptych
SlurmctldHost=node1
SlurmUser=root
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdSpoolDir={directory}/spool-%n
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdLogFile={directory}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
KillOnBadExit=1
MinJobAge=3600
GresTypes=gpu
NodeName=node[1-2] CPUs=96 RealMemory=1000000 Gres=gpu:8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2
"""

Found = TypeVar("Found")


class ClusterError(Exception):
    """The cluster does not come up, or does not answer."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What slurmctld says of a job."""

    state: str
    restarts: int
    exit_status: int

    @property
    def ended(self) -> bool:
        """It has come to an end, and nothing has it started again."""
        return self.state in _ENDED


def start_cluster(directory: Path) -> None:
    """Start the daemons and wait until both nodes take jobs; sets SLURM_CONF for the commands that follow.

    Args:
        directory: empty; keys, states and logs go there.

    Raises:
        ClusterError: something does not start; the message names the logs.
    """
    key = directory / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    (directory / "state").mkdir()
    configuration = directory / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, kill_wait=KILL_WAIT_SECONDS))
    cards = [directory / f"gpu{number}" for number in range(8)]  # instead of /dev/nvidia0 and so on
    for card in cards:
        card.touch()
    (directory / "gres.conf").write_text("".join(f"Name=gpu File={card}\n" for card in cards))
    hosts = directory / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in _ADDRESSES.items()))
    os.environ["SLURM_CONF"] = str(configuration)
    call("mount", "--bind", str(hosts), "/etc/hosts")
    socket.sethostname("node1")
    _start_node2(directory)
    munge = [f"--socket={directory}/munge.socket", f"--key-file={key}", f"--pid-file={directory}/munged.pid"]
    call("munged", "--force", *munge, f"--log-file={directory}/munged.log", f"--seed-file={directory}/munge.seed")
    call("slurmctld", "-c")
    call("slurmd")
    wait_for(
        lambda: call("sinfo", "--noheader", "--partition=main", "--format=%D %t").split() == ["2", "idle"] or None,
        _START_SECONDS,
        f"both nodes to be idle; {directory}/*.log tell more",
    )


def job(number: str) -> Job:
    """Look at a job, which may have ended."""
    words = call("scontrol", "--oneliner", "show", "job", number).split()
    fields = dict(word.split("=", 1) for word in words if "=" in word)
    status, _ = fields["ExitCode"].split(":")
    return Job(state=fields["JobState"], restarts=int(fields["Restarts"]), exit_status=int(status))


def submit(*words: str) -> str:
    """Give a batch file to Slurm; returns the job's number."""
    return call("sbatch", "--parsable", *words).strip()


def call(*command: str) -> str:
    """What a command prints.

    Raises:
        ClusterError: it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # Slurm's own
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {' '.join(done.stderr.split())} (status {done.returncode})")
    return done.stdout


def wait_for(answer: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Ask again and again until there is an answer.

    Raises:
        ClusterError: there is none in time.
    """
    deadline = time.monotonic() + seconds
    while (found := answer()) is None:
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
    return found


def _start_node2(directory: Path) -> None:
    """Make the second host: a process in a network namespace, under a host name, which becomes slurmd."""
    call("ip", "link", "set", "lo", "up")
    call("ip", "link", "add", "node1", "type", "veth", "peer", "name", "node2")
    script = (
        "hostname node2; read -r _; ip link set lo up; ip link set node2 up; "
        f"ip address add {_ADDRESSES['node2']}/24 dev node2; exec slurmd -D"
    )
    with (directory / "node2.log").open("w") as log:
        command = ["unshare", "--uts", "--net", "sh", "-c", script]
        host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)  # noqa: S603
    ours, others = Path("/proc/self/ns/net"), Path(f"/proc/{host.pid}/ns/net")
    wait_for(lambda: ours.readlink() != others.readlink() or None, _START_SECONDS, "node2's network")
    call("ip", "link", "set", "node2", "netns", str(host.pid))
    call("ip", "link", "set", "node1", "up")
    call("ip", "address", "add", f"{_ADDRESSES['node1']}/24", "dev", "node1")
    assert host.stdin is not None  # noqa: S101  # a pipe was asked for
    host.stdin.write(b"\n")
    host.stdin.close()
