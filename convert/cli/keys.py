"""`edge-convert keys create|show|rotate|signing|signer`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from convert.cli.progress_output import out
from convert.publish import central_keys, key_rotation, keyring, layout
from edge_agent.cli.terminal import say, table
from edge_agent.durable.atomic_files import is_dir, read_small
from edge_agent.errors import InvalidRequest

app = typer.Typer(
    no_args_is_help=True,
    help="Create and show the central team's keys: for reading examples, signing receipts and signing updates.",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the keys.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File whose first line is the passphrase of the keys. Without it the command prompts for it.",
    ),
]


@app.command()
def create(
    folder: Folder,
    passphrase_file: PassphraseFile = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the private keys; prompts for the passphrase.")
    ] = False,
) -> None:
    """Create new keys, and print the public half that every site needs.

    Keep the folder off the sites and in a backup: without it nobody can read the segments that sites sealed.

    Example: [bold]edge-convert keys create central-keys --passphrase[/bold]
    """
    _print(central_keys.create(folder, new_passphrase(passphrase_file, passphrase)))


@app.command()
def signing(
    folder: Folder,
    root: Annotated[
        str, typer.Option(metavar="MofN", help="Root keys, which sign the keys of all roles: M of N must sign.")
    ] = "2of3",
    targets: Annotated[
        str, typer.Option(metavar="MofN", help="Targets keys, which sign bundles: M of N must sign.")
    ] = "2of3",
    passphrase_file: PassphraseFile = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the private keys; prompts for the passphrase.")
    ] = False,
) -> None:
    """Create the keys that sign updates (root and targets, to be kept offline; plan; online) and the root.json that
    every site trusts.

    Afterwards move the private halves of root and targets, and unlock.age if there is one, to separate places: anyone
    who has enough of them can sign for the whole fleet. root.json goes to every site.

    Example: [bold]edge-convert keys signing signing-keys --passphrase[/bold]
    """
    secret = new_passphrase(passphrase_file, passphrase)
    key_rotation.create(folder, time.time(), _quorum(root), _quorum(targets), secret)
    _print_signing(folder)


@dataclass(kw_only=True)
class SigningKeyCommand:
    """Create one more signing key, or register one that a service or a device holds. 'rotate ROLE --add' puts it to
    use.

    The folder can be a new one of a person who gives you NAME.pub afterwards.

    Example: [bold]edge-convert keys signer anna-keys anna --role targets --passphrase[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    folder: Folder
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, such as the holder's name.")]
    role: Annotated[str, typer.Option(metavar="ROLE", help="Role of the key: root, targets, plan or online.")]
    uri: Annotated[
        str, typer.Option(metavar="URI", help="URI of the private half: awskms:…, gcpkms:…, azurekms:…, hsm:…, hv:…")
    ] = ""
    public: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --uri: file of the public half, in PEM.")
    ] = None
    passphrase_file: PassphraseFile = None
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the private half; prompts for the passphrase.")
    ] = False

    def __post_init__(self) -> None:
        """Run the command."""
        if self.role not in (layout.ROOT, layout.TARGETS, layout.PLAN, layout.ONLINE):
            raise InvalidRequest(f"'{self.role}' is not a role", remedy="One of: root, targets, plan, online.")
        if bool(self.uri) != (self.public is not None):
            raise InvalidRequest("--uri and --public go together", remedy="Name both, or neither to create a key here.")
        passphrase = new_passphrase(self.passphrase_file, self.passphrase)
        central_keys.check_passphrase(passphrase)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if passphrase:
            keyring.lock(self.folder, passphrase)
        if self.public is None:
            key_file = keyring.Keyring([self.folder], lambda _: ask_passphrase()).make(self.name, self.role)
        else:
            public = read_small(self.public)
            key_file = keyring.register_external(self.folder, self.name, self.role, self.uri, public)
        say(describe_key(key_file))


