"""The promise, cut into thirteen statements, each a function over what a run left behind."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

from tests.fault.calls import marker
from tests.fault.evidence import JOINED, LEFT, Evidence, Frame, Life, Row, tells
from tests.fault.history import Op, Turn
from tests.fault.insight import (
    changes_of_sight_are_told,
    derived_follow,
    no_guild_shows_too_much,
    nobody_spoke_unseen,
    permissions_are_stored,
    ready_shows_enough,
    was_told_afresh,
)
from tests.fault.of_the_run import OF_THE_RUN
from tests.fault.verdict import LATE_S, Invariant, Verdict
from tests.support.gateway import Frame as GatewayFrame
from tests.support.reducer import View, differences

Json = Any

PROBE_S: Final = 5.0
# How long a connection may still say something after its session went on elsewhere.
ZOMBIE_S: Final = 3.0
_MESSAGES: Final = {"MESSAGE_CREATE", "MESSAGE_DELETE", "MESSAGE_DELETE_BULK"}
# What a view makes of an event that does not fit what was told before.
_NONSENSE: Final = (AssertionError, KeyError, TypeError)
_OF_MESSAGES: Final = ("id", "ids", "channel_id", "guild_id")


def acknowledged_is_stored(evidence: Evidence) -> Verdict:
    verdict = Verdict(1, "every acknowledged write is in the database")
    _sends_are_stored(evidence, verdict)
    _last_words_are_stored(evidence, verdict)
    _structure_is_stored(evidence, verdict)
    return verdict


def _sends_are_stored(evidence: Evidence, verdict: Verdict) -> None:
    stored = evidence.stored
    deleted = {op.about["id"] for op in evidence.ops_of("delete") if op.outcome != "fail"}
    for op in evidence.ops_of("send"):
        if not op.ok:
            continue
        message_id = op.result["id"]
        verdict.check(
            evidence.created.get(message_id), op, f"message {message_id} is not in the event log"
        )
        is_gone = message_id in deleted or op.about["channel_id"] not in stored.channels
        if is_gone and _may_be_gone(evidence, op, deleted):
            continue
        found = stored.messages.get(message_id)
        is_same = found is not None and found[:2] == (op.about["channel_id"], op.user)
        verdict.check(is_same, op, ("message", message_id, "is stored as", found))
    for op in evidence.ops_of("delete"):
        if op.ok:
            gone = op.about["id"] not in stored.messages
            verdict.check(gone, op, "and the message is still stored")


def _may_be_gone(evidence: Evidence, send: Op, deleted: set[str]) -> bool:
    """Whether somebody asked for the end of the message, its channel or its guild."""
    if send.result["id"] in deleted:
        return True
    channel_id = send.about["channel_id"]
    return any(
        op.outcome != "fail"
        and channel_id in op.about.get("channels", [op.about.get("channel_id")])
        for op in evidence.ops_of("channel_delete", "guild_delete")
    )


def _last_words_are_stored(evidence: Evidence, verdict: Verdict) -> None:
    """Where things were changed several times, the last acknowledged change stands."""
    stored = evidence.stored
    contents = {message_id: m[2] for message_id, m in stored.messages.items()}
    for what, key, field, values in (
        ("edit", "id", "words", contents),
        ("channel_rename", "channel_id", "name", stored.channels),
        ("rename_self", "user_id", "name", stored.names),
    ):
        changes: dict[str, list[Op]] = {}
        for op in evidence.ops_of(what):
            changes.setdefault(op.about[key], []).append(op)
        for thing, ops in changes.items():
            acknowledged = [op for op in ops if op.ok]
            if thing in values and acknowledged:
                unknown = [op for op in ops if op.outcome == "unknown"]
                wanted = {op.about[field] for op in (acknowledged[-1], *unknown)}
                found = values[thing]
                verdict.check(found in wanted, acknowledged[-1], f"and stored is {found!r}")


def _structure_is_stored(evidence: Evidence, verdict: Verdict) -> None:
    stored = evidence.stored
    ended = {
        op.about[key]
        for op in evidence.ops_of("channel_delete", "guild_delete")
        if op.outcome != "fail"
        for key in ("channel_id", "guild_id")
        if key in op.about
    }
    for op in evidence.ops:
        if not op.ok:
            continue
        match op.what:
            case "channel_create" if op.result["id"] not in ended:
                is_there = op.result["id"] in stored.channels
                verdict.check(is_there, op, "and the channel is not stored")
            case "guild_create" if op.result["id"] not in ended:
                verdict.check(op.result["id"] in stored.guilds, op, "and the guild is not stored")
            case "channel_delete":
                verdict.check(op.about["channel_id"] not in stored.channels, op, "and it is stored")
            case "guild_delete":
                verdict.check(op.about["guild_id"] not in stored.guilds, op, "and it is stored")
            case "logout":
                ended_too = op.about["session_id"] not in stored.sessions
                verdict.check(ended_too, op, "and the login session is stored")
            case _:
                continue
    _memberships_are_stored(evidence, verdict, ended)
    permissions_are_stored(evidence, verdict)


def _memberships_are_stored(evidence: Evidence, verdict: Verdict, ended: set[str]) -> None:
    moves: dict[tuple[str, str], list[Op]] = {}
    for op in evidence.ops_of("join", "leave"):
        moves.setdefault((op.user, op.about["guild_id"]), []).append(op)
    for pair, ops in moves.items():
        acknowledged = [op for op in ops if op.ok]
        if not acknowledged or pair[1] in ended:
            continue
        last = acknowledged[-1]
        if any(op.outcome == "unknown" and op.begun > last.begun - LATE_S for op in ops):
            continue
        is_right = (pair in evidence.stored.members) == (last.what == "join")
        verdict.check(is_right, last, "and the membership is stored otherwise")


def everyone_got_it(evidence: Evidence) -> Verdict:
    verdict = Verdict(2, "every entitled reader got it")
    for life in evidence.lives:
        for row in evidence.rows:
            if row.pos <= life.start or row.outbox_id in life.suppressed:
                continue
            if row.pos > life.last:
                break
            if evidence.may_hear(life.user, row) and not _is_excused(evidence, life, row):
                verdict.check(row.pos in life.heard, partial(_missed, life, row))
    for life in evidence.lives:
        changes_of_sight_are_told(evidence, verdict, life, is_passed_over)
    _residents_got_all(evidence, verdict)
    _nobody_was_sent_away(evidence, verdict)
    return verdict


def _is_excused(evidence: Evidence, life: Life, row: Row) -> bool:
    return row.pos not in life.heard and is_passed_over(evidence, life, row)


def is_passed_over(evidence: Evidence, life: Life, row: Row) -> bool:
    """What a replay rightly leaves out.

    Content that was taken back, guilds that were left, and what a guild comes to that is told
    afresh.
    """
    if row.payload is None:
        return True
    if row.guild is None:
        return False
    if was_told_afresh(evidence, life, row) or _never_came(evidence, life, row):
        return True
    move = evidence.next_move(life.user, row.guild, after=row.pos)
    earlier = evidence.last_move(life.user, row.guild, before=row.pos)
    for block in life.blocks:
        if block.seq >= row.pos:
            continue
        # Also a leave that had no position yet when the session was resumed: it counts at once.
        if move is not None and move.at < block.ended:
            return True
        # Coming and going within one replay are told as what they come to.
        is_own_move = row.type in {JOINED, LEFT} and row.users is not None
        if is_own_move and earlier is not None and block.seq < earlier.pos < block.end:
            return True
    return False


def _never_came(evidence: Evidence, life: Life, row: Row) -> bool:
    """Whether a guild had been left again when its joining was to be told: then nothing is."""
    guild, is_join = row.guild or "", row.type == JOINED and row.users is not None
    joined = row if is_join else evidence.last_move(life.user, guild, before=row.pos)
    if joined is None or joined.type != JOINED or joined.pos <= life.start:
        return False
    fresh = (frame for frame in life.fresh.get(guild, ()) if frame.at > joined.at)
    if joined.pos in life.heard or any(frame.pos < joined.pos for frame in fresh):
        return False
    left = evidence.next_move(life.user, guild, after=joined.pos)
    place = bisect_right(life.stream, joined.pos, key=lambda frame: frame.pos)
    passed = life.stream[place].at if place < len(life.stream) else float("inf")
    return left is not None and left.type == LEFT and left.at < passed


def _missed(life: Life, row: Row) -> str:
    before = max((frame.pos for frame in life.frames if frame.pos < row.pos), default=life.start)
    after = min((frame.pos for frame in life.frames if frame.pos > row.pos), default=0)
    return f"{row} never came to {life.reader}, who got {before} and then {after}"


def _residents_got_all(evidence: Evidence, verdict: Verdict) -> None:
    """By acknowledgements alone, without the log: those who never left must have got each send."""
    heard: dict[str, set[str]] = {}
    lives: dict[str, list[Life]] = {}
    for life in evidence.lives:
        lives.setdefault(life.reader, []).append(life)
        got = {f.d["id"] for f in life.frames if f.type in {"MESSAGE_CREATE", "MESSAGE_DELETE"}}
        heard.setdefault(life.reader, set()).update(got)
    for op in evidence.ops_of("send"):
        # What was taken back need not have been told.
        if not op.ok or op.result["id"] in evidence.deletions:
            continue
        for reader, channels in evidence.residents.items():
            of_reader = lives.get(reader, [])
            # Begun while a session stood, so that no READY has shown it instead.
            if op.about["channel_id"] not in channels or not _stood(of_reader, op):
                continue
            got_it = op.result["id"] in heard.get(reader, ())
            if got_it or not _came_afresh(evidence, of_reader[0], op):
                verdict.check(got_it, op, ("was acknowledged and never came to", reader))


def _came_afresh(evidence: Evidence, life: Life, op: Op) -> bool:
    """Whether a send came before a change of what a reader sees, and a resume went across both."""
    rows = evidence.created.get(op.result["id"])
    return rows is not None and was_told_afresh(evidence, life, rows[0])


def _stood(lives: Sequence[Life], op: Op) -> bool:
    """Whether an operation lies within one gateway session that lasted to the end of the run."""
    return len(lives) == 1 and lives[0].opened <= op.begun


def _nobody_was_sent_away(evidence: Evidence, verdict: Verdict) -> None:
    """Who resumes within the limits is not told to begin anew, nor that the login has ended."""
    logouts = {op.user for op in evidence.ops_of("logout")}
    for reader, turns in evidence.turns.items():
        for turn in turns:
            if turn.what == "invalid" and turn.seq:
                verdict.check(False, (reader, "was refused a resume", turn))  # noqa: FBT003
            elif turn.what == "signed_out":
                user = next((life.user for life in evidence.lives if life.reader == reader), "")
                verdict.check(user in logouts, (reader, "was signed out", turn))
    for life in _last_lives(evidence):
        verdict.check(
            life.last >= evidence.fence,
            (life.reader, "got up to", life.last, ", and the end was", evidence.fence),
        )


def _last_lives(evidence: Evidence) -> list[Life]:
    return list({life.reader: life for life in evidence.lives}.values())


def nothing_came_twice(evidence: Evidence) -> Verdict:
    verdict = Verdict(3, "nobody got anything twice")
    seen: dict[tuple[str, str, str], Frame] = {}
    for life in evidence.lives:
        positions: dict[int, Frame] = {}
        for frame in life.frames:
            first = positions.setdefault(frame.pos, frame)
            verdict.check(first is frame, (life.reader, "got", first), ("and", frame))
            if frame.type == "MESSAGE_CREATE":
                one = seen.setdefault((life.reader, frame.type, frame.id), frame)
                verdict.check(one is frame, (life.reader, "got", one), ("and", frame))
        changes: dict[tuple[int, str, str], Frame] = {}
        for frame in life.derived:
            # A guild that is told afresh may be so once more, by a resume from the same position.
            if frame.type != JOINED:
                one = changes.setdefault((frame.pos, frame.type, frame.id), frame)
                verdict.check(one is frame, (life.reader, "got", one), ("and", frame))
    for reader, turns in evidence.turns.items():
        _zombies_end(evidence, verdict, reader, turns)
    return verdict


def _zombies_end(evidence: Evidence, verdict: Verdict, reader: str, turns: Sequence[Turn]) -> None:
    """Soon after a session was resumed elsewhere, the connection that it left says nothing more."""
    for left in turns:
        if left.what != "haunt":
            continue
        resumed = next((at for at in evidence.resumed[reader] if at > left.at), float("inf"))
        for turn in turns:
            if turn.what == "ghost" and turn.socket == left.socket:
                # What a fault held up may come once it is over.
                faults = [i.ended for i in evidence.injections if i.begun <= turn.at]
                is_in_time = turn.at <= max([resumed, *faults]) + ZOMBIE_S
                verdict.check(is_in_time, (reader, "was told on", left, "resumed elsewhere", turn))


def positions_increase(evidence: Evidence) -> Verdict:
    verdict = Verdict(4, "s strictly increases for each reader")
    for life in evidence.lives:
        start = Frame(life.begun, life.start, "READY", {}, None)
        for earlier, later in pairwise([start, *life.stream]):
            # What READY was still without a position for comes after it, never before. What
            # follows from an event goes ahead of it, with the position before.
            is_on = later.pos > earlier.pos or (later.is_derived and later.pos == earlier.pos)
            verdict.check(is_on, f"{life.reader} got {earlier}", f"and then {later}")
    return verdict


def readers_agree(evidence: Evidence) -> Verdict:
    verdict = Verdict(5, "any two readers agree on the order")
    known: dict[int, tuple[str, Frame]] = {}
    places: dict[tuple[str, str], tuple[str, Frame]] = {}
    for life in evidence.lives:
        for frame in life.frames:
            reader, first = known.setdefault(frame.pos, (life.reader, frame))
            is_same = (first.type, first.id) == (frame.type, frame.id)
            verdict.check(is_same, (reader, "got", first), (life.reader, "got", frame))
            if frame.type == "MESSAGE_CREATE":
                reader, first = places.setdefault((frame.type, frame.id), (life.reader, frame))
                is_same = first.pos == frame.pos
                verdict.check(is_same, (reader, "got", first), (life.reader, "got", frame))
    return verdict


def later_is_higher(evidence: Evidence) -> Verdict:
    verdict = Verdict(6, "what begins after another's acknowledgement has the higher s")
    placed = sorted(_placed(evidence), key=lambda pair: -pair[0])
    earliest: tuple[int, Op] | None = None
    for pos, op in placed:
        if earliest is not None:
            higher, other = earliest
            verdict.check(
                other.ended >= op.begun,
                ("s=", higher, other),
                ("was acknowledged before the beginning of s=", pos, op),
            )
        if op.ok and (earliest is None or op.ended < earliest[1].ended):
            earliest = pos, op
    return verdict


def _placed(evidence: Evidence) -> Iterator[tuple[int, Op]]:
    """The operations whose position is known beyond doubt."""
    edits, others = _positions(evidence)
    for op in evidence.ops:
        pos: int | None = None
        match op.what:
            case "send" if op.ok:
                rows = evidence.created.get(op.result["id"])
                pos = rows[0].pos if rows else None
            case "edit":
                pos = edits.get((op.about["id"], op.about["words"]))
            case "delete" if op.about["id"] in evidence.deletions:
                pos = evidence.deletions[op.about["id"]].pos
            case "channel_create" | "guild_create" if op.ok:
                pos = others.get((op.what, op.result["id"]))
            case "channel_delete" | "guild_delete" if op.ok:
                key = "channel_id" if op.what == "channel_delete" else "guild_id"
                pos = others.get((op.what, op.about[key]))
            case "channel_rename" | "rename_self":
                pos = others.get((op.what, op.about["name"]))
            case _:
                continue
        # One that was refused, as somebody else did the same, is in no order with its event.
        if pos is not None and op.outcome != "fail":
            yield pos, op


def _positions(
    evidence: Evidence,
) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """Where edits are, by what readers heard, and where changes of structure are, by the log."""
    edits: dict[tuple[str, str], int] = {}
    for life in evidence.lives:
        for frame in life.frames:
            if frame.type == "MESSAGE_UPDATE":
                # An earlier edit that is told late has the words of the last one.
                key = frame.d["id"], frame.d["content"]
                edits[key] = max(edits.get(key, 0), frame.pos)
    others: dict[tuple[str, str], int] = {}
    kinds = {
        "CHANNEL_CREATE": ("channel_create", "id"),
        "CHANNEL_DELETE": ("channel_delete", "id"),
        "CHANNEL_UPDATE": ("channel_rename", "name"),
        "GUILD_CREATE": ("guild_create", "id"),
        "USER_UPDATE": ("rename_self", "global_name"),
    }
    for row in evidence.rows:
        if row.type in kinds and row.payload:
            what, field = kinds[row.type]
            others.setdefault((what, str(row.payload.get(field))), row.pos)
        elif row.type == LEFT and row.guild:
            # The last one: leaving is told like a deletion, and nobody leaves after that.
            others["guild_delete", row.guild] = row.pos
    return edits, others


def nothing_was_made_up(evidence: Evidence) -> Verdict:
    verdict = Verdict(7, "nothing came that is not in the database, or whose operation failed")
    stored = evidence.stored
    failed = {op.about["nonce"]: op for op in evidence.ops_of("send") if op.outcome == "fail"}
    for life in evidence.lives:
        for frame in life.frames:
            row = stored.rows.get(frame.pos)
            is_known = row is not None and tells(row, frame)
            verdict.check(is_known, (life.reader, "got", frame), ("in the log is", row))
            if frame.type != "MESSAGE_CREATE":
                continue
            op = failed.get(marker(frame.d["content"]))
            verdict.check(op is None, (life.reader, "got", frame), op)
            is_there = (
                frame.id in stored.messages
                or frame.id in evidence.deletions
                or frame.d["channel_id"] not in stored.channels
            )
            verdict.check(is_there, (life.reader, "got", frame), "and it is not stored")
        derived_follow(evidence, verdict, life)
    return verdict


def retries_make_no_second(evidence: Evidence) -> Verdict:
    verdict = Verdict(8, "unknown outcomes are the same for all, and a retry makes no second")
    for op in evidence.ops_of("send"):
        ids = evidence.ids_of.get((op.user, op.about["nonce"]), set())
        verdict.check(len(ids) <= 1, op, ("there are", sorted(ids)))
        for message_id in ids:
            count = len(evidence.created.get(message_id, ()))
            verdict.check(count == 1, op, ("is in the log", count, "times as", message_id))
        first = evidence.stored.nonces.get((op.user, op.about["nonce"]))
        if op.ok:
            same = first in {None, op.result["id"]}
            verdict.check(same, op, ("the nonce stands for", first, ", not", op.result["id"]))
    for repost in evidence.reposts:
        verdict.check(
            repost.message_id == repost.op.result["id"],
            repost.op,
            ("was answered with", repost.status, repost.message_id, "when sent again"),
        )
    return verdict


def state_follows_events(evidence: Evidence) -> Verdict:
    verdict = Verdict(9, "state + events == a fresh READY")
    for life in _last_lives(evidence):
        fresh = evidence.fresh.get(life.reader)
        if fresh is None:
            continue
        try:
            told, true = _view(_stream(evidence, life)), _view(fresh)
        except _NONSENSE as fault:
            verdict.check(False, f"{life.reader}: {fault!r} makes no sense there")  # noqa: FBT003
            continue
        different = list(differences(told.state(), true.state()))
        verdict.check(not different, (life.reader, ":"), *different[:3])
        ready_shows_enough(evidence, verdict, life, fresh)
    return verdict


def _stream(evidence: Evidence, life: Life) -> list[tuple[str, int, Json]]:
    """All that a session was told, but for leavings of guilds that had never come to it.

    Whoever joins, leaves, and breaks off in between may be told that alone: it means nothing.
    """
    rows = evidence.stored.rows
    told = (
        frame
        for frame in life.stream
        if frame.type != LEFT
        or frame.pos not in rows
        or not _never_came(evidence, life, rows[frame.pos])
    )
    return [*life.opening, *((frame.type, frame.pos, frame.d) for frame in told)]


def _view(stream: Sequence[tuple[str, int, Json]]) -> View:
    view = View()
    for kind, s, d in stream:
        try:
            view.apply(GatewayFrame(op=0, d=_essence(kind, d), s=s, t=kind))
        except _NONSENSE as fault:
            raise AssertionError(f"{kind} s={s} {fault!r}") from fault
    return view


def _essence(kind: str, d: Json) -> Json:
    """What a view takes from a message: it copies what it is given, which takes most of the time.

    Everything else is compared as a whole.
    """
    return {key: d[key] for key in _OF_MESSAGES if key in d} if kind in _MESSAGES else d


def nobody_heard_too_much(evidence: Evidence) -> Verdict:
    verdict = Verdict(10, "nobody got what they may not see")
    _revocations_take_effect(evidence, verdict)
    nobody_spoke_unseen(evidence, verdict)
    for life in evidence.lives:
        no_guild_shows_too_much(evidence, verdict, life)
        for frame in life.frames:
            row = evidence.stored.rows.get(frame.pos)
            if row is None:
                continue
            verdict.check(
                evidence.may_hear(life.user, row),
                (life.reader, "got", frame),
                row,
                "as a stranger",
            )
            upto = frame.block.upto if frame.block is not None else None
            if upto is not None and row.users is None and row.guild is not None:
                move = evidence.next_move(life.user, row.guild, after=row.pos)
                verdict.check(
                    move is None or move.pos > upto,
                    (life.reader, "got", frame),
                    ("though the replay reaches to", upto, ", behind", move),
                )
                verdict.check(
                    _still_sees(evidence, life.user, row, upto),
                    (life.reader, "got", frame),
                    ("though it saw that channel no more at", upto, ", the end of the replay"),
                )
    return verdict


def _still_sees(evidence: Evidence, user: str, row: Row, upto: int) -> bool:
    """Whether somebody sees a channel at the end of a replay, if it is still there."""
    gate = row.parent or row.channel
    if gate is None or row.guild is None:
        return True
    sight = evidence.entitlement
    if not sight.is_restricted(row.guild, gate) or not sight.exists(row.guild, gate, upto):
        return True
    return sight.sees(user, row.guild, gate, upto)


def _revocations_take_effect(evidence: Evidence, verdict: Verdict) -> None:
    """The end of a login session has its place in the log, and nothing behind it is told to it."""
    for life in evidence.lives:
        revocation = evidence.revocations.get(life.login)
        if revocation is not None:
            for frame in life.stream:
                verdict.check(
                    frame.pos <= revocation.pos,
                    (life.reader, "got", frame),
                    ("though its login had ended with", revocation),
                )


def log_is_whole(evidence: Evidence) -> Verdict:
    verdict = Verdict(11, "positions are contiguous and the same for all; the outbox is empty")
    for earlier, later in pairwise(evidence.rows):
        verdict.check(later.pos == earlier.pos + 1, earlier, ("and then", later))
    last = evidence.rows[-1].pos if evidence.rows else 1
    verdict.check(
        last == evidence.stored.head, ("the head is", evidence.stored.head, ", not", last)
    )
    verdict.check(not evidence.stored.outbox, ("left in the outbox:", evidence.stored.outbox[:5]))
    places: dict[int, Row] = {}
    for row in evidence.rows:
        first = places.setdefault(row.outbox_id, row)
        verdict.check(first is row, ("one event is", first), ("and", row))
    for life in evidence.lives:
        for frame in life.frames:
            found = evidence.stored.rows.get(frame.pos)
            is_same = found is not None and found.type == frame.type
            verdict.check(is_same, (life.reader, "got", frame), ("in the log is", found))
    for node, gaps in evidence.gaps.items():
        verdict.check(not gaps, (node, "found", gaps, "holes in the log"))
    return verdict


def deleted_stays_deleted(evidence: Evidence) -> Verdict:
    verdict = Verdict(12, "deleted content never reappears")
    newest = {row.revises: row for row in evidence.rows if row.revises is not None}
    for row in evidence.rows:
        if row.subject is None:
            continue
        deletion, edit = evidence.deletions.get(row.subject), newest.get(row.subject)
        if deletion is not None and deletion.pos > row.pos:
            verdict.check(row.payload is None, row, ("still has its content after", deletion))
        elif edit is not None and edit.pos > row.pos:
            is_new = row.payload is None or _content(row) == _content(edit)
            verdict.check(is_new, row, ("still has its old content after", edit))
    for life in evidence.lives:
        for frame in life.frames:
            deletion = evidence.deletions.get(str(frame.d.get("id")))
            upto = frame.block.upto if frame.block is not None else None
            if frame.type not in {"MESSAGE_CREATE", "MESSAGE_UPDATE"} or deletion is None:
                continue
            is_late = frame.pos > deletion.pos or (upto is not None and upto >= deletion.pos)
            verdict.check(not is_late, (life.reader, "got", frame), ("in spite of", deletion))
    return verdict


def _content(row: Row) -> Json:
    return row.payload["content"] if row.payload else None


def probes_arrive(evidence: Evidence) -> Verdict:
    verdict = Verdict(13, f"after each fault a probe arrives within {PROBE_S:.0f} s")
    for probe in evidence.probes:
        verdict.check(
            probe.waited is not None and probe.waited <= PROBE_S,
            ("after", probe.fault, probe.reader, "waited for", probe.waited, "s"),
            probe,
        )
    return verdict


INVARIANTS: tuple[Invariant, ...] = (
    acknowledged_is_stored,
    everyone_got_it,
    nothing_came_twice,
    positions_increase,
    readers_agree,
    later_is_higher,
    nothing_was_made_up,
    retries_make_no_second,
    state_follows_events,
    nobody_heard_too_much,
    log_is_whole,
    deleted_stays_deleted,
    probes_arrive,
)


def judge(evidence: Evidence) -> list[Verdict]:
    return [statement(evidence) for statement in (*INVARIANTS, *OF_THE_RUN)]
