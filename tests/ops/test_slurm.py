"""The batch files: what they ask of Slurm, what a rank is told, and which ends have a job started again.

srun and scontrol are small programs that say what they were called with; the real ones are for `make slurm`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.slurm import check
from train.arguments import parse
from train.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "ops" / "slurm"
BATCH_FILES = sorted(SLURM.glob("*.sbatch"))
SCRIPTS = [*BATCH_FILES, *sorted(SLURM.glob("*.sh"))]
# Ends with the status it is told to; with TERM_FIRST the batch script is signalled before, as by Slurm.
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$CALLS/srun"
env > "$CALLS/srun-environment"
[[ -z $TERM_FIRST ]] || { kill -TERM $PPID; sleep 0.3; }
exit "$STATUS"
"""
SCONTROL = """#!/bin/bash
[[ $1 == show ]] && { printf 'node7\\nnode9\\n'; exit; }
echo "$@" >> "$CALLS/scontrol"
exit "${SCONTROL_STATUS:-0}"
"""


def run_script(script: Path, calls: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """As slurmd would, but with those two on PATH."""
    programs = calls / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7,9]", "SLURM_CPUS_PER_TASK": "12"}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), "STATUS": "0", "TERM_FIRST": ""}
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd=environment.pop("CWD", ROOT),
        env=path | job | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def requeues(calls: Path) -> list[str]:
    log = calls / "scontrol"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_free_of_what_shellcheck_finds(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; Debian has it in a package of that name")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", BATCH_FILES, ids=lambda path: path.name)
def test_batch_files_ask_for_what_resuming_needs(script: Path) -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script.read_text(), re.MULTILINE))
    assert options.keys() >= {"requeue", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time"}
    assert options["open-mode"] == "append"
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert re.fullmatch(r"USR1@\d+", options["signal"])  # to the ranks; B: would send it to the script
    assert int(options["signal"].removeprefix("USR1@")) >= 60 + 120  # Slurm may be a minute early


@pytest.mark.parametrize("status", ["75", "138", "143"])
def test_a_run_that_was_asked_to_stop_is_requeued_once(status: str, tmp_path: Path) -> None:
    done = run_script(SLURM / "train.sh", tmp_path, STATUS=status)
    assert done.returncode == int(status)
    assert requeues(tmp_path) == ["requeue 123456"]
    assert "requeued, restart 1 of at most 50" in done.stderr


@pytest.mark.parametrize("status", ["0", "1", "2", "70", "137"])
def test_other_ends_are_passed_on_and_not_requeued(status: str, tmp_path: Path) -> None:
    assert run_script(SLURM / "train.sh", tmp_path, STATUS=status).returncode == int(status)
    assert requeues(tmp_path) == []


def test_which_ends_are_requeued_is_a_setting(tmp_path: Path) -> None:
    run_script(SLURM / "train.sh", tmp_path, STATUS="70", REQUEUE_STATUSES="75 70")
    assert requeues(tmp_path) == ["requeue 123456"]


def test_the_number_of_restarts_is_limited(tmp_path: Path) -> None:
    done = run_script(SLURM / "train.sh", tmp_path, STATUS="75", SLURM_RESTART_COUNT="3", MAX_RESTARTS="3")
    assert done.returncode == 75
    assert requeues(tmp_path) == []
    assert "not requeued after 3 restarts" in done.stderr
    run_script(SLURM / "train.sh", tmp_path, STATUS="75", SLURM_RESTART_COUNT="2", MAX_RESTARTS="3")
    assert requeues(tmp_path) == ["requeue 123456"]


def test_a_job_that_slurm_ends_lives_until_its_ranks_have_and_is_left_to_slurm(tmp_path: Path) -> None:
    done = run_script(SLURM / "train.sh", tmp_path, STATUS="75", TERM_FIRST="yes")
    assert done.returncode == 75
    assert requeues(tmp_path) == []
    assert "for Slurm to say" in done.stderr


def test_a_job_that_slurm_will_not_requeue_says_so(tmp_path: Path) -> None:
    done = run_script(SLURM / "train.sh", tmp_path, STATUS="75", SCONTROL_STATUS="1")
    assert done.returncode == 75
    assert "submit it again" in done.stderr


def test_srun_gets_the_flags_as_they_were_given(tmp_path: Path) -> None:
    flags = ["--config", "a b.yaml", "--run_dir", "$HOME/*"]
    run_script(SLURM / "many_nodes.sbatch", tmp_path, *flags, SRUN_OPTIONS="--container-image=/i.sqsh --no-x")
    words = (tmp_path / "srun").read_text().splitlines()
    assert words[-len(flags) :] == flags
    assert {"--kill-on-bad-exit=0", "--wait=0", "--container-image=/i.sqsh", "--no-x"} <= set(words)
    environment = (tmp_path / "srun-environment").read_text().splitlines()
    assert {"MASTER_ADDR=node7", "MASTER_PORT=23456", "SRUN_CPUS_PER_TASK=12"} <= set(environment)


def test_a_rank_is_told_who_it_is_and_ends_with_the_trainers_status(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ), os.getpid()], open({str(tmp_path / 'told')!r}, 'w'))\n"
        "sys.exit(75)\n"
    )
    python.chmod(0o755)
    task = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
    command = ["bash", str(SLURM / "rank.sh"), "--seed=1"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | task | {"PYTHON": str(python)})
    assert process.wait(30) == 75
    arguments, environment, pid = json.loads((tmp_path / "told").read_text())
    assert arguments == ["train/pretrain.py", "--seed=1"]
    assert pid == process.pid  # a signal to the task is a signal to the trainer
    wanted = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "PYTHONSAFEPATH": "1"}
    assert environment.items() >= wanted.items()
    assert {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} <= environment.keys()