app.command("signer")(SigningKeyCommand)


@app.command()
def show(folder: Folder) -> None:
    """Print the public half that every site needs, for agent.yaml. Needs no passphrase."""
    signs = is_dir(folder) and next(keyring.read_folder(folder), None) is not None
    if signs:
        _print_signing(folder)
    if not signs or (folder / central_keys.RECIPIENT).is_file():
        _print(central_keys.read_public(folder))


@app.command()
def rotate(folder: Folder, passphrase_file: PassphraseFile = None) -> None:
    """Add a new key for reading examples. Segments that were, or still are, sealed to an old one stay readable.

    Give the new recipient to the sites afterwards.
    """
    _print(central_keys.rotate(folder, passphrase_reader(passphrase_file)))


def passphrase_reader(passphrase_file: Path | None) -> central_keys.Ask:
    """Return a function that reads the passphrase: from the file, or from the person at the terminal."""
    if passphrase_file is not None:
        return lambda: central_keys.read_passphrase(passphrase_file)
    return ask_passphrase


def ask_passphrase(folder: Path | None = None) -> str:
    """Prompt for the passphrase of keys, naming their folder if it is given.

    Raises:
        InvalidRequest: there is no terminal.
    """
    where, whose = (f" in {folder}", f" of {folder}") if folder else ("", "")
    if not typer.get_text_stream("stdin").isatty():
        message = f"the keys{where} have a passphrase, and there is no terminal to prompt for it"
        raise InvalidRequest(message, remedy="Name a file that holds it: --passphrase-file FILE.")
    typed: str = typer.prompt(f"Passphrase{whose}", hide_input=True, err=True)
    return typed


def new_passphrase(passphrase_file: Path | None, ask: bool, prompt: str = "Passphrase") -> str:
    """Return a new passphrase: from the file, or typed twice at the terminal; empty = none."""
    if passphrase_file is not None:
        return central_keys.read_passphrase(passphrase_file)
    if not ask:
        return ""
    typed: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
    return typed


def _quorum(text: str) -> key_rotation.RoleQuorum:
    threshold, separator, count = text.partition("of")
    if not (separator and threshold.isdecimal() and count.isdecimal()):
        raise InvalidRequest(f"'{text}' is not a number of keys", remedy="Write MofN, such as 2of3.")
    return key_rotation.RoleQuorum(int(count), int(threshold))


def _print_signing(folder: Path) -> None:
    key_table = table("key", "role", "type", "private half", wrap=("key", "private half"))
    for key_file in keyring.read_folder(folder):
        key_type = f"{key_file.key.keytype} {key_file.key.keyid[:12]}"
        key_table.add_row(key_file.name, key_file.role, key_type, _private(key_file))
    out().print(key_table)
    if (folder / keyring.ANCHOR).is_file():
        root = keyring.root_of(folder).signed
        say(f"Every site needs {folder / keyring.ANCHOR}: 'root_file' under 'update' in agent.yaml.")
        say(
            f"It is version {root.version} and expires on {root.expires:%Y-%m-%d}: edge-convert renew root targets plan"
        )


def describe_key(key_file: keyring.PublicKeyFile) -> str:
    """Describe a key and where both halves are."""
    key = f"{key_file.role} key {key_file.name}, {key_file.key.keytype} {key_file.key.keyid[:12]}, {_private(key_file)}"
    return f"{key_file.folder / (key_file.name + keyring.PUBLIC)}: {key}"


def _private(key_file: keyring.PublicKeyFile) -> str:
    if key_file.private is not None:
        sealed = key_file.private.suffix == keyring.SEALED
        return f"{key_file.private.name}, {'under a passphrase' if sealed else 'not encrypted'}"
    return key_file.uri or "not here"


def _print(public: central_keys.CentralPublicKeys) -> None:
    say(f"site:\n  recipients: [{public.recipient}]\n  receipt_keys: [{public.receipts}]")
