"""`edge-convert plan show|edit|diff|halt`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.repository_options import RepositoryCommand, Stage, Yes
from convert.publish import plan_text, repository_reader
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from edge_agent.cli.terminal import report, say, write_exactly
from edge_agent.errors import InvalidRequest, PlanInvalid
from edge_agent.formats.plan import PLAN_BYTES_MAX, RolloutPlan, encode

app = typer.Typer(
    no_args_is_help=True,
    help="Show and change the plan: which bundle each site should run, from when, and on what conditions.",
)

File = Annotated[Path | None, typer.Option(metavar="FILE", help="The plan in YAML or JSON.")]
_REJECTED_FILE = Path("plan.rejected.yaml")
_EXAMPLE = """
# The plan. Save and close to publish it; empty the file to change nothing. Signed bundles:
{bundles}
#
# channels:
#   stable:                       # 'channel' under 'update' in a site's agent.yaml
#     tasks:
#       {task}:
#         offers:                 # the first one that fits the machine
#         - version: {version}
#           requires: {{memory_bytes_min: 4000000000}}      # also devices: [cuda], cpu_features: [avx2]
#         waves:                  # without waves: all sites at once
#         - {{start: 2026-12-01T02:00:00Z, percent: 5}}
#         - {{start: 2026-12-03T02:00:00Z, percent: 100}}
#         window: {{start: 02:00, end: 04:00}}              # when a site may switch, by its own clock
#         mode: hybrid            # bootstrap, shadow, hybrid or local; default: the site's own
#         demote_on: [errors]     # alarms that put it into shadow on a site; default: none. docs/routing.md
#     bytes_per_second_max: 200000
# sites:                          # replaces the channel's entry for the same task
#   shop-1:
#     tasks: {{}}
"""


@dataclass(kw_only=True)
class ShowPlan(RepositoryCommand):
    """Print the current plan, and the bundles that a plan can name.

    Example: [bold]edge-convert plan show --repo s3://fleet/updates --keys signing-keys[/bold]
    """

    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON as the sites receive it, with version and time.")
    ] = False

    def __post_init__(self) -> None:
        """Run the command."""
        state = self.publisher().read_state()
        if self.as_json:
            write_exactly(encode(state.plan).decode(), end="")
        else:
            say(f"# plan {state.plan.version} of {state.plan.issued_at}; signed bundles:\n{_bundles(state)}")
            say(plan_text.write(state.plan).rstrip("\n") or "# The plan is empty: every site keeps what it has.")
        repository_options.show_expiry(state, err=True)


@dataclass(kw_only=True)
class EditPlan(RepositoryCommand):
    """Change the plan in your editor, or take it from a file. Shows the effect and asks before it publishes.

    Needs the plan key and the online key. A plan can name signed bundles only.

    Example: [bold]edge-convert plan edit --repo s3://fleet/updates --keys plan-keys --file plan.yaml[/bold]
    """

    file: File = None
    yes: Yes = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        state = publisher.read_state()
        plan = _from_file(self.file, state) if self.file else _from_editor(state)
        _publish(publisher, plan, self.yes, self.stage)


@dataclass(kw_only=True)
class DiffPlan(RepositoryCommand):
    """Show what a file would change in the current plan; without a file, show the last change.

    Example: [bold]edge-convert plan diff --repo s3://fleet/updates --keys signing-keys --file plan.yaml[/bold]
    """

    file: File = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher()
        state = publisher.read_state()
        old = state.plan if self.file else _previous_plan(publisher, state)
        new = _from_file(self.file, state) if self.file else state.plan
        plan_text.require_signed(new, state.bundles())
        if plan_text.same_plan(old, new):
            say("no difference")
        _show(old, new)
        repository_options.show_expiry(state, err=True)


@dataclass(kw_only=True)
class HaltRollout(RepositoryCommand):
    """Stop a rollout now: no more sites switch; sites that have switched keep the bundle. Needs only the plan and
    online keys.

    With the plan key alone use --stage FOLDER; the holder of the online key publishes it with 'publish --staged
    FOLDER'.

    To return those sites to the earlier bundle, name that bundle in the plan: 'edge-convert plan edit'.

    Example: [bold]edge-convert plan halt pos-intent --repo s3://fleet/updates --keys plan-keys[/bold]
    """

    task: Annotated[str, typer.Argument(metavar="TASK", help="The task whose rollout stops.")]
    channel: Annotated[str, typer.Option(metavar="NAME", help="In this channel only.")] = ""
    site: Annotated[str, typer.Option(metavar="ID", help="On this site only.")] = ""
    resume: Annotated[bool, typer.Option("--resume", help="Resume a halted rollout.")] = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        order = plan_text.HaltOrder(self.task, self.channel, self.site, self.resume)
        _publish(publisher, plan_text.halt(publisher.read_state().plan, order), True, self.stage)


for _name, _command in {"show": ShowPlan, "edit": EditPlan, "diff": DiffPlan, "halt": HaltRollout}.items():
    app.command(_name)(_command)


def _previous_plan(publisher: Publisher, state: RepositoryState) -> RolloutPlan:
    previous = repository_reader.previous_plan(publisher.storage, state)
    if previous is None:
        raise InvalidRequest("there is no earlier plan to compare with", remedy="Name a --file.")
    return previous


def _publish(publisher: Publisher, plan: RolloutPlan, yes: bool, stage: Path | None) -> None:
    state = publisher.read_state()
    plan_text.require_signed(plan, state.bundles())
    message = "Nothing was changed: the current plan is the same."
    if not plan_text.same_plan(plan, state.plan):
        _show(state.plan, plan)
        repository_options.confirm("Publish this plan?", yes)
        message = f"plan {publisher.set_plan(plan).version} is published"
    repository_options.finish(publisher, message, stage)


def _show(old: RolloutPlan, new: RolloutPlan) -> None:
    console = progress_output.out()
    for line in plan_text.differences(old, new):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console.print(Text(line, style))
    for line in plan_text.consequences(old, new):
        console.print(Text.assemble(("effect: ", "bold"), line))


def _from_file(path: Path, state: RepositoryState) -> RolloutPlan:
    with path.open("rb") as file:
        raw = file.read(PLAN_BYTES_MAX + 1)
    if len(raw) > PLAN_BYTES_MAX:
        message = f"{path} has more than {PLAN_BYTES_MAX} bytes"
        raise InvalidRequest(message, remedy="Put more into channels, and less into single sites.")
    try:
        return plan_text.read(raw.decode(), state.bundles())
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not UTF-8 text", remedy="Save it as UTF-8.") from None


def _from_editor(state: RepositoryState) -> RolloutPlan:
    bundles = state.bundles()
    last = list(bundles.values())[-1] if bundles else None
    task, version = (last.task, last.version) if last else ("my-task", "1.0.0")
    text = plan_text.write(state.plan) + _EXAMPLE.format(bundles=_bundles(state), task=task, version=version)
    while True:
        edited = click.edit(text, extension=".yaml")
        if edited is None or not edited.strip():
            return state.plan
        try:
            plan = plan_text.read(edited, bundles)
            plan_text.require_signed(plan, bundles)
        except PlanInvalid as error:
            report(error.message, error.remedy)
            if not typer.confirm("Edit it again?", default=True, err=True):
                _REJECTED_FILE.write_text(edited, encoding="utf-8")
                raise PlanInvalid(f"{error.message}; your text is in {_REJECTED_FILE}", remedy=error.remedy) from None
            text = edited
        else:
            return plan


def _bundles(state: RepositoryState) -> str:
    lines = [f"#   {each.task} {each.version}  {each.digest}" for each in state.bundles().values()]
    return "\n".join(lines) or "#   none: edge-convert publish BUNDLE"
