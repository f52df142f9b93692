"""Whether a run directory holds the run that is asked for; known before torch is imported."""

import json
from pathlib import Path
from typing import Any

from train.checkpoint_files import DAMAGE, list_checkpoints, read_state
from train.config import PretrainConfig
from train.errors import RunError


def check_run_directory(config: PretrainConfig) -> None:
    """Look at the newest checkpoint that can be read; which of them is whole is found out when it is loaded.

    Raises:
        RunError: it is that of a run which differs in a field that shapes the result, or of another version.
    """
    if config.allow_config_change:
        return
    for path in list_checkpoints(Path(config.run_dir) / "checkpoints"):
        try:
            state = read_state(path)
        except DAMAGE:
            continue
        refuse_other_run(state.config, config)
        return


def refuse_other_run(there: dict[str, Any], config: PretrainConfig) -> None:
    """Compare the configuration of a checkpoint with the one asked for.

    Raises:
        RunError: names the first field that differs.
    """
    for name, (before, now) in differing_fields(there, config).items():
        raise RunError(
            f"{config.run_dir}: holds a run with {name} = {before}, but {now} was asked for; give the same value to "
            "resume, another --run_dir, or --allow_config_change to go on with the new value"
        )


def differing_fields(there: dict[str, Any], config: PretrainConfig) -> dict[str, tuple[Any, Any]]:
    """Fields that shape the result, with their values there and in the configuration."""
    asked = json.loads(json.dumps(config.numeric()))
    names = [*asked, *(name for name in there if name not in asked)]
    return {n: (there.get(n), asked.get(n)) for n in names if there.get(n) != asked.get(n)}
