"""Stages for tests of the pipeline; as a program, a run of them on a recipe.

`cross` does what the file `wish` beside the recipe says.
"""

import os
import signal
import sys
from pathlib import Path

from convert.pipeline import recipe
from convert.pipeline.execution import PipelineStage, RunDisplay, run
from convert.pipeline.stage import Report, StageJob
from edge_agent.errors import InvalidRequest

HERE = "tests.support.pipeline_stages"
LIMIT = 64 * 1024


def first(job: StageJob) -> Report:
    """Copy the training rows."""
    text = job.recipe.path(job.recipe.data.train).read_text()
    (job.out / "rows").write_text(text)
    job.progress("copying", 1, 1)
    return {"rows": len(text.splitlines())}


def cross(job: StageJob) -> Report:
    """Behave as the test requests: fail, be killed, fill the disk, or continue."""
    wish = job.recipe.path("wish")
    said = wish.read_text() if wish.exists() else ""
    (job.out / "half").write_text("half a result")
    if said == "fail":
        raise InvalidRequest("the stage refuses", remedy="Wish for something else.")
    if said == "interrupt":
        signal.raise_signal(signal.SIGINT)
    if said == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if said in ("fill", "fill and hide"):
        _fill(job.out / "big", hide=said == "fill and hide")
    if said == "no package":
        raise ModuleNotFoundError("no module named torch", name="torch")
    (job.out / "rows").write_text((job.folders["first"] / "rows").read_text())
    return {"said": said}


def last(job: StageJob) -> Report:
    """Read both."""
    return {"read": sorted(path.name for folder in job.folders.values() for path in folder.iterdir())}


def _fill(path: Path, *, hide: bool) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * LIMIT)
    except OSError:
        if hide:  # As a library does that has errors of its own.
            raise RuntimeError("basic_ios::clear: iostream error") from None
        raise


STAGES = {
    "first": PipelineStage(HERE, (), (), ("train",), ("numpy",), "first"),
    "cross": PipelineStage(HERE, ("first",), ("finetune",), ("cutoff",), (), "cross"),
    "last": PipelineStage(HERE, ("first", "cross"), ("risk",), ("task.yaml",), (), "last"),
}

if __name__ == "__main__":
    run(
        recipe.read(Path(sys.argv[1])),
        display=RunDisplay(
            note=lambda *said: print(*said, flush=True)  # noqa: T201
        ),
        stages=STAGES,
    )
