"""What the statements say of permissions: who sees a channel is told of it, and nobody else is."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from tests.fault.entitlement import channels_of
from tests.fault.evidence import JOINED, LEFT, Evidence, Frame, Life, Row
from tests.fault.history import Op
from tests.fault.verdict import LATE_S, Verdict

Json = Any

PassedOver: TypeAlias = Callable[[Evidence, Life, Row], bool]

_NEWS = {True: "CHANNEL_CREATE", False: "CHANNEL_DELETE"}
_OWN_END = {"CHANNEL_CREATE", "CHANNEL_DELETE"}


# 1: what was acknowledged is stored.


def permissions_are_stored(evidence: Evidence, verdict: Verdict) -> None:
    """Where roles and overwrites were changed several times, the last acknowledged change stands.

    Of those who came and went, roles are gone with the membership.
    """
    stored = evidence.stored
    movers = {(op.user, op.about["guild_id"]) for op in evidence.ops_of("join", "leave")}
    changes: dict[tuple[str, ...], list[Op]] = {}
    for op in evidence.ops_of("role_give", "role_take", "overwrite", "role_permissions"):
        about = op.about
        match op.what:
            case "overwrite":
                key: tuple[str, ...] = about["channel_id"], about["target_id"]
            case "role_permissions":
                key = (about["role_id"],)
            case _:
                key = about["user_id"], about["guild_id"], about["role_id"]
        changes.setdefault(key, []).append(op)
    for key, ops in changes.items():
        last = _last_certain(ops)
        if last is None or key[:2] in movers:
            continue
        match last.what:
            case "overwrite":
                found: Json = stored.overwrites.get((key[0], key[1]))
                is_right = found == last.about["bits"]
            case "role_permissions":
                found = stored.permissions.get(key[0])
                is_right = found == last.about["permissions"]
            case _:
                found = stored.roles.get((key[0], key[1]), set())
                is_right = (key[2] in found) == (last.what == "role_give")
        verdict.check(is_right, last, ("and stored is", found))


def _last_certain(ops: Sequence[Op]) -> Op | None:
    """The change that was acknowledged last, if none that is in doubt may have come after it."""
    acknowledged = [op for op in ops if op.ok]
    if not acknowledged:
        return None
    last = acknowledged[-1]
    is_certain = all(op.outcome != "unknown" or op.begun < last.begun - LATE_S for op in ops)
    return last if is_certain else None


# 2: whoever comes to see a channel, or sees it no more, is told so.


def was_told_afresh(evidence: Evidence, life: Life, row: Row) -> bool:
    """Whether a guild was told afresh behind an entry, which need not be told then.

    GUILD_CREATE has all that happened to the guild until it was made. Of the rest, as messages,
    that is left out which came before the last change of what the reader sees there.
    """
    for frame in life.fresh.get(row.guild or "", ()):
        if frame.pos >= row.pos or row.at > frame.at:
            continue
        changes = evidence.reshapes(life.user, frame.id, after=row.pos, before=frame.at)
        if row.is_state or any(not change.type.islower() for change in changes):
            return True
    return False


def changes_of_sight_are_told(
    evidence: Evidence, verdict: Verdict, life: Life, is_passed_over: PassedOver
) -> None:
    """Each change has its frame right ahead of it, but where a guild was told afresh instead."""
    sight = evidence.entitlement
    told = {(frame.pos, frame.type, frame.id) for frame in life.derived}
    for guild_id, channel_id in sight.restricted():
        for pos, sees in sight.switches(life.user, guild_id, channel_id).items():
            row = evidence.stored.rows[pos]
            if not _was_there(evidence, life, row) or row.type in {*_OWN_END, JOINED, LEFT}:
                continue
            if (pos - 1, _NEWS[sees], channel_id) in told:
                verdict.checked += 1
                continue
            verdict.check(
                is_passed_over(evidence, life, row),
                (life.reader, "was not told", _NEWS[sees], channel_id, "ahead of", row),
            )


def _was_there(evidence: Evidence, life: Life, row: Row) -> bool:
    """Whether a session that a member of the guild had lasted over an entry."""
    return (
        life.start < row.pos <= life.last
        and row.outbox_id not in life.suppressed
        and evidence.is_member(life.user, row.guild, row.pos)
    )


# 7: what follows from an event follows from one.


def derived_follow(evidence: Evidence, verdict: Verdict, life: Life) -> None:
    for frame in life.derived:
        if frame.type == JOINED:
            is_so = _is_told_for_a_reason(evidence, life, frame)
            why = "and nothing had changed there"
        else:
            is_so = _is_what_changed(evidence, life, frame)
            why = f"and what came next was {evidence.stored.rows.get(frame.pos + 1)}"
        verdict.check(is_so, (life.reader, "got", frame), why)


def _is_told_for_a_reason(evidence: Evidence, life: Life, frame: Frame) -> bool:
    """A guild is told afresh by a resume across a change of what its member sees.

    And by one that goes on where a resume that did so had broken off.
    """
    is_first = frame.block is not None and frame.pos == frame.block.seq
    changes = evidence.reshapes(life.user, frame.id, after=frame.pos, before=frame.at)
    return is_first and any(changes)


def _is_what_changed(evidence: Evidence, life: Life, frame: Frame) -> bool:
    sight, guild_id = evidence.entitlement, frame.d.get("guild_id") or ""
    cause = evidence.stored.rows.get(frame.pos + 1)
    if cause is None or cause.guild != guild_id:
        return False
    sees = frame.type != "CHANNEL_DELETE"
    return all(
        sight.switches(life.user, guild_id, channel_id).get(frame.pos + 1) == sees
        for channel_id in _channels_of(frame)
    )


def _channels_of(frame: Frame) -> Iterable[str]:
    ids: list[str] = frame.d.get("channel_ids") or [frame.d["id"]]
    return ids


# 9: READY itself is right.


def ready_shows_enough(
    evidence: Evidence, verdict: Verdict, life: Life, fresh: Sequence[tuple[str, int, Json]]
) -> None:
    """After the end each hidden channel stands in READY for those, and only those, who see it."""
    sight, head = evidence.entitlement, evidence.stored.head
    shown = {d["id"]: channels_of(d) for kind, _, d in fresh if kind == JOINED}
    for guild_id, channel_id in sight.restricted():
        if guild_id in shown and sight.exists(guild_id, channel_id, head):
            is_shown = channel_id in shown[guild_id]
            verdict.check(
                is_shown == sight.sees(life.user, guild_id, channel_id, head),
                (life.reader, "is shown" if is_shown else "is not shown", channel_id, "by READY"),
            )


# 10: nobody gets what they may not see.


def no_guild_shows_too_much(evidence: Evidence, verdict: Verdict, life: Life) -> None:
    """GUILD_CREATE shows no channel that its reader did not see when it was made."""
    late = {row.pos for row in evidence.rows if row.outbox_id in life.suppressed}
    for kind, s, d in life.opening:
        if kind == JOINED:
            for channel_id in channels_of(d):
                # Effects that had no position yet are in it.
                is_seen = _saw(evidence, life, d["id"], channel_id, life.start, late.__contains__)
                verdict.check(is_seen, (life.reader, "was shown", channel_id, "by READY", s))
    for frame in life.stream:
        if frame.type == JOINED:
            _shows_no_more(evidence, verdict, life, frame)
        elif frame.is_derived and frame.type != "CHANNEL_DELETE":
            guild_id, after = frame.d.get("guild_id") or "", frame.pos + 1
            for channel_id in _channels_of(frame):
                is_seen = evidence.entitlement.sees(life.user, guild_id, channel_id, after)
                verdict.check(is_seen, (life.reader, "got", frame), "and does not see it")


def _shows_no_more(evidence: Evidence, verdict: Verdict, life: Life, frame: Frame) -> None:
    """A guild that is told afresh is as of a moment between its replay's end and its arrival."""
    block, pos = frame.block, frame.pos
    if frame.is_derived and block is not None and block.upto is not None:
        pos = block.upto

    def is_in_time(later: int) -> bool:
        return frame.is_fresh and evidence.stored.rows[later].at < frame.at

    for channel_id in channels_of(frame.d):
        is_seen = _saw(evidence, life, frame.id, channel_id, pos, is_in_time)
        verdict.check(is_seen, (life.reader, "got", frame), ("that shows", channel_id))


def _saw(
    evidence: Evidence,
    life: Life,
    guild_id: str,
    channel_id: str,
    pos: int,
    counts: Callable[[int], bool],
) -> bool:
    """Whether somebody saw a channel behind a position, or behind a later one that counts."""
    sight = evidence.entitlement
    if sight.sees(life.user, guild_id, channel_id, pos):
        return True
    switches = sight.switches(life.user, guild_id, channel_id)
    return any(sees and later > pos and counts(later) for later, sees in switches.items())


def nobody_spoke_unseen(evidence: Evidence, verdict: Verdict) -> None:
    """Who says something in a channel sees it at that moment, by the order of the log."""
    for row in evidence.rows:
        if row.type == "MESSAGE_CREATE" and row.payload and row.guild and row.users is None:
            author = row.payload["author"]["id"]
            verdict.check(evidence.may_hear(author, row), row, ("was said by a stranger", author))
