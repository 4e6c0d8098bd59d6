"""``bci-align``: the commands and what every one of them does with a fault."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from bci_align import __version__
from bci_align.cli.common import plain
from bci_align.errors import BciAlignError

COMMANDS = {
    "import": ("bci_align.cli.sessions", "import_command", "Bring a foreign recording into a session file."),
    "inspect": ("bci_align.cli.sessions", "inspect_command", "Show what a session, a bundle or a recording holds."),
    "train": ("bci_align.cli.bundles", "train_command", "Train a bundle on the source day."),
    "evaluate": ("bci_align.cli.bundles", "evaluate_command", "Score a bundle on a session."),
    "recalibrate": ("bci_align.cli.bundles", "recalibrate_command", "Align a bundle to a new day without labels."),
    "augment": ("bci_align.cli.augment", "augment_command", "Learn from a session's trials to generate new ones."),
    "retrain": ("bci_align.cli.retrain", "retrain_command", "Refit a decoder on labelled trials, and on generated ones."),
    "replay": ("bci_align.cli.live", "replay_command", "Play a session through the live system, or decode a recording again."),
    "run": ("bci_align.cli.running", "run_command", "Decode a live rig."),
    "control": ("bci_align.cli.control", "control_command", "Give an order to a run that is going."),
    "doctor": ("bci_align.cli.doctor", "doctor_command", "Check this computer, predict the decoder's tail."),
    "audit": ("bci_align.cli.recordings", "audit_command", "Check the log of decisions."),
    "keys": ("bci_align.cli.keys", "keys_command", "Make keys for ZeroMQ sockets that leave this machine."),
    "explain": ("bci_align.cli.explain", "explain_command", "Tell which factor carries which movement, and film it."),
    "benchmark": ("bci_align.cli.benchmark", "benchmark_command", "Compare methods on pairs of days."),
}
"""Name: (module, function, one line of help). Modules are imported when their command runs: torch takes seconds to import."""


class Lazy(click.Group):
    """A group that imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bci-align")
def cli() -> None:
    """Online recalibration of brain-computer interface decoders, without labels.

    A first hour: import a recording, train a bundle on the source day, recalibrate it to a later day, replay that day through
    the live system, then run it on the rig. Every command has its own --help.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status.

    It is 0, 1 unfit (doctor), 2 bad input, 3 refused by the gate, 4 a recording or a log that is not what it says, 130 Ctrl-C,
    143 terminated.
    Faults of the project's own family become one sentence on standard error (and ``{"error": ...}`` with ``--json``).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def terminated(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(143)  # unwinds like Ctrl-C: temporaries removed, processes stopped

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        cli.main(args=arguments, prog_name="bci-align", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("bci-align: interrupted; nothing was left half written", err=True)
        return 130
    except BciAlignError as e:
        click.echo(f"bci-align: {e}", err=True)
        if "--json" in arguments:
            click.echo(json.dumps(plain(e.details | {"error": str(e)})))
        return e.exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def script() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    script()
