"""The rules of automatic moderation: what it looks for, whom it spares, and what it does."""

import asyncio
import re
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from internal.db.locks import lock
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import InvalidFormBody, MissingPermissions, Unavailable, UnknownAutomodRule
from internal.guild import repository as guild_repository
from internal.guild.audit.model import Act, Action
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.automod import repository
from internal.guild.automod.model import (
    ALERT,
    BLOCK,
    KEYWORD,
    MAX_RULES,
    MENTION_SPAM,
    NO_FINDING,
    OVERDUE,
    SPAM,
    TIMEOUT,
    ActionExecuted,
    AutomodAction,
    AutomodRule,
    CreateRule,
    Execution,
    Finding,
    Hit,
    Match,
    OpenHit,
    RuleCreated,
    RuleDeleted,
    RuleUpdated,
    Said,
    TriggerMetadata,
    UpdateRule,
)
from internal.guild.model import GuildAccess, MemberUpdated
from internal.guild.service import GuildService, in_guild
from internal.permission.model import Permission
from internal.permission.model import in_guild as permissions_in_guild
from internal.user.model import User
from internal.utils.clock import Clock
from internal.utils.pattern import BadPattern, Expression, Keywords, core, first, fold, mark
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_MANAGE: Final = Permission.MANAGE_GUILD
# Who keeps the rules is not kept by them.
_SPARED: Final = int(Permission.ADMINISTRATOR | Permission.MANAGE_GUILD)
_AUDITED: Final = (
    "name",
    "enabled",
    "trigger_metadata",
    "actions",
    "exempt_roles",
    "exempt_channels",
)
_ALERTED: Final = frozenset({0, 5})
_MENTION: Final = re.compile(r"<@([!&]?)([0-9]{1,19})>")
# Rules that are kept ready, those that were needed last.
_READY: Final = 64
# For how long the rules of one guild may look at one batch of messages. The first one is looked at
# in any case.
_LOOKING_S: Final = 0.1
# Spam is the same again, so often within so many seconds. What so many authors said is remembered.
_REPEATS: Final = 5
_REPEATS_WITHIN_S: Final = 10.0
_REMEMBERED: Final = 10_000
# As long as a send may be repeated.
_KEPT: Final = timedelta(hours=25)
_LOOK_S: Final = 1.0
_DEFERRED: Final = 1000

_ACTS: Final = {
    BLOCK: Action.AUTO_MODERATION_BLOCK_MESSAGE,
    ALERT: Action.AUTO_MODERATION_FLAG_TO_CHANNEL,
    TIMEOUT: Action.AUTO_MODERATION_USER_COMMUNICATION_DISABLED,
}


class PostAlert(Protocol):
    """Shows in a channel what somebody said. Needs the guild's lock; None without a channel."""

    async def __call__(
        self,
        tx: Transaction,
        guild_id: Snowflake,
        channel_id: Snowflake,
        author: User,
        content: str,
        /,
    ) -> Snowflake | None: ...


