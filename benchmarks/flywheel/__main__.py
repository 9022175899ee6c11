"""Walks the whole way from a large model to a small one: real daemons, real files, minutes.

    scripts/flywheel [--json] [--draw FILE] [--work FOLDER] [--small]
    scripts/flywheel --last --draw FILE     # a chart of the last walk

A fresh site is enrolled and begins in bootstrap: a scripted oracle, called so, answers over HTTP as a large model
would. An expert reviews; the uplink carries sealed examples to the central team; 'assess' says when they are enough; a
small encoder is trained, and again after another round where no threshold keeps the promise; it is published, installed
and tested by the site, runs in shadow and then answers what it is sure of.

The task: 16 groups of goods from the USDA's descriptions of food (goods.py). The small model: all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from benchmarks.flywheel.commands import ProgressLog, StepFailed
from benchmarks.flywheel.figures import Figures, parse
from benchmarks.flywheel.loop import FIGURES_NAME, WORK, FlywheelRun, LoopSize, fresh
from benchmarks.flywheel.picture import draw
from edge_agent.client import CallFailed

SMALL = LoopSize(round_calls=1150, shadow_calls=100, hybrid_calls=200)


def main() -> int:
    """Walk it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/flywheel", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the chart, .png or .svg")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="a folder of its own: a walk empties what the last one left"
    )
    parser.add_argument("--small", action="store_true", help="fewer calls and epochs: does it go all the way?")
    parser.add_argument(
        "--last", action="store_true", help="do not walk: take the figures of the last walk in that folder"
    )
    given = parser.parse_args()
    # So that a walk that is stopped takes its processes with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    screen = ProgressLog()
    work: Path = given.work.absolute()
    try:
        figures = (
            _last(work) if given.last else FlywheelRun(fresh(work), SMALL if given.small else LoopSize(), screen).walk()
        )
    except KeyboardInterrupt:
        screen.line("stopped; nothing is left running", "red")
        return 128 + signal.SIGINT
    except (StepFailed, CallFailed) as error:
        screen.line(f"stopped: {error}", "red")
        if (work / "commands.log").is_file():  # not where the folder was refused
            screen.line(f"logs: {work}/commands.log, {work}/box; the next run starts again", "red")
        return 1
    if given.draw:
        draw(given.draw, figures)
    if given.json:
        sys.stdout.write(json.dumps(figures.plain()) + "\n")
    return 0


def _last(work: Path) -> Figures:
    if not (work / FIGURES_NAME).is_file():
        raise StepFailed(f"{work} holds no walk that went all the way")
    return parse(json.loads((work / FIGURES_NAME).read_text("utf-8")))


if __name__ == "__main__":
    sys.exit(main())
