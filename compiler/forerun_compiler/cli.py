"""The command line: its commands, and how each ends. Only click is imported before a command runs."""

from __future__ import annotations

import os
import signal
import sys

import click

from forerun_compiler import __version__
from forerun_compiler.commands import bundles, recipes
from forerun_compiler.exit_codes import INTERRUPTED, TABLE, TERMINATED, explain

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=SETTINGS, epilog=TABLE)
@click.version_option(__version__, prog_name="build-engine")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def commands(debug: bool) -> None:
    """Compile a target and its drafter into one bundle, run it, and prove it lossless.

    \b
    build-engine build recipes/demo.yaml -o artifacts/demo
    build-engine run artifacts/demo --prompt "import os"
    """


for command in (recipes.build, recipes.tune, bundles.run, bundles.inspect, bundles.verify, bundles.bench):
    commands.add_command(command)


def execute(arguments: list[str]) -> int:
    """Run one command line; returns the exit code. Errors are one line on standard error, never a traceback."""
    try:
        # Not commands.main(): it would turn interrupts and closed pipes into exit codes of its own.
        with commands.make_context("build-engine", list(arguments)) as context:
            commands.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        click.echo("\ninterrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has left: nobody to tell, now and when Python flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in arguments:
            raise
        line, code = explain(error)
        click.echo(f"error: {line}", err=True)
        return code


def main() -> None:
    """The console script. Ended by SIGTERM it still removes what it keeps in temporary folders."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    sys.exit(execute(sys.argv[1:]))