class AutomodService:
    """Keeps the rules, applies them, and does what they say soon after."""

    def __init__(
        self,
        db: Database,
        guilds: GuildService,
        *,
        audit: AuditTrail,
        new_id: NewId,
        clock: Clock,
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._audit = audit
        self._new_id = new_id
        self._clock = clock
        # Who writes messages is opened later.
        self.post_alert: PostAlert = _nowhere
        self._ready: OrderedDict[repository.Edition, _Ready] = OrderedDict()
        self._repeats = _Repeats(clock)
        # Hits whose own transaction did not come about, as what was said was refused.
        self._deferred: deque[Hit] = deque(maxlen=_DEFERRED)
        self._news = asyncio.Event()
        self._has_noted = False

    # The rules.

    async def rules(self, actor: Snowflake, guild_id: Snowflake) -> list[AutomodRule]:
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id, _MANAGE)
            return await repository.of_guild(conn, guild_id)

    async def rule(self, actor: Snowflake, guild_id: Snowflake, rule_id: Snowflake) -> AutomodRule:
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id, _MANAGE)
            return _known(await repository.find(conn, guild_id, rule_id))

    async def create(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        wish: CreateRule,
        *,
        reason: str | None = None,
    ) -> AutomodRule:
        metadata = _metadata(wish.trigger_type, wish.trigger_metadata)
        await asyncio.to_thread(_check_patterns, metadata)
        async with self._guilds.change(actor, guild_id, _MANAGE) as (tx, access):
            rules = await repository.of_guild(tx.conn, guild_id)
            same = [rule for rule in rules if rule.trigger_type == wish.trigger_type]
            if len(same) >= MAX_RULES[wish.trigger_type]:
                raise field_error(
                    "trigger_type",
                    f"A guild has at most {MAX_RULES[wish.trigger_type]} rules of this kind",
                    "AUTO_MODERATION_MAX_RULES_OF_TYPE_EXCEEDED",
                )
            rule = AutomodRule(
                id=self._new_id(),
                guild_id=guild_id,
                name=wish.name,
                creator_id=actor,
                trigger_type=wish.trigger_type,
                trigger_metadata=metadata,
                actions=tuple(wish.actions),
                enabled=bool(wish.enabled),
                exempt_roles=_distinct(wish.exempt_roles),
                exempt_channels=_distinct(wish.exempt_channels),
            )
            await self._check(tx.conn, access, None, rule)
            await repository.insert(tx.conn, rule, self._new_id())
            users = await self._guilds.holders_of(tx.conn, guild_id, _MANAGE)
            tx.emit(RuleCreated(rule=rule, users=users))
            await self._record(tx, None, rule, actor, Action.AUTO_MODERATION_RULE_CREATE, reason)
        return rule

    async def update(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        rule_id: Snowflake,
        wish: UpdateRule,
        *,
        reason: str | None = None,
    ) -> AutomodRule:
        """Change a rule. What is not given stays; no change tells nobody."""
        if isinstance(wish.trigger_metadata, TriggerMetadata):
            await asyncio.to_thread(_check_patterns, wish.trigger_metadata)
        async with self._guilds.change(actor, guild_id, _MANAGE) as (tx, access):
            old = _known(await repository.find(tx.conn, guild_id, rule_id))
            rule = _changed(old, wish)
            if rule == old:
                return old
            await self._check(tx.conn, access, old, rule)
            await repository.update(tx.conn, rule, self._new_id())
            users = await self._guilds.holders_of(tx.conn, guild_id, _MANAGE)
            tx.emit(RuleUpdated(rule=rule, users=users))
            await self._record(tx, old, rule, actor, Action.AUTO_MODERATION_RULE_UPDATE, reason)
        return rule

    async def delete(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        rule_id: Snowflake,
        *,
        reason: str | None = None,
    ) -> None:
        async with self._guilds.change(actor, guild_id, _MANAGE) as (tx, _):
            rule = _known(await repository.find(tx.conn, guild_id, rule_id))
            await repository.delete(tx.conn, guild_id, rule_id)
            users = await self._guilds.holders_of(tx.conn, guild_id, _MANAGE)
            tx.emit(RuleDeleted(rule=rule, users=users))
            await self._record(tx, rule, None, actor, Action.AUTO_MODERATION_RULE_DELETE, reason)

    async def _check(
        self, conn: Conn, access: GuildAccess, old: AutomodRule | None, rule: AutomodRule
    ) -> None:
        """What a rule names is there, and the actor may do what it does."""
        _check_actions(rule)
        has_timeout = rule.action(TIMEOUT) is not None
        if has_timeout and not access.may(Permission.MODERATE_MEMBERS):
            raise MissingPermissions
        guild_id, actor = access.guild.id, access.member.user.id
        known_roles: Sequence[Snowflake] = () if old is None else old.exempt_roles
        if new_roles := set(rule.exempt_roles).difference(known_roles):
            roles = (await guild_repository.roles_of(conn, [guild_id]))[guild_id]
            if not new_roles <= {role.id for role in roles}:
                raise field_error("exempt_roles", "There is no such role in this guild")
        known_channels: Sequence[Snowflake] = () if old is None else old.exempt_channels
        new_channels = set(rule.exempt_channels).difference(known_channels)
        alert = rule.action(ALERT)
        is_new_alert = alert is not None and (old is None or old.action(ALERT) != alert)
        if not new_channels and not is_new_alert:
            return
        channels = await self._guilds.channels_of(conn, actor, guild_id)
        if not new_channels <= {channel.id for channel in channels}:
            raise field_error("exempt_channels", "There is no such channel in this guild")
        texts = {channel.id for channel in channels if channel.type in _ALERTED}
        if is_new_alert and alert is not None and alert.channel_id not in texts:
            raise field_error("actions", "There is no such text channel in this guild")

    async def _record(
        self,
        tx: Transaction,
        old: AutomodRule | None,
        new: AutomodRule | None,
        actor: Snowflake,
        action: Action,
        reason: str | None,
    ) -> None:
        rule = new or old
        if rule is None:
            return
        await self._audit.record(
            tx,
            Act(
                guild_id=rule.guild_id,
                actor=actor,
                action=action,
                target=rule.id,
                changes=changes_between(old, new, *_AUDITED),
                reason=reason,
            ),
        )

    # Looking at what is said.

    async def judge(self, conn: Conn, said: Sequence[Said]) -> list[Finding]:
        """What the rules have to say to each of these. Needs the locks of the guilds, shared.

        One statement, and another one after rules were changed.
        """
        bound = [one for one in said if not permissions_in_guild(one.standing) & _SPARED]
        guild_ids = {one.guild_id for one in bound}
        editions = await repository.enabled_in(conn, guild_ids) if guild_ids else {}
        if not editions:
            return [NO_FINDING] * len(said)
        ready = await self._make_ready(conn, editions)
        tasks = [
            _Task(
                one,
                []
                if permissions_in_guild(one.standing) & _SPARED
                else [
                    ready[edition]
                    for edition in editions.get(one.guild_id, ())
                    if edition in ready and not _is_exempt(one, ready[edition].rule)
                ],
            )
            for one in said
        ]
        # Off the loop: RE2 lets others run meanwhile.
        found = await asyncio.to_thread(_look, tasks)
        return [
            OVERDUE if matches is None else Finding((*matches, *self._spam(task)))
            for task, matches in zip(tasks, found, strict=True)
        ]

    def hits(
        self, said: Said, finding: Finding, *, message_id: Snowflake | None, key: str | None
    ) -> list[Hit]:
        """What is to be acted upon, one for each rule."""
        return [
            Hit(
                id=self._new_id(),
                guild_id=said.guild_id,
                rule_id=match.rule.id,
                author_id=Snowflake(said.standing.user_id),
                channel_id=said.channel_id,
                message_id=message_id,
                key=key,
                content=said.content,
                matched_keyword=match.keyword,
                matched_content=match.content,
            )
            for match in finding.matches
        ]

    async def note(self, conn: Conn, hits: Sequence[Hit]) -> None:
        """Write down what is to be acted upon, in the transaction of what was said."""
        if hits:
            await repository.insert_hits(conn, hits)
            self._has_noted = True

    def wake(self) -> None:
        """Act upon what was noted, now that it is committed."""
        if self._has_noted:
            self._has_noted = False
            self._news.set()

    def note_later(self, hits: Sequence[Hit]) -> None:
        """The same for what was said in a transaction that is undone."""
        self._deferred.extend(hits)
        self._news.set()

    async def _make_ready(
        self, conn: Conn, editions: dict[Snowflake, list[repository.Edition]]
    ) -> dict[repository.Edition, "_Ready"]:
        """The rules of these editions as they can be applied."""
        wanted = [edition for some in editions.values() for edition in some]
        ready = {one: self._ready[one] for one in wanted if one in self._ready}
        missing = [rule_id for rule_id, version in wanted if (rule_id, version) not in ready]
        if missing:
            bodies = await repository.bodies(conn, editions.keys(), missing)
            for edition, rule in bodies.items():
                ready[edition] = await asyncio.to_thread(_Ready, rule)
        for edition, one in ready.items():
            self._ready[edition] = one
            self._ready.move_to_end(edition)
        while len(self._ready) > _READY:
            self._ready.popitem(last=False)
        return ready

    def _spam(self, task: "_Task") -> list[Match]:
        """The rule against spam, if this is the same again too often."""
        rule = next((one.rule for one in task.rules if one.rule.trigger_type == SPAM), None)
        if rule is None or task.said.is_edit:
            return []
        said = task.said
        return [Match(rule)] if self._repeats.add(said) >= _REPEATS else []

    # Acting upon it.

    async def run(self) -> None:
        """Act upon what was found, soon, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._write_deferred()
                while await self.act():  # noqa: ASYNC110  # each round does something
                    await asyncio.sleep(0)
            except Unavailable:
                _log.warning("automod_postponed")
            except Exception:  # noqa: BLE001  # the next round tries again
                _log.exception("automod_failed")

    async def act(self) -> bool:
        """Act upon the oldest hit, on whichever node it was found; False if there is none."""
        async with self._db.read() as conn:
            found = await repository.next_open(conn)
        if found is None:
            return False
        hit_id, guild_id = found

        async def attempt(conn: Conn, wait_for: int | None) -> OpenHit | None:
            await lock(conn, guild_id, wait_for=wait_for)
            return await repository.take(conn, hit_id)

        try:
            async with self._guilds.locks.transaction(attempt) as (tx, hit):
                if hit is not None:
                    await self._act(tx, hit)
                await repository.finish(tx.conn, hit_id)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  # one that can't be acted upon must not stop the others
            _log.exception("automod_hit_dropped", hit=int(hit_id))
            async with self._db.read() as conn:
                await repository.finish(conn, hit_id)
        return True

    async def sweep(self, limit: int) -> int:
        """Forget hits that no send can repeat any more; how many it were."""
        async with self._db.read() as conn:
            return await repository.forget(conn, self._clock.now() - _KEPT, limit)

    async def _write_deferred(self) -> None:
        # Taken out first: those that come meanwhile must push none out that was not written.
        hits = [self._deferred.popleft() for _ in range(len(self._deferred))]
        if not hits:
            return
        try:
            async with self._db.read() as conn:
                await repository.insert_hits(conn, hits)
        except BaseException:
            self._deferred.extendleft(reversed(hits))
            raise

    async def _act(self, tx: Transaction, found: OpenHit) -> None:
        hit, rule = found.hit, found.rule
        users = await self._guilds.holders_of(tx.conn, hit.guild_id, _MANAGE)
        for action in rule.actions:
            alert_id: Snowflake | None = None
            if action.type == BLOCK and hit.message_id is not None:
                # It was sent before the rule was made one that blocks.
                continue
            if action.type == ALERT:
                alert_id = await self._alert(tx, found, action)
                if alert_id is None:
                    continue
            if action.type == TIMEOUT and not await self._time_out(tx, found, action):
                continue
            execution = Execution(
                guild_id=hit.guild_id,
                action=action,
                rule_id=rule.id,
                rule_trigger_type=rule.trigger_type,
                user_id=hit.author_id,
                channel_id=hit.channel_id,
                message_id=hit.message_id or msgspec.UNSET,
                alert_system_message_id=alert_id or msgspec.UNSET,
                content=hit.content,
                matched_keyword=hit.matched_keyword,
                matched_content=hit.matched_content,
            )
            tx.emit(ActionExecuted(execution=execution, users=users))
            await self._audit.record(
                tx,
                Act(
                    guild_id=hit.guild_id,
                    # The server does it.
                    actor=None,
                    action=_ACTS[action.type],
                    target=hit.author_id,
                    options={
                        "auto_moderation_rule_name": rule.name,
                        "auto_moderation_rule_trigger_type": rule.trigger_type,
                        "channel_id": hit.channel_id,
                    },
                ),
            )

    async def _alert(
        self, tx: Transaction, found: OpenHit, action: AutomodAction
    ) -> Snowflake | None:
        channel_id = action.metadata.channel_id
        if not isinstance(channel_id, Snowflake):
            return None
        guild_id, content = found.hit.guild_id, found.hit.content
        return await self.post_alert(tx, guild_id, channel_id, found.author, content)

    async def _time_out(self, tx: Transaction, found: OpenHit, action: AutomodAction) -> bool:
        """Time the author out; False for who is gone, spared by now, or out for longer."""
        guild_id, user_id = found.hit.guild_id, found.hit.author_id
        access = await self._guilds.standing(tx.conn, guild_id, user_id)
        seconds = action.metadata.duration_seconds
        if access is None or access.permissions & _SPARED or not isinstance(seconds, int):
            return False
        until = self._clock.now() + timedelta(seconds=seconds)
        if found.timed_out_until is not None and found.timed_out_until >= until:
            return False
        await repository.time_out(tx.conn, guild_id, user_id, until)
        member = await guild_repository.find_member(tx.conn, guild_id, user_id)
        if member is None:
            return False
        tx.emit(MemberUpdated(member=in_guild(guild_id, member)))
        return True


class _Ready:
    """A rule as it can be applied."""

    def __init__(self, rule: AutomodRule) -> None:
        metadata = rule.trigger_metadata
        self.rule = rule
        self._keywords = Keywords(metadata.keyword_filter or ())
        self._allowed = Keywords(metadata.allow_list or ())
        self._patterns = [Expression(pattern) for pattern in metadata.regex_patterns or ()]

    def match(self, content: str, marked: str) -> Match | None:
        """What the rule finds in a text, which comes also as `mark` gives it."""
        if self.rule.trigger_type == MENTION_SPAM:
            limit = self.rule.trigger_metadata.mention_total_limit or 0
            return Match(self.rule) if count_mentions(content) > limit else None
        if self.rule.trigger_type != KEYWORD:
            return None
        keyword = self._keywords.find(self._allowed.without(marked))
        if keyword is not None:
            return Match(self.rule, keyword, core(keyword))
        found = first(self._patterns, content, self._allowed)
        return None if found is None else Match(self.rule, None, found)


class _Task(NamedTuple):
    """Something that is said, and the rules that apply to it."""

    said: Said
    rules: list[_Ready]


def _look(tasks: Sequence[_Task]) -> list[list[Match] | None]:
    """Apply rules, for a bounded time in each guild; None for what there was no time for."""
    spent: dict[int, float] = {}
    found: list[list[Match] | None] = []
    for said, rules in tasks:
        if spent.get(said.guild_id, 0.0) > _LOOKING_S:
            found.append(None)
            continue
        start = time.thread_time()
        marked = mark(said.content) if rules else ""
        matches = (rule.match(said.content, marked) for rule in rules)
        found.append([match for match in matches if match is not None])
        spent[said.guild_id] = spent.get(said.guild_id, 0.0) + time.thread_time() - start
    return found


class _Repeats:
    """What people said lately, as hashes; those who spoke last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: OrderedDict[tuple[int, int], deque[tuple[float, int]]] = OrderedDict()

    def add(self, said: Said) -> int:
        """Remember it; how often its author said it within the time that counts."""
        now, who = self._clock.monotonic(), (said.guild_id, said.standing.user_id)
        lately = self._said.setdefault(who, deque(maxlen=4 * _REPEATS))
        self._said.move_to_end(who)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        what = hash(fold(said.content).strip())
        lately.append((now, what))
        return sum(one == what for at, one in lately if now - at <= _REPEATS_WITHIN_S)


