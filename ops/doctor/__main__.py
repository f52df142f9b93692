"""Say what limits a run on this machine, how long it will take, and what to change; or whether it can begin.

python -m ops.doctor --config train/configs/cifar10_cpu.yaml --data.dir DIR
python -m ops.doctor --preflight --config train/configs/imagenet.yaml --data.dir DIR --run_dir runs/NAME
torchrun --nproc_per_node 8 -m ops.doctor --config train/configs/imagenet.yaml --data.dir DIR

Every field of the run can be given, as to train/pretrain.py; nothing is written into run_dir.
"""

import json
import logging
import sys

from ops.doctor.config import DoctorConfig
from pipelines.errors import DataError
from train.arguments import parse
from train.distributed import environment_rank, environment_world_size, fail, share_cores
from train.errors import RunError
from train.pretrain import open_data
from train.stop_request import stop_with_launcher

_PREFLIGHT_FAILED, _STARVED = 3, 4


def main() -> None:
    """Refuse what is wrong before torch is imported, then check or measure."""
    share_cores()
    stop_with_launcher()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        config = parse(DoctorConfig, sys.argv[1:], prog="doctor")
        if config.preflight:
            from ops.doctor.preflight import preflight

            sys.exit(0 if preflight(config) else _PREFLIGHT_FAILED)
        split = open_data(config, environment_world_size())
    except (RunError, DataError) as error:
        fail("doctor", error, show=environment_rank() == 0)
    import torch

    # Before torch has threads, which inherit it. Gradients through scales that begin at zero are too small for normal
    # floats, which CPUs take ten times as long for; a run leaves that behind in its first updates, and is not to be
    # judged by them.
    torch.set_flush_denormal(True)

    from model.errors import ModelError
    from ops.doctor.advice import advice
    from ops.doctor.examine import examine
    from ops.doctor.hardware import hardware, versions
    from ops.doctor.report import as_json, as_text
    from train.ranks import OtherRankError, join_ranks, leave_ranks

    try:
        ranks = join_ranks(config)
        findings = examine(config, split, ranks)
        leave_ranks()
    except (RunError, DataError, ModelError) as error:
        fail("doctor", error, show=environment_rank() == 0 or not isinstance(error, OtherRankError))
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split())[:200]
        fail(
            "doctor",
            RunError(f"global_batch = {config.global_batch}: {reason}; lower it, or set micro_batch"),
            show=True,
        )
    except RuntimeError as error:
        if environment_world_size() == 1:
            raise
        reason = " ".join(str(error).split())[:200]
        print(
            f"doctor: error: rank {environment_rank()} cannot go on, another rank is gone ({reason})", file=sys.stderr
        )
        sys.exit(1)
    if ranks.rank == 0:
        told = (config, findings, advice(config, split, findings), hardware(), versions())
        print(json.dumps(as_json(*told)) if config.json else as_text(*told), flush=True)
    sys.exit(_STARVED if config.fail_if_starved and findings.diagnosis.main.starved else 0)


if __name__ == "__main__":
    main()
