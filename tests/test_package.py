"""The package as it is installed."""

import subprocess
import sys

import sparkle_lite


def test_the_module_answers_with_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparkle_lite", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sparkle_lite.__version__
