"""Listens on the gateway and prints every frame, one a line: a client without any cleverness."""

import asyncio
import os
import sys
from urllib.parse import quote

import aiohttp

USAGE = "usage: .venv/bin/python cmd/listen.py TOKEN [URL]"


async def listen(url: str, token: str) -> str:
    """Print what comes until the server closes the socket; why it did."""
    # The token in the URL identifies at once, and pings, which aiohttp answers, replace heartbeats.
    address = f"{url.replace('http', 'ws', 1)}/gateway?token={quote(token)}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        while (frame := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            print(frame.data, flush=True)
    return f"closed: {socket.close_code} {frame.extra or ''}"


if __name__ == "__main__":
    token, url = [*sys.argv[1:], "", ""][:2]
    if not token:
        sys.exit(USAGE)
    port = os.environ.get("PORT") or "8080"
    try:
        sys.exit(asyncio.run(listen(url or f"http://localhost:{port}", token)))
    except aiohttp.ClientError as fault:
        sys.exit(f"The server can't be reached: {fault}")
    except KeyboardInterrupt:
        sys.exit(0)
