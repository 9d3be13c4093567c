"""The command line. Every command runs beside a server on the same database, in short transactions of its own.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration. What a command needs is imported when it runs, so that
none waits for the server's libraries.
"""

import argparse
import io
import logging
import os
import sys
import traceback
from pathlib import Path

from sparkle_lite import __version__
from sparkle_lite.cli.accounts import add_app_commands, add_feed_key_commands, add_user_commands
from sparkle_lite.cli.backup import add_backup_commands
from sparkle_lite.cli.commands import (
    CommandParser,
    add_command,
    add_config_option,
    add_group,
    complain,
    config_path,
    load,
    port,
)
from sparkle_lite.cli.demo import add_demo_command
from sparkle_lite.cli.doctor import add_doctor_command
from sparkle_lite.cli.publish import add_publish_command
from sparkle_lite.cli.rules import add_rule_commands
from sparkle_lite.cli.service import add_service_commands
from sparkle_lite.cli.shells import add_shell_commands
from sparkle_lite.cli.simulate import add_simulate_command
from sparkle_lite.errors import ConfigError, SparkleError


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status; wrong usage raises SystemExit as argparse does."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding doesn't know is shown escaped.
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    if not sys.flags.dev_mode:
        _log_plainly()
    try:
        status: int | None = args.run(args)
        sys.stdout.flush()
    except ConfigError as error:
        complain(*error.lines)
        return 2
    except SparkleError as error:
        complain(error.message)
        return 1
    except BrokenPipeError:
        # The reader has gone (`| head`); what is buffered would only fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        complain(_fault(error))
        return 1
    return status or 0


def _open_standard_streams() -> None:
    """Have something in the place of standard streams that are closed: a file opened later would be taken for one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            try:
                os.fstat(number)
            except OSError:
                # The lowest number that is free is this one.
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _fault(error: Exception) -> str:
    """One line about a fault of the program; with `python -X dev` it is the whole traceback instead."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "sparkle_lite" in frame.filename]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    said = " ".join(str(error).split())
    return f"a fault of the program{place}: {type(error).__name__}{f': {said}' if said else ''}; please report it"


class _PlainFormatter(logging.Formatter):
    """The message alone: where commands log, nobody wants to see a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return f"sparkle-lite: {record.getMessage()}"


def _log_plainly() -> None:
    """Until a server sets up its log, what is logged is lines as those of a command."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_PlainFormatter())
    logging.lastResort = handler


# --- Usage ------------------------------------------------------------------------------------------------------------


def parser() -> CommandParser:
    """The declarations of all commands."""
    program = CommandParser(prog="sparkle-lite")
    program.add_argument("--version", action="version", version=__version__)
    add_config_option(program)
    program.set_defaults(run=_serve, host=None, port=None)
    commands = program.add_subparsers(metavar="COMMAND", title="commands")
    serve = add_command(commands, "serve", _serve)
    serve.add_argument("--host", metavar="H")
    serve.add_argument("--port", metavar="P", type=port)
    add_user_commands(add_group(commands, "user"))
    add_app_commands(add_group(commands, "app"))
    add_feed_key_commands(add_group(commands, "feed-key"))
    config = add_group(commands, "config")
    add_command(config, "check", _config_check)
    add_command(config, "show", _config_show)
    add_rule_commands(commands)
    add_publish_command(commands)
    add_backup_commands(commands)
    add_doctor_command(commands)
    add_service_commands(commands)
    add_simulate_command(commands)
    add_demo_command(commands)
    add_shell_commands(commands, program)
    return program


# --- serve, config ----------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> None:
    config = load(args, rules=True)
    from sparkle_lite import app

    app.serve(config, config_path=lambda: config_path(args), host=args.host, port=args.port)


def _config_check(args: argparse.Namespace) -> None:
    loaded = load(args, rules=True)
    from sparkle_lite import config
    from sparkle_lite.analyses.registry import SCHEMA
    from sparkle_lite.clock import now_ms
    from sparkle_lite.config.notes import notes
    from sparkle_lite.rules import omissions
    from sparkle_lite.rules.cautions import cautions

    every_note = (*notes(loaded), *omissions.notes(loaded, now_ms()), *cautions(loaded))
    for line in config.explain(every_note, config.source(SCHEMA, config_path(args), os.environ)):
        print(f"note: {line}")
    print("OK")


def _config_show(args: argparse.Namespace) -> None:
    from sparkle_lite import config

    print(config.show(load(args)), end="")
