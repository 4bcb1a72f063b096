"""The rules of the audit log: every administrative act is written down with what it changed."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from internal.db.postgres import Conn, Transaction
from internal.guild.audit import repository
from internal.guild.audit.model import (
    Act,
    AuditEntryCreated,
    AuditLog,
    AuditPage,
    Change,
    EntryOfGuild,
)
from internal.guild.repository import holders_of
from internal.permission.model import Permission
from internal.utils.snowflake import NewId, Snowflake

# So many are told of an act; more than that is no moderation.
_MOST_READERS: Final = 1000
_READ: Final = int(Permission.VIEW_AUDIT_LOG)


class AuditTrail:
    """Writes acts down, in the transaction that they are done in."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id

    async def record(self, tx: Transaction, act: Act) -> None:
        """Write one act down, and tell those who may read of it."""
        await self.record_all(tx, [act])

    async def record_all(self, tx: Transaction, acts: Sequence[Act]) -> None:
        """Write down what is done in one guild at once. Two statements, however much it is."""
        if not acts:
            return
        entries = [self._entry(act) for act in acts]
        await repository.insert(tx.conn, entries)
        users = await holders_of(tx.conn, acts[0].guild_id, _READ, _MOST_READERS)
        for entry in entries:
            tx.emit(AuditEntryCreated(entry=entry, users=tuple(users)))

    async def page(self, conn: Conn, guild_id: Snowflake, page: AuditPage) -> AuditLog:
        """One page of a guild's log. Whoever calls has asked whether the actor may read it."""
        entries = await repository.page(conn, guild_id, page)
        ids = {one for entry in entries for one in (entry.user_id, entry.target_id) if one}
        users = await repository.accounts(conn, sorted(ids)) if ids else []
        return AuditLog(audit_log_entries=tuple(entries), users=tuple(users))

    def _entry(self, act: Act) -> EntryOfGuild:
        return EntryOfGuild(
            guild_id=act.guild_id,
            id=self._new_id(),
            user_id=act.actor,
            target_id=act.target,
            action_type=int(act.action),
            changes=act.changes or msgspec.UNSET,
            options={key: str(value) for key, value in act.options.items()} or msgspec.UNSET,
            reason=act.reason or msgspec.UNSET,
        )


def changes_between(
    old: msgspec.Struct | None, new: msgspec.Struct | None, *keys: str
) -> tuple[Change, ...]:
    """What differs in these fields of two structs; without one of them, all that the other has."""
    found: list[Change] = []
    for key in keys:
        before: Any = msgspec.UNSET if old is None else getattr(old, key)
        after: Any = msgspec.UNSET if new is None else getattr(new, key)
        if before != after:
            found.append(Change(key=key, old_value=before, new_value=after))
    return tuple(found)
