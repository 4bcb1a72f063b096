"""Events: facts that were committed, and who may hear of them."""

from typing import ClassVar, Protocol

import msgspec

from internal.utils.snowflake import Snowflake


class Audience(msgspec.Struct, frozen=True):
    """Who hears of an event.

    With `users`, these and nobody else. Otherwise the members of `guild_id` who may see
    `channel_id`, or all of them when it is None. What happens in a thread is for those who may see
    `parent_id`, its channel; with `users`, for those of them who may.
    """

    users: tuple[Snowflake, ...] | None = None
    guild_id: Snowflake | None = None
    channel_id: Snowflake | None = None
    parent_id: Snowflake | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One fact. Sent only by `Transaction.emit`, to the smallest right audience."""

    # The gateway's name of the event. Names in lower case stay inside the server.
    type: ClassVar[str]

    def audience(self) -> Audience:
        raise NotImplementedError

    def payload(self) -> object:
        """What stands in `d`. It is encoded once, when the event is emitted."""
        return self

    def subject(self) -> Snowflake | None:
        """The id of what the payload holds content of, if that content can be taken back."""
        return None

    def retracts(self) -> tuple[Snowflake, ...]:
        """Subjects whose content must not be told any more: earlier payloads are blanked."""
        return ()

    def retracts_channels(self) -> tuple[Snowflake, ...]:
        """Channels all of whose content must not be told any more."""
        return ()

    def reshapes(self) -> Snowflake | None:
        """Whose sight of the guild's channels may be another after it: a member's, or 0 for all.

        Such an event needs the guild's exclusive lock until the commit.
        """
        return None

    def revises(self) -> Snowflake | None:
        """The subject whose earlier payloads are replaced by this one's."""
        return None


class Publisher(Protocol):
    """What a transaction offers to a service that has something to tell."""

    def emit(self, event: Event) -> None:
        """Tell the audience once the transaction has been committed, and never otherwise."""
        ...
