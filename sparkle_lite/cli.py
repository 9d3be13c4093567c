"""The command line."""

import argparse

from sparkle_lite import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="sparkle-lite", description="A BTN server in one light process on SQLite.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args(argv)
    return 0