def test_a_rank_without_python_says_so(tmp_path: Path) -> None:
    task = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "PYTHON": "no/python"}
    done = subprocess.run(
        ["bash", SLURM / "rank.sh"], env=os.environ | task, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "PYTHON = no/python is not on" in done.stderr


def test_a_task_of_an_array_runs_its_line(tmp_path: Path) -> None:
    cells = tmp_path / "cells.txt"
    cells.write_text("seed-0 --seed=0\nlinear --seed=0 --head.kind=linear\n")
    words = [str(cells), "runs/study", "--config", "train/configs/demo.yaml"]
    assert run_script(SLURM / "array.sbatch", tmp_path, *words, SLURM_ARRAY_TASK_ID="1").returncode == 0
    trained = (tmp_path / "srun").read_text().splitlines()
    config = parse(PretrainConfig, trained[trained.index("--config") :])
    assert (config.run_dir, config.head.kind, config.metrics.port) == ("runs/study/linear", "linear", 9401)


def test_a_task_of_a_study_is_asked_for_by_its_number_before_the_trainers_flags(tmp_path: Path) -> None:
    flags = ["--config", "a b.yaml", "--epochs=3", "--", "--precision=fp32"]
    done = run_script(SLURM / "study.sbatch", tmp_path, "head", *flags, SLURM_ARRAY_TASK_ID="4", STATUS="75")
    assert done.returncode == 75
    assert requeues(tmp_path) == ["requeue 123456"]
    assert (tmp_path / "srun").read_text().splitlines()[-7:] == ["head", "--cell=array", *flags]
    environment = (tmp_path / "srun-environment").read_text().splitlines()
    assert {"PROGRAM=-m eval.ablate", "SLURM_ARRAY_TASK_ID=4"} <= set(environment)


@pytest.mark.parametrize(
    ("arguments", "task", "reason"),
    [(["head"], "", "not a job array"), (["--config", "x"], "0", "the study is wanted first"), ([], "0", "the study")],
)
def test_an_unusable_study_is_refused_in_one_line(arguments: list[str], task: str, reason: str, tmp_path: Path) -> None:
    done = run_script(SLURM / "study.sbatch", tmp_path, *arguments, SLURM_ARRAY_TASK_ID=task)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "srun").exists()


def test_a_rank_runs_the_program_that_the_batch_file_names(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    task = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "PYTHON": str(python)}
    command = ["bash", str(SLURM / "rank.sh"), "head", "--cell=array"]
    environment = os.environ | task | {"PROGRAM": "-m eval.ablate"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-m", "eval.ablate", "head", "--cell=array"]


@pytest.mark.parametrize(
    ("arguments", "task", "reason"),
    [
        (["{cells}", "out"], "2", "has no run on line 3"),
        (["{cells}", "out"], "", "not a job array"),
        (["{cells}", "--config"], "0", "two words are wanted"),
        (["none.txt", "out"], "0", "none.txt cannot be read"),
    ],
)
def test_an_unusable_array_is_refused_in_one_line(arguments: list[str], task: str, reason: str, tmp_path: Path) -> None:
    cells = tmp_path / "cells.txt"
    cells.write_text("a --seed=0\nb --seed=1\n")
    words = [word.format(cells=cells) for word in arguments]
    done = run_script(SLURM / "array.sbatch", tmp_path, *words, SLURM_ARRAY_TASK_ID=task)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "srun").exists()


@pytest.mark.parametrize("script", BATCH_FILES, ids=lambda path: path.name)
def test_batch_files_are_refused_outside_the_checkout(script: Path, tmp_path: Path) -> None:
    done = run_script(script, tmp_path, CWD=str(tmp_path))
    assert done.returncode == 2
    assert "submit from the checkout" in done.stderr


def test_the_check_names_missing_packages(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        check.main([f"--data.dir={shards}"])
    assert stopped.value.code == 2
    assert "apt-get install iproute2 munge slurm-wlm util-linux" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_on_a_real_slurm_go_on_where_they_were_stopped(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ops.slurm.check", f"--data.dir={shards}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
