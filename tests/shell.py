"""The command line as a person at a shell uses it."""

import json
from typing import Any

import pytest

from sparkle_lite.cli.main import main


class Shell:
    """Runs commands in this process, with `more` arguments each, and gives what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *more: str) -> None:
        self.err = ""
        self._capsys = capsys
        self._more = more

    def __call__(self, *arguments: str, status: int = 0) -> str:
        self._capsys.readouterr()
        assert main([*arguments, *self._more]) == status
        captured = self._capsys.readouterr()
        self.err = captured.err
        return captured.out

    def json(self, *arguments: str) -> Any:
        """What a command prints as its one line of JSON."""
        [line] = self(*arguments, "--json").splitlines()
        return json.loads(line)
