"""The daemon, one component of which fails for as long as a file exists; the seam is the supervisor's `wrap`.

python -m tests.support.failing_component --config FILE --state-dir FOLDER --run-dir FOLDER serve

The file is `component-fails` in the folder of `state_dir`; its text is the component's name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_agent.config import Overrides, load
from edge_agent.daemon import serve
from edge_agent.supervision import Component, Run

FILE_NAME = "component-fails"


def main() -> int:
    """Serve; return the exit code."""
    parser = argparse.ArgumentParser()
    for option in ("--config", "--state-dir", "--run-dir"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("command", choices=["serve"])
    given = parser.parse_args()
    file = given.state_dir.parent / FILE_NAME

    def wrap(component: Component) -> Run:
        async def run() -> None:
            if file.exists() and file.read_text() == component.name:
                raise OSError("what nobody expects")
            await component.run()

        return run

    return serve(load(given.config, Overrides(given.state_dir, given.run_dir)), wrap)


if __name__ == "__main__":
    sys.exit(main())
