"""Forms that make a secret, which is shown once: sent twice, by a double click or a reload, they do their work once.

Such a form holds an id that this process gave out, within an hour. What it makes is derived from that and from a key
that is never stored, so that the second answer is the first one again and nothing has to be remembered in between.
"""

import hmac
import secrets
import time

from sparkle_lite.accounts.secrets import REPLACED_BYTES, Once, new_secret
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.web.render import PostedForm
from sparkle_lite.units import HOUR_S

FIELD = "once"


class OnceForms:
    """The ids of one server's forms: the dependency `once`."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def new_id(self, replaces: bytes = b"") -> str:
        """What a new form holds in `FIELD`; `replaces` is the hash of the secret that it is to replace."""
        content = f"{int(time.monotonic())}.{new_secret()}.{replaces[:REPLACED_BYTES].hex()}"
        return f"{content}.{self._seal(content).hex()}"

    def of(self, form: PostedForm) -> Once | None:
        """What a form makes; None where it holds no id, as a script's: that makes something every time.

        Raises SparkleError (conflict) for an id that is too old, or of another process.
        """
        if FIELD not in form:
            return None
        content, _, seal = form[FIELD].rpartition(".")
        good = hmac.compare_digest(self._seal(content).hex().encode(), seal.encode())
        if not good or time.monotonic() - int(content.partition(".")[0]) > HOUR_S:
            raise SparkleError("conflict", "form.too_old")
        return Once(self._seal(f"what {content} makes"), bytes.fromhex(content.rpartition(".")[2]))

    def _seal(self, content: str) -> bytes:
        return hmac.digest(self._key, content.encode(), "sha256")
