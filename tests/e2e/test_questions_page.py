"""docs/questions-from-csv.md: what stands there runs, from the table to an answer over HTTP."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.tls_site import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "questions-from-csv.md"
SECONDS_MAX = 900
ROWS = 360
SMALL = "budget: {agreement_min: 0.0, kl_mean_max: 100.0, accuracy_loss_max: 1.0, golden_cases_min: 0}"
"""So little training gives no model that is worth anything, and any loss passes."""


def program_of(page: str, port: int) -> str:
    """Return the commands of a page in order, with the files that it shows, on some of the rows."""
    found = re.findall(r"```(sh|yaml)\n(.*?)```", page, re.DOTALL)
    assert ["sh", "sh", "sh", "yaml", *["sh"] * 7] == [kind for kind, _ in found]
    commands = [text for _, text in found]
    commands[1] += f"sed -i '{ROWS + 2},$d' build/desk/messages.csv\n"
    commands[3] = f"cat > {commands[3].splitlines()[0].removeprefix('# ')} <<'FILE'\n{commands[3]}FILE\n"
    asked = commands[5].replace("epochs: 4", "epochs: 1")
    commands[5] = asked.replace("edge-convert run", f"echo '{SMALL}' >> build/desk/front/recipe.yaml\nedge-convert run")
    program = "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n" + "\n".join(commands)
    program = program.replace("web: {token_file", f"web: {{address: '127.0.0.1:{port}', token_file")
    return program.replace("127.0.0.1:8390", f"127.0.0.1:{port}")


@pytest.mark.release
def test_the_page_leads_from_a_table_to_answers(tmp_path: Path) -> None:
    """Its commands, one after the other in a fresh folder: the last one prints the answer of the signed bundle."""
    for name in (".venv", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    program = program_of(PAGE.read_text(encoding="utf-8"), free_port())
    with subprocess.Popen(
        ["bash", "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            shell.send_signal(signal.SIGTERM)
            raise
    assert shell.returncode == 0, said[-3000:]
    [answered] = [line for line in said.splitlines() if line.startswith('{"model"')]
    [answer] = json.loads(re.search(r'\{"model".*"usage":\{.*?\}\}\}', answered)[0])["answers"]  # type: ignore[index]
    assert ("predicate", "urgent", 1) == (answer["type"], answer["name"], answer["probability"] <= 1)
    assert "front 0.1.0" in said
