"""Who does something: a user who is signed in, a client, a visitor, or the operator."""

from typing import NamedTuple

from sparkle_lite.db.accounts import UserRow
from sparkle_lite.errors import SparkleError


class Actor(NamedTuple):
    """Who does something, and from where: `user` is None for a visitor and for the operator, whom `by` names."""

    user: int | None
    admin: bool
    address: str | None = None
    user_agent: str | None = None
    by: str = ""

    @classmethod
    def of(cls, user: UserRow, address: str | None = None, user_agent: str | None = None) -> "Actor":
        """A user who is signed in."""
        return cls(user.id, user.role == "admin", address, user_agent)

    def require_admin(self) -> None:
        """Raises SparkleError (forbidden) for everybody but administrators and the operator."""
        if not self.admin:
            raise SparkleError("forbidden", "access.admins_only")

    def require_owner(self, user: int) -> None:
        """Raises as `require_admin` does where something isn't this user's (row id) own."""
        if self.user != user:
            self.require_admin()


COMMAND_LINE = Actor(None, True, by="command line")
FIRST_START = Actor(None, True, by="first start")
