"""The capabilities of a machine, read from proc, and the site's redaction model, which is asked through its engine.

A long text is read in windows, and every failure is one type of error.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.capture.redact.model_findings import WINDOW_CHARACTERS, FoundValue
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.config import RedactionConfig
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.protocol import EntitySpan, JobRequest, JobResult
from edge_agent.errors import EngineNotReady, InputQuarantined, InputTooLong, QueueFull, RedactionHeld
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.plan import MachineCapabilities
from edge_agent.server import engine_access
from edge_agent.server.engine_access import ModelRedactor

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512_vnni\nbugs\t\t: spectre\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd asimddp\n\n"


def lay(root: Path, cpuinfo: str) -> Path:
    """Create a proc file system."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text("MemTotal:        4096000 kB\nMemFree:  12 kB\n")
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "devices", "expected"),
    [
        (
            X86,
            ("cpu", "cuda"),
            MachineCapabilities(4096000 * 1024, frozenset({"cpu", "cuda"}), frozenset({"fpu", "avx2", "avx512_vnni"})),
        ),
        (
            ARM,
            ("cpu", "vulkan"),
            MachineCapabilities(4096000 * 1024, frozenset({"cpu", "vulkan"}), frozenset({"fp", "asimd", "asimddp"})),
        ),
        ("", ("cpu",), MachineCapabilities(4096000 * 1024)),
    ],
)
def test_machine_capabilities_are_read(
    tmp_path: Path, cpuinfo: str, devices: tuple[str, ...], expected: MachineCapabilities
):
    """Memory in bytes, the devices that the engines may use, and the features of a core under either name are read."""
    assert expected == engine_access.read_machine(frozenset(devices), lay(tmp_path, cpuinfo))


def test_machine_without_proc_files_has_no_capabilities(tmp_path: Path):
    """Without proc files the machine has 0 bytes of memory, so the conditions of a plan do not hold, and nothing
    fails."""
    assert MachineCapabilities(0) == engine_access.read_machine(root=tmp_path)


def test_capabilities_of_this_machine_are_read():
    """The real files of this machine are read."""
    here = engine_access.read_machine()
    assert here.memory_bytes > 2**28
    assert here.cpu_features


TASK = {"name": "pii", "kind": "redact", "labels": ["O", "B-NAME", "I-NAME"]}


class Engines:
    """Engines that find capitalized words in texts up to a number of characters."""

    def __init__(self, most: int = 10_000, error: Exception | None = None) -> None:
        self.most, self.error, self.asked = most, error, list[JobRequest]()

    def ready(self, digest: str) -> bool:
        return True

    async def answer(self, run: JobRequest, deadline: float, priority: int, client: str) -> EngineAnswer:
        self.asked.append(run)
        if self.error:
            raise self.error
        if len(run.text) > self.most:
            raise InputTooLong("too long")
        spans = (EntitySpan("NAME", *match.span(), 0.9) for match in re.finditer(r"\b[A-Z]\w*", run.text))
        return EngineAnswer(JobResult(job_id=run.job_id, entities=tuple(spans)), 0.0)


def redactor(engines: Engines, **task: Any) -> ModelRedactor:
    """Return a redactor with these engines; `task` changes the active bundle, None = there is none."""
    plain = {"task": {**TASK, **task}, "version": "1.2.0", "runtime": "echo"}
    bundle = SimpleNamespace(manifest=Manifest.model_validate(plain), digest="0" * 64)
    activation: Any = SimpleNamespace(serving={"pii": bundle})
    return ModelRedactor(RedactionConfig(task="pii"), activation, engines)  # type: ignore[arg-type]


async def test_each_text_is_read_once():
    """A text that occurs twice in an example is read once, and a blank one never."""
    engines = Engines()
    found = await redactor(engines).find(["hi Anna", "hi Anna", " "], 5.0)
    assert (("hi Anna",), "pii@1.2.0") == (tuple(each.text for each in engines.asked), found.model)
    assert {"hi Anna": (FoundValue(3, 7, "NAME", 0.9),), " ": ()} == found.values


async def test_a_long_text_is_read_in_windows():
    """Every name in 1 MB of text is found at its position, and no request is longer than a window."""
    text = "the word and Anna-Lena again " * 36_000
    engines = Engines()
    values = (await redactor(engines).find([text], 60.0)).values[text]
    assert max(len(each.text) for each in engines.asked) <= WINDOW_CHARACTERS
    assert [m.span() for m in re.finditer("Anna|Lena", text)] == [(each.start, each.end) for each in values]


async def test_a_window_of_many_tokens_is_divided_again():
    """A window with more tokens than the model accepts is divided; a text that fits at no size is held permanently."""
    text = "é " * 100 + "Anna" + " é" * 100
    found = await redactor(Engines(most=40)).find([text], 5.0)
    assert ["Anna"] == [text[each.start : each.end] for each in found.values[text]]
    with pytest.raises(RedactionHeld) as caught:
        await redactor(Engines(most=4)).find([text], 5.0)
    assert "True" == caught.value.metadata["permanent"]


@pytest.mark.parametrize(
    ("error", "permanent"),
    [(QueueFull("full"), None), (EngineNotReady("loading"), None), (InputQuarantined("it killed 3"), "True")],
)
async def test_every_failure_of_the_model_raises_one_error(error, permanent):
    """A full queue, a restarting engine and a text that kills the engine raise RedactionHeld, which says whether it is
    permanent."""
    with pytest.raises(RedactionHeld) as caught:
        await redactor(Engines(error=error)).find(["hi"], 5.0)
    assert (permanent, error.reason) == (caught.value.metadata.get("permanent"), caught.value.metadata["cause"])


async def test_bundle_of_another_kind_does_not_redact():
    """A classify task under the redaction model's name raises RedactionHeld."""
    asked = redactor(Engines(), kind="classify", labels=["a", "b"])
    with pytest.raises(RedactionHeld, match="its bundle is of kind classify"):
        await asked.find(["hi"], 5.0)
    assert "" == asked.model


async def test_model_that_exceeds_its_time_raises():
    """A model that does not answer in time raises RedactionHeld."""

    class SilentEngines(Engines):
        async def answer(self, *_: Any) -> EngineAnswer:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(RedactionHeld, match="did not read the text within"):
        await redactor(SilentEngines()).find(["hi"], 0.01)


async def test_model_with_other_labels_redacts_with_them():
    """An update to a model with other entity types changes only the words of the placeholders."""
    engines = Engines()
    asked = redactor(engines, labels=["O", "B-personne physique"])
    found = await asked.find(["hi Anna"], 5.0)
    assert "hi [NAME_1]" == Redactor().start(findings=found).text("hi Anna")
