"""Every command of the docs is one that the programs, as they are, would accept."""

import importlib.util

import pytest
from documented_programs import Program, UnknownCommandError, check_arguments, program_of
from markdown_pages import PAGES, ROOT, Block, fenced_blocks, inline_code
from shell_commands import Command, commands_of

MARKS = {"needs: gpu", "needs: cluster", "needs: network", "needs: docker", "needs: prometheus", "takes: minutes"}
BLOCKS = [block for page in PAGES for block in fenced_blocks(page)]
COMMANDS = [command for block in BLOCKS if block.language == "bash" for command in commands_of(block)]
# In running text, where a bare name may stand for the program as such. FILE is a placeholder of theirs.
INLINE = sorted(
    {
        code.replace("--config FILE", "--config train/configs/imagenet.yaml")
        for page in PAGES
        for code in inline_code(page)
        if code.startswith(("python -m ", "make ")) and not code.endswith((" --help", " ...")) and "$" not in code
    }
)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_documented_command_is_accepted_by_its_program(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    program = program_of(command.words)
    if program is None:
        return
    try:
        check_arguments(program, monkeypatch)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


@pytest.mark.parametrize("code", INLINE)
def test_a_command_in_running_text_is_accepted_by_its_program(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = commands_of(a_block(code))
    program = program_of(command.words)
    if program is None:
        return
    if not program.arguments:
        assert importlib.util.find_spec(program.name)
        return
    try:
        check_arguments(program, monkeypatch)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def test_marks_are_those_that_are_known() -> None:
    for block in BLOCKS:
        if block.language == "bash":
            assert set(block.marks) <= MARKS, block


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("python -m train.pretrain --schedule.epoch 3", "schedule.epoch"),
        ("python train/pretrain.py --config train/configs/none.yaml", "none.yaml"),
        ("python -m eval.evaluate runs/mine --protocols knm", "knm"),
        ("python -m pipelines.build_shards folder --output data/mine", "--source"),
        ("python -m ops.bench step --size 3", "size"),
        ("python -m ops.doctor --preflights", "preflights"),
        ("accelerate launch --multi_gpu --num_processes 8 train/pretrain.py --global_batch 0", "global_batch"),
        ("torchrun --nproc-per-node 8 -m eval.evaluate runs/mine --knn.k 0", "knn.k"),
        ("sbatch --nodes=8 ops/slurm/many_nodes.sbatch --optimizer.lr=1", "optimizer.lr"),
        ("python -m eval.ablate head --config train/configs/demo.yaml --data.dir d -- --loss.tau=1", "loss.tau"),
    ],
)
def test_a_flag_that_is_not_there_is_found(
    line: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = commands_of(a_block(line))
    program = program_of(command.words)
    assert program is not None
    with pytest.raises(SystemExit):
        check_arguments(program, monkeypatch)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "python -m train.pretend --seed 1",
        "make cake",
        "pip install 'diptych[everything]'",
        "kubectl apply -k ops/k8s/none",
        "docker compose --file ops/none.yaml up",
        "sbatch ops/slurm/none.sbatch --seed=1",
        "pretrain --seed 1",
    ],
)
def test_a_command_that_names_what_is_not_there_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = commands_of(a_block(line))
    with pytest.raises(UnknownCommandError):
        check_arguments(program_of(command.words) or Program(name="nothing", arguments=()), monkeypatch)


def test_a_block_is_read_as_a_shell_reads_it() -> None:
    block = a_block(
        "export A=1 B=2   # why\nNAME=head\n"
        "C=3 python -m x.y $NAME/$SLURM_ARRAY_TASK_ID 'a b' \\\n  --z && make test > out\n"
        "cat > cells <<'END'\nnothing --here\nEND\nmake demo | head\n# python -m comment\n"
    )
    read = [(command.words, dict(command.environment)) for command in commands_of(block)]
    surroundings = {"A": "1", "B": "2"}
    assert read == [
        (("python", "-m", "x.y", "head/0", "a b", "--z"), surroundings | {"C": "3"}),
        (("make", "test"), surroundings),
        (("cat",), surroundings),
        (("make", "demo"), surroundings),
        (("head",), surroundings),
    ]


def a_block(text: str) -> Block:
    return Block(page="page.md", line=1, language="bash", marks=(), text=f"{text}\n")
