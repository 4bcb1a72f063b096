"""The proxies of deploy/ as processes, with the configurations that are shipped."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.process import ROOT, free_port

HAPROXY_CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
NGINX_TEMPLATE = ROOT / "deploy" / "nginx" / "nginx.conf.template"
START_S = 20.0
# So many nodes stand in the configurations. The ports of those that a test has not are closed.
NODES = 3

# Changes the text of a configuration where its variables do not reach.
Edit = Callable[[str], str]


class DidNotStart(Exception):
    """The proxy ended, or took too long, before it served. Its last lines tell why."""


class Proxy:
    """HAProxy or nginx in front of nodes."""

    def __init__(self, process: asyncio.subprocess.Process, https: int, http: int) -> None:
        self.url = f"https://127.0.0.1:{https}"
        self.plain_url = f"http://127.0.0.1:{http}"
        self.port = https
        self.lines: list[str] = []
        self._process = process
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    async def says(self, text: str, *, since: int = 0, within: float = START_S) -> int:
        """Wait until it has printed a line with this text, not before `since`; its number."""
        async with asyncio.timeout(within):
            while True:
                self._news.clear()
                for number in range(since, len(self.lines)):
                    if text in self.lines[number]:
                        return number
                if self._reader.done():
                    raise DidNotStart(self.output)
                await self._news.wait()

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(START_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
            self._news.set()
        self._news.set()


def certificate(folder: Path) -> Path:
    """A certificate for this machine and its key, in one file; signed by nobody but itself."""
    key, found = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(found)),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_bytes(found.read_bytes() + key.read_bytes())
    return both


def settings(
    folder: Path, certificate: Path, nodes: Sequence[str], ports: Sequence[int], **more: str
) -> dict[str, str]:
    """What the configurations take from the environment."""
    addresses = [*nodes, *(f"127.0.0.1:{free_port()}" for _ in range(NODES - len(nodes)))]
    return {
        "PROXY_HTTPS": f"127.0.0.1:{ports[0]}",
        "PROXY_HTTP": f"127.0.0.1:{ports[1]}",
        "PROXY_CERTIFICATE": str(certificate),
        "PROXY_TIMEOUT": "60s",
        "PROXY_TUNNEL_TIMEOUT": "3m",
        "PROXY_MAX_CONNECTIONS": "2000",
        "PROXY_CONNECTIONS_PER_ADDRESS": "1000",
        # A pipe here, which can be opened by this name.
        "PROXY_ACCESS_LOG": "/dev/stdout",
        "PROXY_ADMIN_SOCKET": str(folder / "admin.sock"),
        **{f"PROXY_NODE_{number}": node for number, node in enumerate(addresses, start=1)},
        **more,
    }


def rendered(environ: Mapping[str, str]) -> str:
    """nginx.conf as `envsubst` makes it of the template, given the names to replace."""
    template = NGINX_TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\$\{(PROXY_\w+)\}", lambda name: environ[name[1]], template)


def unchanged(text: str) -> str:
    return text


def command(
    kind: str, folder: Path, environ: Mapping[str, str], *, check: bool, edit: Edit = unchanged
) -> list[str]:
    """How the program is started, or asked about its configuration."""
    program = shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program is not None
    if kind == "haproxy":
        config = folder / "haproxy.cfg"
        config.write_text(edit(HAPROXY_CONFIG.read_text(encoding="utf-8")), encoding="utf-8")
        return [program, *(["-c"] if check else ["-W", "-db"]), "-f", str(config)]
    config = folder / "nginx.conf"
    config.write_text(edit(rendered(environ)), encoding="utf-8")
    main = f"pid {folder / 'nginx.pid'};" + ("" if check else " daemon off;")
    return [program, *(["-t"] if check else []), "-c", str(config), "-g", main]


@asynccontextmanager
async def open_proxy(
    kind: str, folder: Path, environ: Mapping[str, str], *, edit: Edit = unchanged
) -> AsyncIterator[Proxy]:
    """A proxy that serves."""
    https, http = (int(environ[name].rpartition(":")[2]) for name in ("PROXY_HTTPS", "PROXY_HTTP"))
    process = await asyncio.create_subprocess_exec(
        *command(kind, folder, environ, check=False, edit=edit),
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        limit=1 << 20,
    )
    proxy = Proxy(process, https, http)
    try:
        await proxy.says("Loading success" if kind == "haproxy" else "start worker processes")
        yield proxy
    finally:
        await proxy.stop()
