"""The command `demo`: a server with a week in it and traffic going on, of which nothing is left."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import add_command, complain, port

if TYPE_CHECKING:
    from sparkle_lite.accounts.secrets import Credentials
    from sparkle_lite.simulation.demo import Entrance

_PORT = 7799
# What every client program can send in each of its ways: an id has no "@", which ends it in a bearer token.
_APP_ID, _SECRET = re.compile(r"[A-Za-z0-9._~-]{1,64}"), re.compile(r"[!-~]{1,128}")


def add_demo_command(commands: Any) -> None:
    """Declare `demo`."""
    parser = add_command(commands, "demo", _demo)
    parser.add_argument("--port", metavar="N", type=port, default=_PORT)
    parser.add_argument(
        "--credentials",
        metavar="APP_ID:SECRET",
        type=_credentials,
    )


def _credentials(text: str) -> "Credentials":
    from sparkle_lite.accounts.secrets import Credentials
    from sparkle_lite.wire.credentials import present

    app_id, colon, secret = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} has no colon: write APP_ID:SECRET")
    if not _APP_ID.fullmatch(app_id):
        raise argparse.ArgumentTypeError(f"the id {app_id!r} is not 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
    if not _SECRET.fullmatch(secret):
        raise argparse.ArgumentTypeError("the secret is not 1 to 128 characters of ASCII without blanks")
    sent = present([(b"x-btn-appid", app_id.encode()), (b"x-btn-appsecret", secret.encode())])
    if sent.placeholder:
        raise argparse.ArgumentTypeError(f"{text!r} is what example configurations hold, which the server refuses")
    return Credentials(app_id, secret)


def _demo(args: argparse.Namespace) -> None:
    from sparkle_lite import logs
    from sparkle_lite.accounts.secrets import new_credentials
    from sparkle_lite.simulation.demo import Demo

    if getattr(args, "config", None) is not None:
        complain(f"a demo has a configuration of its own; {args.config} is not read")
    # What its invented clients do wrong is told on the pages.
    logs.setup("text", level="ERROR")
    Demo(args.credentials or new_credentials(), _tell).serve(args.port)


def _tell(entrance: "Entrance", *, is_first: bool) -> None:
    """Say what it is and how to get in; after a reset only what is new."""
    from sparkle_lite.accounts.apps import peerbanhelper_lines

    link = f"Sign in as 'admin' with this link and its button (valid once, for 30 minutes):\n  {entrance.login_url}\n"
    if not is_first:
        print(f"\nThe demo has begun anew.\n{link}", flush=True)
        return
    print(
        f"\nA demo of Sparkle Lite is running at {entrance.url}\n"
        "Everything in it is invented: a week of reports by a small circle, and new ones every few seconds.\n\n"
        f"{link}\n"
        "A client that you develop may use these lines; every generation of the protocol is answered:\n"
        f"{peerbanhelper_lines(entrance.url, *entrance.credentials)}\n\n"
        "Begin anew, with the same credentials (the answer has a new link and a token for the REST API):\n"
        f"  curl -X POST {entrance.url}/demo/reset\n\n"
        "Ctrl+C ends it, and nothing of it is left.\n",
        flush=True,
    )
