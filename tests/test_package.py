"""The package as it is installed."""

import subprocess
import sys

from server import RunningServer

import sparkle_lite
from sparkle_lite.http.web.manual import headings
from sparkle_lite.texts import languages


def test_one_version_is_told_everywhere(shared: RunningServer) -> None:
    version = sparkle_lite.__version__
    done = subprocess.run(
        [sys.executable, "-m", "sparkle_lite", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == version
    assert shared.request("GET", "/healthz").json() == {"status": "ok", "version": version}
    assert shared.request("GET", "/openapi.json").json()["info"]["version"] == version
    assert f"<span>Sparkle Lite {version}</span>" in shared.request("GET", "/ip").body.decode()
    assert [line["version"] for line in shared.logged() if line["message"] == "listening"] == [version]
    for language in languages():
        assert next(heading.text for heading in headings(language, "changes") if heading.level == 2) == version
