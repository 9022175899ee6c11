"""Every command that a remedy, a finding or a document prints parses with the programs of today; so does its YAML."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edge_agent.errors import BY_REASON
from tests.support.remedy_commands import (
    PLACEHOLDERS,
    RemedyCommand,
    RemedyRunner,
    command_lines,
    commands_in,
    problem_of,
    shell_blocks,
    unknown_placeholders,
)

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
NOT_EXACT = "VALUE"
"""What stands for a part of a string that the program computes."""


def problems(commands: list[RemedyCommand]) -> list[str]:
    """Return what is wrong with any of them, and words in capitals that no reader could replace."""
    unknown = [f"{each.text}: what is {word}?" for each in commands for word in unknown_placeholders(each)]
    return [found for each in commands if (found := problem_of(each))] + unknown


def strings(path: Path) -> Iterator[str]:
    """Yield the strings of a module, as far as they are fixed, docstrings left out."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    composed = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    skipped = {id(part) for node in composed for part in ast.walk(node)}
    skipped |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    yield from (fixed_part(node) for node in composed)
    yield from (fixed_part(node) for node in nodes if isinstance(node, ast.Constant) and id(node) not in skipped)


def fixed_part(node: ast.expr) -> str:
    """Return a string of a module, with NOT_EXACT for each part that the program computes."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(fixed_part, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else NOT_EXACT


def quoted_in(path: Path) -> list[RemedyCommand]:
    """Return the commands that a module's strings quote, without those that it composes."""
    quoted = [each for text in strings(path) for each in commands_in(text, path.name)]
    return [each for each in quoted if NOT_EXACT not in each.text]


def test_a_sentence_yields_its_commands_and_nothing_else_that_it_quotes():
    """Keys, values and contractions are no commands; both kinds of quotes count; the user shows in the command."""
    text = "Set 'url', don't wait; run 'sudo edge-agent media import /media/usb' or `edge-agent classify TASK x`."
    found = commands_in(text)
    assert [("sudo edge-agent media import /media/usb", "root"), ("edge-agent classify TASK x", "device")] == [
        (each.text, each.user) for each in found
    ]
    assert "edge-agent classify pos x" == found[1].filled(TASK="pos").text


def test_a_line_of_a_shell_is_taken_apart():
    """Pipes, conditions and redirections separate steps; what is quoted stays one word."""
    (command,) = command_lines("sudo journalctl -u edge-agent | grep 'a b' | tail -50 > out.txt && edge-agent status")
    expected = (("sudo", "journalctl", "-u", "edge-agent"), ("grep", "a b"), ("tail", "-50"), ("edge-agent", "status"))
    assert (expected, "root") == (command.steps, command.user)


def test_the_user_of_a_command_shows_in_it():
    """Without sudo, the socket that the command uses says who may run it."""
    texts = ("edge-agent status", "edge-agent review", "edge-convert collect x", "edge-agent certs show f", "ls -l /x")
    users = [RemedyCommand(text).user for text in texts]
    assert ["operator", "reviewer", "central", "anyone", "anyone"] == users


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("edge-agent status", ""),
        ("edge-agent rollback TASK", ""),
        ("edge-convert collect", ""),
        ("edge-agent rollback", ""),
        ("edge-convert media … --site ID", ""),
        ("sudo edge-agent-setup --kit FILE", ""),
        ("edge-agent bundles lost", "edge-agent bundles lost: 'bundles' has no command 'lost'"),
        ("edge-agent certs issue --role infer", "edge-agent certs issue --role infer: missing: CLIENT"),
        ("edge-agent status --all", "edge-agent status --all: No such option: --all"),
        ("edge-agent install a b", "edge-agent install a b: unexpected argument: b"),
        (
            "sudo edge-agent-setup repair",
            "edge-agent-setup: error: argument COMMAND: invalid choice: 'repair'",
        ),
    ],
)
def test_a_command_is_checked_without_being_run(text, problem):
    """A name alone is a mention, which only has to exist; with any argument the whole command has to parse."""
    found = problem_of(RemedyCommand(text))
    assert (bool(problem), True) == (bool(found), problem.rpartition(": ")[2] in found)


def test_a_value_that_is_none_of_the_choices_is_a_problem():
    """The command's own types check it."""
    said = problem_of(RemedyCommand("edge-agent logs --lines many"))
    assert ("", True) == (
        problem_of(RemedyCommand("edge-agent logs --lines 50")),
        "Invalid value for '--lines'" in said,
    )


def test_every_remedy_of_the_error_catalogue_parses():
    """What an error advises can be typed."""
    assert [] == problems([each for cls in BY_REASON.values() for each in commands_in(cls.remedy_default, cls.reason)])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_shell_block_of_a_document_parses(path):
    """Fenced blocks, line by line."""
    assert [] == problems(shell_blocks(path.read_text(encoding="utf-8"), path.name))


def test_every_command_of_the_run_book_parses():
    """Also those within a sentence."""
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    found = [each for line in text.splitlines() for each in commands_in(line, "runbook.md")]
    assert (True, []) == (len(found) > 50, problems(found))


@pytest.mark.parametrize("package", ["edge_agent", "convert", "installer"])
def test_every_command_that_a_sentence_of_the_program_quotes_exists(package):
    """Messages and remedies that the program composes name commands and options of today."""
    paths = [path for path in sorted((ROOT / package).rglob("*.py")) if "v1" not in path.parts]
    naming = [path for path in paths if re.search(r"['`](sudo )?edge-", path.read_text(encoding="utf-8"))]
    found = [problem_of(each) for path in naming for each in quoted_in(path)]
    assert (True, []) == (bool(found), [said for said in found if said and ": missing" not in said])


def test_placeholders_are_explained_by_an_example():
    """Each has one, and no example is a placeholder itself."""
    assert set() == {name for name, example in PLACEHOLDERS.items() if not example or example in PLACEHOLDERS}


def test_a_runner_runs_a_command_as_printed(tmp_path):
    """Pipes are the shell's; sudo is left out; what stands in for a program gets its arguments; a failure ends it."""
    restarted = []
    runner = RemedyRunner(tmp_path / "bin", ("echo", "ran"), {"systemctl": lambda words: restarted.append(words) or 0})
    said = runner.run(RemedyCommand("sudo edge-agent rollback TASK | tr a-z A-Z"), TASK="pos").said
    failed = runner.run(RemedyCommand("false && sudo systemctl restart edge-agent"))
    runner.run(RemedyCommand("sudo systemctl restart edge-agent"))
    assert ("RAN ROLLBACK POS\n", 1, [["restart", "edge-agent"]]) == (said, failed.code, restarted)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_yaml_in_a_document_can_be_copied(path: Path):
    """Each block parses as the programs read it: a `?` in a flow mapping needs quotes, and lines stay apart."""
    for block in re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        assert isinstance(yaml.safe_load(block), dict | list), block
