"""Every command of the docs that needs no more than this machine does what it says, on tiny data."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from documented_programs import PRETRAIN, Program, program_of
from forked_programs import ForkedPrograms
from markdown_pages import PAGES, Block, fenced_blocks
from reader_directory import lay_out, make_stock
from shell_commands import Command, commands_of
from started_ranks import TINY

BLOCKS = [block for page in PAGES for block in fenced_blocks(page) if block.language == "bash" and not block.marks]
SLOW = ("docs/export.md", "docs/evaluation_training.md", "docs/report.md")
"""Pages whose blocks take long even on tiny data; `make slow` runs them."""
WORDS = {"KEY": "n00001"}
"""Placeholders that a reader replaces."""
SHORTER = {
    PRETRAIN: [*TINY, "--global_batch=8", "--stop_after_steps=2", "--views.size=16"],
    "ops.doctor": [*TINY, "--seconds=0.2"],
    "eval.evaluate": [
        *("--cpu_threads=1", "--transfer.steps=2", "--transfer.learning_rates=0.1", "--transfer.weight_decays=0")
    ],
    "eval.report": ["--points=40"],
    "pipelines.build_shards textures": ["--train-count=8", "--test-count=4"],
}
"""What is added to a program's flags, so that it takes seconds."""
SHORTER_PROTOCOLS = {
    "finetune": ["--finetune.fractions=0.1", "--finetune.epochs=1"],
    "supervised": ["--supervised.epochs=1"],
}
"""Likewise, where the documented command says nothing of the protocol."""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stock(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def programs() -> Iterator[ForkedPrograms]:
    forked = ForkedPrograms()
    yield forked
    forked.close()


def marked(block: Block) -> object:
    return pytest.param(block, id=str(block), marks=[pytest.mark.slow] if block.page in SLOW else [])


@pytest.mark.parametrize("block", [marked(block) for block in BLOCKS])
def test_the_commands_of_a_block_do_what_they_say(
    block: Block, stock: Path, programs: ForkedPrograms, tmp_path: Path
) -> None:
    directory = lay_out(stock, tmp_path, block.text)
    for command in commands_of(block):
        program = prepared(command)
        for output in outputs(program):  # a reader has none yet, whatever the block before it made
            remove(directory / output)
        environment = {"HOME": str(tmp_path), **command.environment}
        status, printed = programs.run(program.name, program.arguments, directory, environment)
        assert status == 0, f"{command}\n{printed}"
        for output in outputs(program):
            assert (directory / output).exists() != only_looks(program), f"{command}: {output}\n{printed}"


def test_there_are_commands_to_run() -> None:
    names = {prepared(command).name for block in BLOCKS for command in commands_of(block)}
    assert names >= {PRETRAIN, "pipelines.build_shards", "eval.evaluate", "eval.report", "model.export", "ops.doctor"}


def prepared(command: Command) -> Program:
    """The program, with a reader's own words, and with less to do; only what runs here may stand in such a block."""
    program = program_of(command.words)
    assert program is not None, f"{command}: not a program of ours; mark the block with what it needs"
    assert program.is_alone, f"{command}: needs more than this machine; mark the block"
    arguments = [WORDS.get(word, word) for word in program.arguments]
    name = f"{program.name} {arguments[0]}" if program.name == "pipelines.build_shards" else program.name
    shorter = SHORTER.get(name, [])
    if name == "eval.evaluate":
        for protocol, flags in SHORTER_PROTOCOLS.items():
            if not any(word.startswith(f"--{protocol}.") for word in arguments):
                shorter = [*shorter, *flags]
    return replace(program, arguments=(*arguments, *shorter))


def outputs(program: Program) -> list[str]:
    """Paths that the command makes, or would make."""
    flags = ("--output", "--run_dir") if program.name in (PRETRAIN, "ops.doctor") else ("--output",)
    return [after for word, after in pairwise(program.arguments) if word in flags]


def only_looks(program: Program) -> bool:
    return program.name == "ops.doctor" or "--dry-run" in program.arguments


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