def count_mentions(content: str) -> int:
    """How many people and roles a text mentions, each once."""
    return len({(kind == "&", name) for kind, name in _MENTION.findall(content)})


async def _nowhere(
    _tx: Transaction,
    _guild_id: Snowflake,
    _channel_id: Snowflake,
    _author: User,
    _content: str,
) -> None:
    """Post no alert as long as nobody writes messages."""


def _known(rule: AutomodRule | None) -> AutomodRule:
    if rule is None:
        raise UnknownAutomodRule
    return rule


def _distinct(ids: Sequence[Snowflake] | None) -> tuple[Snowflake, ...]:
    return tuple(dict.fromkeys(ids or ()))


def _is_exempt(said: Said, rule: AutomodRule) -> bool:
    if said.channel_id in rule.exempt_channels or said.parent_id in rule.exempt_channels:
        return True
    return any(role_id in rule.exempt_roles for role_id, _ in said.standing.roles)


def _metadata(kind: int, wish: TriggerMetadata | None) -> TriggerMetadata:
    """What a rule of this kind looks for, or the error in it."""
    given = wish or TriggerMetadata()
    if kind == KEYWORD:
        metadata = TriggerMetadata(
            keyword_filter=given.keyword_filter or [],
            regex_patterns=given.regex_patterns or [],
            allow_list=given.allow_list or [],
        )
        if not metadata.keyword_filter and not metadata.regex_patterns:
            raise field_error("trigger_metadata", "A keyword or an expression is required")
        return metadata
    if kind == MENTION_SPAM:
        if given.mention_raid_protection_enabled:
            raise field_error(
                "trigger_metadata.mention_raid_protection_enabled", "There is no such protection"
            )
        if not isinstance(given.mention_total_limit, int):
            raise _required("trigger_metadata.mention_total_limit")
        return TriggerMetadata(
            mention_total_limit=given.mention_total_limit, mention_raid_protection_enabled=False
        )
    if kind == SPAM:
        return TriggerMetadata()
    raise field_error(
        "trigger_type", "There are rules of type 1 (words), 3 (spam) and 5 (mentions) here"
    )


