"""Bugs in who may do what, by name: the ordinary suite must turn red with each of them.

Each replaces one thing inside the server. The module is loaded as a plugin of pytest, which builds
in the bug that `PARLEY_BUG` names before any test is collected.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from internal.channel import repository as channels
from internal.channel.layout import service as layout
from internal.channel.layout.model import reshapes
from internal.channel.model import ChannelUpdated
from internal.chat.message import repository as messages
from internal.chat.ws.hub import Hub, Room
from internal.db.postgres import Conn, Transaction
from internal.eventlog.model import Entry
from internal.guild.model import GuildChannel
from internal.permission import model as permission
from internal.permission.model import Overwrite, Standing, Step, Trace
from internal.utils.snowflake import Snowflake

BUGS: Final[dict[str, Callable[[], None]]] = {}


def _bug(build: Callable[[], None]) -> Callable[[], None]:
    BUGS[build.__name__] = build
    return build


def _replace(owner: object, name: str, part: object) -> None:
    """Put another part in. One that is not there was renamed, and the bug would be none."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} any more")
    setattr(owner, name, part)


@_bug
def skipped_overwrite() -> None:
    """What a channel says to one member alone is passed over."""
    overwritten = permission._overwritten

    def of_roles_only(
        bits: int, standing: Standing, overwrites: Sequence[Overwrite], trace: Trace | None
    ) -> int:
        return overwritten(bits, standing, [o for o in overwrites if not o.is_member], trace)

    _replace(permission, "_overwritten", of_roles_only)


@_bug
def denied_after_allowed() -> None:
    """What one role is denied outweighs what another is allowed."""

    def denying(
        bits: int, standing: Standing, overwrites: Sequence[Overwrite], trace: Trace | None
    ) -> int:
        roles = {role_id for role_id, _ in standing.roles}
        of_roles = [o for o in overwrites if not o.is_member and o.id in roles]
        targets: tuple[list[Overwrite], ...] = (
            [o for o in overwrites if not o.is_member and o.id == standing.guild_id],
            of_roles,
            [o for o in overwrites if o.is_member and o.id == standing.user_id],
        )
        for rules in targets:
            for rule in rules:
                bits |= rule.allow
            for rule in rules:
                bits &= ~rule.deny
                if trace is not None:
                    trace(Step("role_overwrite", rule.id, rule.allow, rule.deny, bits))
        return bits

    _replace(permission, "_overwritten", denying)


@_bug
def ignored_category() -> None:
    """A channel that is one with its category stays as it was when the category changes."""

    async def store_alone(
        _self: layout.LayoutService, tx: Transaction, old: GuildChannel, new: GuildChannel
    ) -> None:
        await channels.update(tx.conn, new)
        if new.permission_overwrites != old.permission_overwrites:
            await layout._replace(tx.conn, [new.id], new.permission_overwrites)
        told = ChannelUpdated(channel=new, has_other_overwrites=reshapes(old, new))
        tx.emit(told)

    _replace(layout.LayoutService, "_store", store_alone)


@_bug
def message_without_its_channel() -> None:
    """A message is looked up by its own id, whatever channel the path names."""
    find, lock = messages.find, messages.lock

    async def its_channel(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Snowflake:
        found = await conn.fetchval("SELECT channel_id FROM messages WHERE id = $1", message_id)
        return channel_id if found is None else Snowflake(found)

    async def find_anywhere(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Any:
        return await find(conn, await its_channel(conn, channel_id, message_id), message_id)

    async def lock_anywhere(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Any:
        return await lock(conn, await its_channel(conn, channel_id, message_id), message_id)

    _replace(messages, "find", find_anywhere)
    _replace(messages, "lock", lock_anywhere)


@_bug
def stale_sight() -> None:
    """The gateway goes on with the roles that a member had before they were changed."""

    def stay(_self: Hub, room: Room, entry: Entry, _user_id: int) -> None:
        room.since = entry.pos

    _replace(Hub, "_move_member", stay)


def pytest_configure() -> None:
    """Build in what the environment names, before anything is imported from the tests."""
    name = os.environ.get("PARLEY_BUG")
    if name:
        BUGS[name]()
