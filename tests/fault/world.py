"""The people of a run, their guilds and channels, and who does what while it lasts."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from tests.fault.calls import IMPATIENT_S, Account
from tests.fault.deployment import Deployment
from tests.fault.entitlement import VIEW
from tests.fault.flaky import FlakyLine
from tests.fault.history import History
from tests.fault.readers import Habits, Reader

_CUT_BYTES: Final = 150_000
# Every so manieth gives up early: a short pause leaves what it asked in doubt.
_IMPATIENT: Final = 2
_FAITHFUL: Final = 0.8
# Behind a line that stalls, silence need not mean that the node is gone.
_SILENCE_S: Final = 12.0

# So many guilds have a channel that not all may see.
_LOUNGES: Final = 2
_INSIDERS: Final = {"steady", "narrow"}
_HALF: Final = {"writer", "talker", "dropping", "flaky"}
# Who neither sees the lounges nor ever comes to see them.
_UNTOUCHED: Final = ("caller", "prober")

STEADY: Final = Habits()
DROPPING: Final = Habits(drops=2.5, away=1.5)
HAUNTING: Final = Habits(drops=10, haunts=4, away=0.5)
STALLING: Final = Habits(stalls=3, drops=12, away=2)
LEAVING: Final = Habits(drops=5, logs_out=4)


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How many there are of each kind, and how long they think between two operations."""

    writers: int = 6
    talkers: int = 2
    callers: int = 2
    steady: int = 3
    dropping: int = 3
    stalling: int = 2
    flaky: int = 2
    narrow: int = 2
    leaving: int = 1
    haunting: int = 1
    drifters: int = 3
    guilds: int = 3
    think_s: float = 0.05
    # How much more often than usual readers misbehave, and for how much shorter a time.
    haste: float = 1.0
    # How much longer than others those think who let people see channels.
    warden_pace: float = 2.5


class Guild(msgspec.Struct):
    """A guild with the channels that stay."""

    id: str
    channels: list[str]
    # A channel that only those see who have the role of the insiders.
    lounge: str = ""
    insiders: str = ""
    # A role that sometimes opens everything.
    keys: str = ""


