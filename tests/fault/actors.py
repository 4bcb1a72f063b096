"""Those who change things: writers, talkers, drifters and the steward of the guilds."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

from tests.fault.calls import Account
from tests.fault.entitlement import ADMINISTRATOR, VIEW
from tests.fault.history import Op
from tests.fault.readers import Reader
from tests.fault.world import Guild, World

# So that buffers fill up: some messages are long.
_PADDING: Final = " " + "x" * 1500
_DELETE: Final = "DELETE"


class Actor:
    """Somebody who does one thing after the other, whatever chance decides."""

    def __init__(
        self, world: World, account: Account, *, pace: float = 1.0, role: str = ""
    ) -> None:
        """`role` tells apart what one person does in several."""
        self.world = world
        self.account = account
        self.history = world.history(account, role)
        self.chance = world.branch(f"{role or account.username} acts")
        self._pace = pace
        self._count = 0
        self._choices: list[tuple[float, Callable[[], Awaitable[None]]]] = []

    def may(self, weight: float, act: Callable[[], Awaitable[None]]) -> None:
        self._choices.append((weight, act))

    async def run(self) -> None:
        """Act until the world stops, and end what was begun."""
        acts = [act for _, act in self._choices]
        weights = [weight for weight, _ in self._choices]
        while not self.world.stopping.is_set():
            await self.chance.choices(acts, weights)[0]()
            await asyncio.sleep(
                self.chance.expovariate(1 / (self.world.scale.think_s * self._pace))
            )

    def words(self) -> str:
        """Words that nobody has said before."""
        self._count += 1
        padding = _PADDING if self.chance.random() < 0.15 else ""
        return f"{self.account.username}-{self._count}{padding}"

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}-{self.account.username}-{self._count}"

    async def call(self, op: Op, method: str, path: str, body: object = None) -> Op:
        return await self.account.once(self.history, op, method, path, body)


class Writer(Actor):
    """Sends to guilds and to a friend, and edits or takes back what it said."""

    def __init__(self, world: World, account: Account, channels: list[str]) -> None:
        super().__init__(world, account)
        self._channels = channels
        self._own: list[Op] = []
        self.may(80, self._send)
        self.may(9, self._edit)
        self.may(8, self._delete)
        self.may(3, self._trespass)

    async def _send(self) -> None:
        channel_id = self.chance.choice(self._channels)
        op = await self.account.send(self.history, channel_id, self.words())
        if op.ok:
            self._own.append(op)

    async def _edit(self) -> None:
        if not self._own:
            return
        sent = self.chance.choice(self._own[-8:])
        self._count += 1
        words = f"{sent.about['nonce']}.{self._count}"
        channel_id, message_id = sent.about["channel_id"], sent.result["id"]
        op = self.history.invoke("edit", channel_id=channel_id, id=message_id, words=words)
        await self.call(op, "PATCH", f"/messages/{channel_id}/{message_id}", {"content": words})

    async def _delete(self) -> None:
        if not self._own:
            return
        sent = self._own.pop(self.chance.randrange(max(0, len(self._own) - 8), len(self._own)))
        channel_id, message_id = sent.about["channel_id"], sent.result["id"]
        op = self.history.invoke("delete", channel_id=channel_id, id=message_id)
        await self.call(op, _DELETE, f"/messages/{channel_id}/{message_id}")

    async def _trespass(self) -> None:
        """Try to speak where one is a stranger; nobody may ever hear it.

        In a lounge one need not be a stranger just then: the log decides.
        """
        lounges = [guild.lounge for guild in self.world.lounges]
        channel_id = self.chance.choice([*self.world.vault.channels, *lounges])
        await self.account.send(self.history, channel_id, self.words())


class Talker(Actor):
    """Sends over the gateway."""

    def __init__(self, world: World, reader: Reader) -> None:
        super().__init__(world, reader.account, pace=2)
        self._reader = reader
        self.may(1, self._say)

    async def _say(self) -> None:
        guild = self.chance.choice(self.world.guilds[:-1])
        channels = list(guild.channels)
        if guild.lounge and self.account.id not in self.world.fickle:
            channels.append(guild.lounge)
        await self._reader.say(self.chance.choice(channels), self.words())


class Caller(Actor):
    """Asks, and retries as the protocol says: what it asks for must always be had."""

    def __init__(self, world: World, account: Account) -> None:
        super().__init__(world, account)
        self.may(1, self._read_channel)
        self.may(1, self._read_account)

    async def _read_channel(self) -> None:
        guild = self.chance.choice(self.world.guilds[:-1])
        channel_id = self.chance.choice(guild.channels)
        op = self.history.invoke("read", channel_id=channel_id)
        path = f"/messages/channel/{channel_id}?limit=5"
        await self.account.insist(self.history, op, "GET", path, None)

    async def _read_account(self) -> None:
        op = self.history.invoke("read", user_id=self.account.id)
        await self.account.insist(self.history, op, "GET", "/users/@me", None)


class Drifter(Actor):
    """Joins and leaves, renames itself, and makes guilds that do not last."""

    def __init__(self, world: World, account: Account) -> None:
        super().__init__(world, account, pace=3)
        self._tents: list[tuple[str, str]] = []
        self.may(30, self._join)
        self.may(25, self._leave)
        self.may(10, self._rename_oneself)
        self.may(25, self._send)
        self.may(5, self._pitch)
        self.may(5, self._strike)

    async def _join(self) -> None:
        guild = self.chance.choice(self.world.guilds[1:-1])
        op = self.history.invoke("join", guild_id=guild.id)
        await self.call(op, "POST", f"/guilds/{guild.id}/join")

    async def _leave(self) -> None:
        guild = self.chance.choice(self.world.guilds[1:-1])
        op = self.history.invoke("leave", guild_id=guild.id)
        await self.call(op, "POST", f"/guilds/{guild.id}/leave")

    async def _rename_oneself(self) -> None:
        name = self.name("Mx")
        op = self.history.invoke("rename_self", user_id=self.account.id, name=name)
        await self.call(op, "PATCH", "/users/@me", {"global_name": name})

    async def _send(self) -> None:
        """Whether it is a member just now or not."""
        guild = self.chance.choice(self.world.guilds[:-1])
        channels = [*guild.channels, *filter(None, [guild.lounge])]
        await self.account.send(self.history, self.chance.choice(channels), self.words())

    async def _pitch(self) -> None:
        name = self.name("tent")
        op = self.history.invoke("guild_create", name=name)
        await self.call(op, "POST", "/guilds", {"name": name, "discoverable": True})
        if op.ok:
            channel_id = op.result["channels"][0]["id"]
            self._tents.append((op.result["id"], channel_id))
            await self.account.send(self.history, channel_id, self.words())

    async def _strike(self) -> None:
        if not self._tents:
            return
        guild_id, channel_id = self._tents.pop()
        op = self.history.invoke("guild_delete", guild_id=guild_id, channels=[channel_id])
        await self.call(op, _DELETE, f"/guilds/{guild_id}")


class Steward(Actor):
    """Owns the guilds: makes, renames and deletes channels, and talks in the vault."""

    def __init__(self, world: World, account: Account) -> None:
        super().__init__(world, account, pace=3)
        self._rooms: list[str] = []
        self.may(20, self._create)
        self.may(25, self._rename)
        self.may(15, self._delete)
        self.may(15, self._send)
        self.may(15, self._whisper)
        self.may(10, self._receive)

    async def _create(self) -> None:
        guild, name = self.chance.choice(self.world.guilds[:-1]), self.name("room")
        op = self.history.invoke("channel_create", guild_id=guild.id, name=name)
        await self.call(op, "POST", "/channels", {"guild_id": guild.id, "name": name})
        if op.ok:
            self._rooms.append(op.result["id"])

    async def _rename(self) -> None:
        if self._rooms:
            channel_id, name = self.chance.choice(self._rooms), self.name("room")
            op = self.history.invoke("channel_rename", channel_id=channel_id, name=name)
            await self.call(op, "PATCH", f"/channels/{channel_id}", {"name": name})

    async def _delete(self) -> None:
        if self._rooms:
            channel_id = self._rooms.pop(self.chance.randrange(len(self._rooms)))
            op = self.history.invoke("channel_delete", channel_id=channel_id)
            await self.call(op, _DELETE, f"/channels/{channel_id}")

    async def _send(self) -> None:
        if self._rooms:
            channel_id = self.chance.choice(self._rooms)
            await self.account.send(self.history, channel_id, self.words())

    async def _whisper(self) -> None:
        channel_id = self.chance.choice(self.world.vault.channels)
        await self.account.send(self.history, channel_id, self.words())

    async def _receive(self) -> None:
        """The owner sees the lounges without any role."""
        guild = self.chance.choice(self.world.lounges)
        await self.account.send(self.history, guild.lounge, self.words())


class Warden(Actor):
    """Lets people see the lounges, and no more, by each of the ways that there are.

    Roles change in all of them, for one at a time. What may change everybody's sight changes in
    one guild alone: in the other one resumes go on without such a change in between.
    """

    def __init__(self, world: World, account: Account) -> None:
        super().__init__(world, account, pace=world.scale.warden_pace, role="warden")
        self._given: set[tuple[str, str]] = set()
        self._bits = 0
        self.may(80, self._switch_role)
        self.may(10, self._switch_keys)
        self.may(6, self._rule_somebody)
        self.may(2, self._open_to_all)
        self.may(2, self._turn_keys)

    async def _switch_role(self) -> None:
        guild = self.chance.choice(self.world.lounges)
        await self._switch(guild, guild.insiders)

    async def _switch_keys(self) -> None:
        guild = self.world.lounges[-1]
        await self._switch(guild, guild.keys)

    async def _switch(self, guild: Guild, role_id: str) -> None:
        user_id = self.chance.choice(self.world.fickle)
        has_it = (user_id, role_id) in self._given
        what, method = ("role_take", _DELETE) if has_it else ("role_give", "PUT")
        op = self.history.invoke(what, guild_id=guild.id, user_id=user_id, role_id=role_id)
        path = f"/guilds/{guild.id}/members/{user_id}/roles/{role_id}"
        await self.call(op, method, path)
        # Also one that is in doubt: the next try is for the other way.
        if op.outcome != "fail":
            self._given.symmetric_difference_update({(user_id, role_id)})

    async def _rule_somebody(self) -> None:
        """One member's own rule, which counts more than those of roles."""
        bits = self.chance.choice([(VIEW, 0), (0, VIEW), (0, 0)])
        await self._rule(self.chance.choice(self.world.fickle), 1, bits)

    async def _open_to_all(self) -> None:
        bits = self.chance.choice([(VIEW, 0), (0, VIEW), (0, VIEW)])
        await self._rule(self.world.lounges[-1].id, 0, bits)

    async def _rule(self, target_id: str, kind: int, bits: tuple[int, int]) -> None:
        channel_id = self.world.lounges[-1].lounge
        op = self.history.invoke("overwrite", channel_id=channel_id, target_id=target_id, bits=bits)
        body = {"type": kind, "allow": str(bits[0]), "deny": str(bits[1])}
        await self.call(op, "PUT", f"/channels/{channel_id}/permissions/{target_id}", body)

    async def _turn_keys(self) -> None:
        """A role that lets those who have it see everything, or nothing."""
        guild = self.world.lounges[-1]
        self._bits ^= ADMINISTRATOR
        op = self.history.invoke("role_permissions", role_id=guild.keys, permissions=self._bits)
        path = f"/guilds/{guild.id}/roles/{guild.keys}"
        await self.call(op, "PATCH", path, {"permissions": str(self._bits)})


async def cast(world: World) -> list[Coroutine[None, None, None]]:
    """Everybody's work, to be started."""
    work: list[Coroutine[None, None, None]] = []
    listening = [reader.account for reader in world.readers]
    for name, account in list(world.accounts.items()):
        if name.startswith("writer"):
            friend = world.chance.choice(listening)
            direct = await account.must("POST", "/users/@me/channels", {"recipient_id": friend.id})
            channels = [c for guild in world.guilds[:-1] for c in guild.channels]
            if account.id not in world.fickle:
                # More than its share, as fewer go there.
                channels += 2 * [guild.lounge for guild in world.lounges]
            work.append(Writer(world, account, [*channels, direct["id"]]).run())
        elif name.startswith("caller"):
            work.append(Caller(world, account).run())
        elif name.startswith("drifter"):
            work.append(Drifter(world, account).run())
        elif name == "steward":
            work.append(Steward(world, account).run())
            work.append(Warden(world, account).run())
    talkers = [reader for reader in world.readers if reader.account.username.startswith("talker")]
    return [*work, *(Talker(world, reader).run() for reader in talkers)]
