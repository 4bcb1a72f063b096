"""The README's first conversation works when it is pasted."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tests.support.process import ROOT, ServerProcess

WITHIN_S = 20.0
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Terminal:
    """A shell in the project's folder, into which one pastes."""

    def __init__(self, shell: asyncio.subprocess.Process) -> None:
        assert shell.stdin is not None
        assert shell.stdout is not None
        self.lines: list[str] = []
        self._stdin, self._stdout = shell.stdin, shell.stdout

    async def paste(self, text: str) -> None:
        self._stdin.write(text.encode())
        await self._stdin.drain()

    async def shows(self, text: str) -> str:
        """Read on until a line has this text; the line."""
        async with asyncio.timeout(WITHIN_S):
            while raw := await self._stdout.readline():
                line = raw.decode()
                self.lines.append(line)
                if text in line:
                    return line
        raise AssertionError("the shell ended:\n" + "".join(self.lines))


@asynccontextmanager
async def open_terminal() -> AsyncIterator[Terminal]:
    shell = await asyncio.create_subprocess_exec(
        "sh",
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        limit=1 << 20,
    )
    try:
        yield Terminal(shell)
    finally:
        # Its input ends, and so does it; a listener that was left would hold its output open.
        await shell.communicate(b"kill $! 2>/dev/null\n")


def conversation(url: str) -> list[str]:
    """The blocks to paste, spoken to the server and the Python of the test."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, section = readme.partition("## A first conversation")
    blocks = _BLOCK.findall(section.partition("\n## ")[0])
    return [
        block.replace("http://localhost:8080", url).replace(".venv/bin/python", sys.executable)
        for block in blocks
    ]


async def test_the_first_conversation_works_when_pasted(server: ServerProcess) -> None:
    words, people, listening, saying, ending = conversation(server.url)
    async with open_terminal() as terminal:
        await terminal.paste(words + people)
        await terminal.shows("Tea at four")
        await terminal.paste(listening)
        await terminal.shows('"t":"GUILD_CREATE"')
        await terminal.paste(saying)
        heard = await terminal.shows('"t":"MESSAGE_CREATE"')
        await terminal.paste(ending)
    message = msgspec.json.decode(heard)["d"]
    assert message["content"] == "Hello Bob, this is Ada."
    assert message["author"]["username"] == "ada"
