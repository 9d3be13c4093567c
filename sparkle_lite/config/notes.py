"""What is said about a configuration that is right, where it has effects that its writer may not expect.

`config check` prints the notes and still succeeds; the server logs them whenever it reads its configuration.
"""

from collections.abc import Iterator

from sparkle_lite.config import Config
from sparkle_lite.errors import Problem


def notes(config: Config) -> Iterator[Problem]:
    """Every note about a configuration."""
    yield from _costly_heartbeats(config)


def _costly_heartbeats(config: Config) -> Iterator[Problem]:
    btn = config.btn
    abilities = btn.proof_of_work.abilities
    if "heartbeat" in abilities and btn.abilities.heartbeat.enabled and not btn.prefer_legacy:
        yield Problem(
            ("btn", "proof_of_work", "abilities", abilities.index("heartbeat")),
            "each heartbeat costs a client about ten proofs of work, because it is two requests for each address of"
            " the machine",
            'leave "heartbeat" out unless you need it',
        )
