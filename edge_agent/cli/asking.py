"""What the commands have in common that ask a task about many inputs.

Its annotations are no strings: typer would look for their names in the module of the command that inherits them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import typer

from edge_agent.cli.inputs import FileOption, Inputs, Texts, answers
from edge_agent.cli.results import Form, show
from edge_agent.cli.site import AsJson, Target, TaskArgument, site_of
from edge_agent.client import Answer, Client, Failure

TIMEOUT_SECONDS = 60
_A = TypeVar("_A", bound=Answer)


@dataclass(kw_only=True)
class Asking:
    """The arguments and options of such a command: typer reads the fields like a function's parameters."""

    ctx: typer.Context
    task: TaskArgument
    texts: Texts = None
    file: FileOption = None
    target: Target = ""
    as_json: AsJson = False

    def show(self, call: Callable[[Client, str, list[str]], list[_A | Failure]], form: Form[_A]) -> None:
        """Ask, print each result, and end the command with the code of the first input that failed."""
        inputs = Inputs(self.texts, self.file)
        with site_of(self.ctx).client(self.target, inputs.retry) as client:
            found = answers(
                client, self.task, inputs, lambda task, batch: call(client, task, batch), as_json=self.as_json
            )
            code = show(found, form, self.as_json)
        raise typer.Exit(code)
