"""Installed tasks, their bundles and their questions, as every call returns them: frozen values, free of gRPC."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BundleRef:
    """The exact version of a task."""

    task: str
    version: str
    digest: str
    """Lower-case hexadecimal sha256 of the stored manifest.json."""


@dataclass(frozen=True)
class QuestionOption:
    """One possible answer to a question, and what it means."""

    label: str
    description: str = ""


@dataclass(frozen=True)
class TaskQuestion:
    """What is asked about an input: by a task, or by a call where the task takes questions from calls."""

    name: str
    type: str = ""
    """PREDICATE, CHOICE or SCORE; empty in a call = the task's own question of that name."""
    instructions: str = ""
    options: tuple[QuestionOption, ...] = ()
    """In their order; a call may leave them out for a predicate."""
    threshold: float | None = None
    """The least confidence of a confident answer; None when the question has none, and in a call."""


@dataclass(frozen=True)
class Task:
    """An installed task."""

    name: str
    kind: str
    """CLASSIFY, DECIDE, EXTRACT, GENERATE or EMBED."""
    bundle: BundleRef
    labels: tuple[str, ...]
    input_tokens_max: int
    output_tokens_max: int
    inputs_max: int
    ready: bool
    signed: bool
    threshold: float | None
    mode: str = "LOCAL"
    """BOOTSTRAP, SHADOW, HYBRID or LOCAL: who answers."""
    mode_by: str = ""
    """operator, plan, configuration, bundle or alarm: who put it into that mode; empty from a daemon that says not."""
    record_schema: str = ""
    """Only from `task`: the JSON Schema that its records keep to; empty where it writes none."""
    confidence_blocker: str = ""
    """Why no answer of it is confident on this machine; empty = nothing prevents it."""
    gate: str = ""
    """What holds up inputs unlike the training data: "ood_score", "label_mass" or "none"; empty from a daemon that
    does not say."""
    questions: tuple[TaskQuestion, ...] = ()
    """Of a decide task, in the model's order."""
    open_questions: bool = False
    """A call of `decide` may bring questions of its own."""
