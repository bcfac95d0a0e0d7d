"""The command line `learnopt`: its commands put together, its errors said in one line."""

from __future__ import annotations

import io
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from learnopt.cli_compare import compare_command, report_command
from learnopt.cli_fewshot import fewshot_app
from learnopt.cli_inspect import inspect_command
from learnopt.cli_meta_train import meta_train
from learnopt.cli_record import record_command
from learnopt.cli_stop_train import stop_train_command
from learnopt.cli_stopper_train import stopper_train_command
from learnopt.cli_tune import tune_command, tune_train_command


class _Stopped(Exception):
    """Ctrl-C, with what is to be said of it: typer turns a KeyboardInterrupt into an exit without a word."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Stopped(str(stop) or "interrupted") from None


app = typer.Typer(
    cls=_Commands,
    help="Learned optimization for PyTorch: no learning rate, no schedule, no stopping point to tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("meta-train")(meta_train)
app.command("stop-train")(stop_train_command)
app.command("stopper-train")(stopper_train_command)
app.command("inspect")(inspect_command)
app.command("record")(record_command)
app.command("tune")(tune_command)
app.command("tune-train")(tune_train_command)
app.add_typer(fewshot_app, name="fewshot")

USAGE, INTERRUPTED = 2, 130
"""Exit codes."""

# typer's own copy of click is private: the parent of its errors is reached through the one that it exports
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(version("learnopt"))
        except PackageNotFoundError:
            typer.echo("unknown")
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 for input that cannot be used, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show is no reason to lose the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; what is wrong with the input goes to stderr in one line."""
    try:
        code = app(arguments, standalone_mode=False)
    except _UsageError as error:
        return _say(_message(error), USAGE)
    except (_Stopped, typer.Abort, KeyboardInterrupt) as stop:
        return _say(str(stop) or "interrupted", INTERRUPTED)
    except ValueError as error:
        return _say(str(error), USAGE)
    except OSError as error:
        if error.filename is None:  # nothing that a user named
            raise
        return _say(f"{error.filename}: {error.strerror}", USAGE)
    return code if isinstance(code, int) else 0


def _message(error: Exception) -> str:
    """A usage error with the value it is about; empty after help that was printed for want of arguments."""
    message: str = getattr(error, "format_message", error.__str__)()
    if isinstance(error.__cause__, ValidationError):
        message += f", got {error.__cause__.errors()[0]['input']!r}"
    if message.startswith("No such command"):
        context: Any = getattr(error, "ctx", None)
        message += f" choose from: {', '.join(context.command.list_commands(context))}"
    return message


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())
    prefix = "" if code == INTERRUPTED else "error: "
    if line:
        print(f"learnopt: {prefix}{line}", file=sys.stderr)
    return code