class World:
    """Everybody, and where the nodes are."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        deployment: Deployment,
        folder: Path,
        *,
        seed: int,
        scale: Scale,
    ) -> None:
        self.deployment = deployment
        self._seed = seed
        self.http = http
        self.folder = folder
        self.scale = scale
        self.chance = random.Random(seed)  # noqa: S311  # A run can be repeated by its seed.
        self.stopping = asyncio.Event()
        self.histories: list[History] = []
        self.payloads: dict[int, msgspec.Raw] = {}
        self.accounts: dict[str, Account] = {}
        self.readers: list[Reader] = []
        self.guilds: list[Guild] = []
        # Who reads which channels from the beginning to the end.
        self.residents: dict[str, frozenset[str]] = {}
        # Those whose sight of the lounges comes and goes; the others who listen always see them.
        self.fickle: list[str] = []
        self.line = FlakyLine(self._past_doors, self.branch("line"), mean=_CUT_BYTES)
        self.narrow = FlakyLine(self._past_doors, self.branch("narrow"), mean=None)
        deployment.line, deployment.http = self.narrow, http

    def node(self, other_than: str = "") -> str:
        """The address of any node, of another one than that if there is any."""
        urls = self.deployment.urls()
        return self.chance.choice([url for url in urls if url != other_than] or urls)

    def _mostly(self, number: int) -> str:
        """One node rather than the others: somebody steady listens at each."""
        own = self.deployment.nodes[number % len(self.deployment.nodes)]
        is_own = own.is_offered and self.chance.random() < _FAITHFUL
        return own.door.url if is_own else self.node()

    def _past_doors(self) -> str:
        """A node itself: a door's buffers would spare it what its slow readers cost it."""
        return self.chance.choice(self.deployment.nodes).process.url

    def branch(self, name: str) -> random.Random:
        """Chance of its own for each client: what one does does not change what others do."""
        return random.Random(f"{self._seed} {name}")  # noqa: S311

    def history(self, account: Account, name: str = "") -> History:
        made = History(self.folder, name or account.username, account.id)
        self.histories.append(made)
        return made

    @property
    def plaza(self) -> Guild:
        """Where everybody is; nobody leaves it."""
        return self.guilds[0]

    @property
    def vault(self) -> Guild:
        """Where only its owner is, who talks to himself: nobody else may hear of it."""
        return self.guilds[-1]

    @property
    def lounges(self) -> list[Guild]:
        """The guilds that have one."""
        return [guild for guild in self.guilds if guild.lounge]

    @property
    def in_flight(self) -> int:
        return sum(account.in_flight for account in self.accounts.values())

    async def account(self, username: str) -> Account:
        account = Account(self.http, self.node, username)
        await account.sign_in(new=True)
        number = username.lstrip("abcdefghijklmnopqrstuvwxyz")
        if number and int(number) % _IMPATIENT == 0:
            account.patience_s = IMPATIENT_S
        self.accounts[username] = account
        return account

    async def found(self) -> None:
        """Make everybody and everything that is there from the beginning."""
        scale = self.scale
        steward = await self.account("steward")
        self.guilds = [await self._guild(steward, f"guild {n}") for n in range(scale.guilds + 2)]
        await asyncio.gather(*(self._hide(steward, guild) for guild in self.guilds[:_LOUNGES]))
        groups = {
            "writer": scale.writers,
            "talker": scale.talkers,
            "caller": scale.callers,
            "steady": scale.steady,
            "dropping": scale.dropping,
            "stalling": scale.stalling,
            "flaky": scale.flaky,
            "narrow": scale.narrow,
            "leaving": scale.leaving,
            "haunting": scale.haunting,
            "drifter": scale.drifters,
            "prober": 1,
        }
        names = [f"{group}{n}" for group, count in groups.items() for n in range(count)]
        await asyncio.gather(*(self._move_in(name) for name in names))
        await self._let_insiders_in(steward, names)
        habits = {
            "talker": DROPPING,
            "steady": STEADY,
            "dropping": DROPPING,
            "stalling": STALLING,
            "flaky": STEADY,
            "narrow": STEADY,
            "leaving": LEAVING,
            "haunting": HAUNTING,
            "drifter": DROPPING,
        }
        # Who stalls does so behind little buffers.
        lines = {"flaky": self.line, "stalling": self.line, "narrow": self.narrow}
        for name in names:
            group = name.rstrip("0123456789")
            if group in habits:
                self._listen(self.accounts[name], habits[group], lines.get(group))

    def _listen(self, account: Account, habits: Habits, line: FlakyLine | None) -> None:
        name = account.username
        node = self.node if line is None else lambda: line.url
        if name.startswith("steady"):
            node = partial(self._mostly, int(name.removeprefix("steady")))
        history = self.history(account, f"{name}.gateway")
        haste = self.scale.haste
        hasty = Habits(*(habit / haste for habit in msgspec.structs.astuple(habits)))
        reader = Reader(account, history, self.http, node, hasty, self.branch(name))
        reader.name_of = self.deployment.name_of
        reader.payloads = self.payloads
        if line is not None:
            reader.silence_s = _SILENCE_S
        self.readers.append(reader)
        settled = self.guilds[:1] if name.startswith("drifter") else self.guilds[:-1]
        channels = {channel for guild in settled for channel in guild.channels}
        if account.id not in self.fickle:
            channels.update(guild.lounge for guild in self.lounges)
        self.residents[reader.name] = frozenset(channels)

    async def _guild(self, owner: Account, name: str) -> Guild:
        made = await owner.must("POST", "/guilds", {"name": name, "discoverable": True})
        channels = [made["channels"][0]["id"]]
        for number in range(2):
            body = {"guild_id": made["id"], "name": f"hall-{number}"}
            channels.append((await owner.must("POST", "/channels", body))["id"])
        return Guild(made["id"], channels)

    async def _hide(self, owner: Account, guild: Guild) -> None:
        """Give a guild a channel that not all may see, and the roles that it takes."""
        roles = f"/guilds/{guild.id}/roles"
        for name in ("insiders", "keys"):
            role = await owner.must("POST", roles, {"name": name, "permissions": "0"})
            setattr(guild, name, role["id"])
        overwrites = [
            {"id": guild.id, "type": 0, "allow": "0", "deny": str(VIEW)},
            {"id": guild.insiders, "type": 0, "allow": str(VIEW), "deny": "0"},
        ]
        body = {"guild_id": guild.id, "name": "lounge", "permission_overwrites": overwrites}
        guild.lounge = (await owner.must("POST", "/channels", body))["id"]

    async def _let_insiders_in(self, owner: Account, names: Sequence[str]) -> None:
        """Half of the writers, and of those who come back, see the lounges from the beginning."""
        insiders = [self.accounts[name].id for name in names if _is_insider(name)]
        for guild in self.lounges:
            body = {"user_ids": insiders, "add_role_ids": [guild.insiders]}
            await owner.must("POST", f"/guilds/{guild.id}/members/roles", body)
        outsiders = [name for name in names if not _is_insider(name)]
        self.fickle = [
            self.accounts[name].id for name in outsiders if not name.startswith(_UNTOUCHED)
        ]

    async def _move_in(self, name: str) -> None:
        account = await self.account(name)
        settled = self.guilds[:1] if name.startswith("drifter") else self.guilds[:-1]
        for guild in settled:
            await account.must("POST", f"/guilds/{guild.id}/join")

    def close(self) -> None:
        for history in self.histories:
            history.close()


def _is_insider(name: str) -> bool:
    """Whether somebody always sees the lounges: then what is said there can be proved to come."""
    group = name.rstrip("0123456789")
    return group in _INSIDERS or (group in _HALF and int(name.removeprefix(group)) % 2 == 0)
