"""What is said in a replay: lines of a real IRC channel, or a conversation made up here."""

import random
import re
from pathlib import Path
from typing import NamedTuple

# Public logs of a help channel, kept beside the checkout where somebody has put them.
LOGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "irc"

_SAID = re.compile(r"\[\d\d:\d\d\] <(?P<nick>[^>]+)> (?P<text>.*)")
_DID = re.compile(r"\[\d\d:\d\d\]  \* (?P<nick>\S+) (?P<text>.*)")
_OPENINGS = ("does anyone know how", "I still wonder why", "look at what happens when", "thanks,")
_MATTERS = ("the kernel boots twice", "my sound card hums", "apt holds its lock", "cron forgets me")


class Line(NamedTuple):
    """One thing that somebody said."""

    nick: str
    text: str


def read(path: Path) -> list[Line]:
    """Every line that somebody said in a log; joins, leaves and empty lines are passed over."""
    lines = []
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _SAID.fullmatch(raw):
            text = match["text"]
        elif match := _DID.fullmatch(raw):
            text = f"_{match['text']}_"
        else:
            continue
        if text.strip():
            lines.append(Line(match["nick"], text))
    return lines


def invent(count: int = 1200, speakers: int = 150) -> list[Line]:
    """A conversation of the same shape: few say much, many say little."""
    chance = random.Random(1)
    nicks = [f"guest{number}" for number in range(speakers)]
    weights = [1 / (rank + 1) for rank in range(speakers)]
    return [
        Line(
            chance.choices(nicks, weights)[0],
            f"{chance.choice(_OPENINGS)} {chance.choice(_MATTERS)} ({number})"
            + " and so on" * chance.randrange(20),
        )
        for number in range(count)
    ]


def load(names: list[str]) -> tuple[str, list[Line]]:
    """The named logs (or the first there is) with a title; an invented one where there is none."""
    paths = [_find(name) for name in names] or sorted(LOGS.glob("*.txt"))[:1]
    if not paths:
        return "an invented conversation", invent()
    lines = [line for path in paths for line in read(path)]
    return ", ".join(path.name for path in paths), lines


def _find(name: str) -> Path:
    for path in (Path(name), LOGS / name, LOGS / f"{name}.txt"):
        if path.is_file():
            return path
    raise SystemExit(f"There is no log {name}, neither here nor in {LOGS}.")
