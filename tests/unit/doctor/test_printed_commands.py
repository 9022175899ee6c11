"""Every command that a remedy, a finding or a document prints is accepted by the current programs; so is its YAML."""

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
    """Return the problems of the commands, and words in capitals that no reader could replace."""
    unknown = [f"{each.text}: what is {word}?" for each in commands for word in unknown_placeholders(each)]
    return [found for each in commands if (found := problem_of(each))] + unknown


def strings(path: Path) -> Iterator[str]:
    """Yield the fixed strings of a module, without docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    composed = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    skipped = {id(part) for node in composed for part in ast.walk(node)}
    skipped |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    yield from (fixed_part(node) for node in composed)
    yield from (fixed_part(node) for node in nodes if isinstance(node, ast.Constant) and id(node) not in skipped)


def fixed_part(node: ast.expr) -> str:
    """Return a string of a module, with NOT_EXACT for each computed part."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(fixed_part, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else NOT_EXACT


def quoted_in(path: Path) -> list[RemedyCommand]:
    """Return the commands that a module's strings quote, without those with computed parts."""
    quoted = [each for text in strings(path) for each in commands_in(text, path.name)]
    return [each for each in quoted if NOT_EXACT not in each.text]


def test_commands_are_extracted_from_a_sentence():
    """Only commands are extracted from a sentence, in both kinds of quotes and with their user; keys, values and
    contractions are not."""
    text = "Set 'url', don't wait; run 'sudo edge-agent media import /media/usb' or `edge-agent classify TASK x`."
    found = commands_in(text)
    assert [("sudo edge-agent media import /media/usb", "root"), ("edge-agent classify TASK x", "device")] == [
        (each.text, each.user) for each in found
    ]
    assert "edge-agent classify pos x" == found[1].filled(TASK="pos").text


def test_shell_line_is_split_into_steps():
    """Pipes, conditions and redirections separate the steps of a shell line; a quoted text stays one word."""
    (command,) = command_lines("sudo journalctl -u edge-agent | grep 'a b' | tail -50 > out.txt && edge-agent status")
    expected = (("sudo", "journalctl", "-u", "edge-agent"), ("grep", "a b"), ("tail", "-50"), ("edge-agent", "status"))
    assert (expected, "root") == (command.steps, command.user)


def test_user_of_a_command_follows_from_its_socket():
    """A command without sudo belongs to the user of its socket: operator, reviewer, central team or anyone."""
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
def test_command_is_checked_without_being_run(text, problem):
    """A command with arguments must parse completely; a name alone only has to exist."""
    found = problem_of(RemedyCommand(text))
    assert (bool(problem), True) == (bool(found), problem.rpartition(": ")[2] in found)


def test_option_value_of_the_wrong_type_is_a_problem():
    """An option's value is checked by the command's own types."""
    said = problem_of(RemedyCommand("edge-agent logs --lines many"))
    assert ("", True) == (
        problem_of(RemedyCommand("edge-agent logs --lines 50")),
        "Invalid value for '--lines'" in said,
    )


def test_every_remedy_of_the_error_catalogue_parses():
    """Every command in a default remedy of the error catalogue parses."""
    assert [] == problems([each for cls in BY_REASON.values() for each in commands_in(cls.remedy_default, cls.reason)])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_shell_block_of_a_document_parses(path):
    """Every line of a document's shell blocks parses."""
    assert [] == problems(shell_blocks(path.read_text(encoding="utf-8"), path.name))


def test_every_command_of_the_runbook_parses():
    """Every command in the runbook parses, also those within a sentence."""
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    found = [each for line in text.splitlines() for each in commands_in(line, "runbook.md")]
    assert (True, []) == (len(found) > 50, problems(found))


@pytest.mark.parametrize("package", ["edge_agent", "convert", "installer"])
def test_every_command_quoted_by_the_program_exists(package):
    """Messages and remedies of the program name only existing commands and options."""
    paths = [path for path in sorted((ROOT / package).rglob("*.py")) if "v1" not in path.parts]
    naming = [path for path in paths if re.search(r"['`](sudo )?edge-", path.read_text(encoding="utf-8"))]
    found = [problem_of(each) for path in naming for each in quoted_in(path)]
    assert (True, []) == (bool(found), [said for said in found if said and ": missing" not in said])


def test_every_placeholder_has_an_example():
    """Every placeholder has an example, and no example is a placeholder itself."""
    assert set() == {name for name, example in PLACEHOLDERS.items() if not example or example in PLACEHOLDERS}


def test_remedy_runner_runs_a_command_as_printed(tmp_path):
    """The runner executes a command in a shell without sudo, passes arguments to stand-in programs, and returns the
    exit code of a failure."""
    restarted = []
    runner = RemedyRunner(tmp_path / "bin", ("echo", "ran"), {"systemctl": lambda words: restarted.append(words) or 0})
    said = runner.run(RemedyCommand("sudo edge-agent rollback TASK | tr a-z A-Z"), TASK="pos").said
    failed = runner.run(RemedyCommand("false && sudo systemctl restart edge-agent"))
    runner.run(RemedyCommand("sudo systemctl restart edge-agent"))
    assert ("RAN ROLLBACK POS\n", 1, [["restart", "edge-agent"]]) == (said, failed.code, restarted)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_yaml_in_a_document_can_be_copied(path: Path):
    """Every YAML block of a document parses: a `?` in a flow mapping needs quotes, and lines stay apart."""
    for block in re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        assert isinstance(yaml.safe_load(block), dict | list), block