def _check_patterns(metadata: TriggerMetadata) -> None:
    """Refuse what can't be looked for."""
    for name in ("keyword_filter", "allow_list"):
        for i, keyword in enumerate(getattr(metadata, name) or ()):
            if not core(keyword):
                raise field_error(f"trigger_metadata.{name}.{i}", "Must have more than wildcards")
    for i, pattern in enumerate(metadata.regex_patterns or ()):
        try:
            Expression(pattern)
        except BadPattern as fault:
            path = f"trigger_metadata.regex_patterns.{i}"
            raise field_error(path, f"Not a usable expression: {fault}") from None


def _check_actions(rule: AutomodRule) -> None:
    kinds = [action.type for action in rule.actions]
    if len(set(kinds)) < len(kinds):
        raise field_error("actions", "Each kind of action may be there once")
    for i, action in enumerate(rule.actions):
        if action.type == ALERT and not action.metadata.channel_id:
            raise _required(f"actions.{i}.metadata.channel_id")
        if action.type == TIMEOUT:
            if not action.metadata.duration_seconds:
                raise _required(f"actions.{i}.metadata.duration_seconds")
            if rule.trigger_type == SPAM:
                raise field_error(f"actions.{i}.type", "A rule against spam times nobody out")


def _required(path: str) -> InvalidFormBody:
    return field_error(path, "This field is required", "BASE_TYPE_REQUIRED")


def _changed(rule: AutomodRule, wish: UpdateRule) -> AutomodRule:
    """The rule with what stands in a body; null is what a new rule has, absent is as it was."""
    changes: dict[str, object] = {}
    if wish.name is not msgspec.UNSET:
        changes["name"] = wish.name
    if wish.enabled is not msgspec.UNSET:
        changes["enabled"] = bool(wish.enabled)
    if wish.actions is not msgspec.UNSET:
        changes["actions"] = tuple(wish.actions)
    if wish.trigger_metadata is not msgspec.UNSET:
        changes["trigger_metadata"] = _metadata(rule.trigger_type, wish.trigger_metadata)
    if wish.exempt_roles is not msgspec.UNSET:
        changes["exempt_roles"] = _distinct(wish.exempt_roles)
    if wish.exempt_channels is not msgspec.UNSET:
        changes["exempt_channels"] = _distinct(wish.exempt_channels)
    return msgspec.structs.replace(rule, **changes)
