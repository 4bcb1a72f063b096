"""Log lines: their shape, what is masked, and that nobody forges one."""

import asyncio
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import asyncpg
import msgspec
import pytest
import structlog

from internal.config.values import Secret
from internal.monitoring.logger import LineWriter, configure, escape

Lines = Callable[[], list[str]]
Start = Callable[..., Lines]


class Note(msgspec.Struct):
    content: str
    author_id: int


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure the log to a pipe; the value returns the lines so far."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    reader, fd = os.pipe()
    os.set_blocking(reader, False)
    writers: list[LineWriter] = []

    def begin(
        line_format: Literal["console", "json"] = "json",
        level: Literal["debug", "info", "warning", "error"] = "info",
    ) -> Lines:
        writers.append(configure(level, line_format, fd=fd))

        def lines() -> list[str]:
            writers[-1].flush()
            try:
                return os.read(reader, 1 << 16).decode().splitlines()
            except BlockingIOError:
                return []

        return lines

    yield begin

    for writer in writers:
        writer.close()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)
    root.handlers[:] = before
    root.setLevel(level)
    os.close(reader)
    os.close(fd)


def decode(line: str) -> dict[str, Any]:
    return msgspec.json.decode(line, type=dict[str, Any])


def test_a_json_line(start: Start) -> None:
    lines = start()

    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().info("request", route="/guilds/{guild_id}", status=200)

    (line,) = lines()
    entry = decode(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "level": "info",
        "event": "request",
        "request_id": "r1",
        "route": "/guilds/{guild_id}",
        "status": 200,
    }


def test_a_console_line(start: Start) -> None:
    lines = start("console")

    structlog.get_logger().warning(
        "slow reader", sockets=3, why="it does not read", took=0.12345678
    )

    (line,) = lines()
    assert line[12:] == ' warning slow reader sockets=3 why="it does not read" took=0.123457'


def test_less_than_the_level_is_not_logged(start: Start) -> None:
    lines = start(level="warning")

    structlog.get_logger().info("quiet")
    logging.getLogger("aiohttp.server").info("quiet")

    assert lines() == []


@pytest.mark.parametrize("line_format", ["console", "json"])
def test_values_forge_no_line_and_move_no_cursor(
    start: Start, line_format: Literal["console", "json"]
) -> None:
    lines = start(line_format)
    evil = "a\r\n2026-01-01 error forged\x1b[2J\x9b1A\u2028\u202eb"

    structlog.get_logger().info(evil, name=evil, **{evil: 1}, deep={"list": [evil]})
    try:
        raise ValueError(evil)
    except ValueError:
        structlog.get_logger().exception("failed")
    logging.getLogger("library").warning("says %s", evil)

    text = "\n".join(lines())
    assert "\x1b" not in text
    assert not any(line.startswith("2026-01-01 error forged") for line in text.splitlines())
    assert not any(line.lstrip().startswith("2026-01-01") for line in text.split("\n"))


def test_escape_keeps_what_people_write() -> None:
    assert escape("Grüße, 你好 👋") == "Grüße, 你好 👋"
    assert escape("\ud800\n") == r"\ud800\n"


@pytest.mark.parametrize("line_format", ["console", "json"])
def test_no_secret_is_logged(start: Start, line_format: Literal["console", "json"]) -> None:
    lines = start(line_format, "debug")
    log = structlog.get_logger()

    log.info("by name", password="canary", refresh_token="canary", Authorization="canary")
    log.info(
        "within", headers={"Cookie": "canary"}, rows=[{"email": "canary", "content": "canary"}]
    )
    log.info("by kind", anything=Secret("canary"), several=(Secret("canary"),))
    log.info("struct", note=Note(content="canary", author_id=7))
    log.info("GET /gateway?v=10&token=canary&x=1 Bearer canary postgresql://ada:canary@db/parley")
    logging.getLogger("library").error("url %s", "http://h/gateway?access_token=canary")
    try:
        raise asyncpg.DataError(
            "invalid input for query argument $1: 'canary it\\'s' (expected int)"
        )
    except asyncpg.DataError:
        log.exception("insert")

    text = "\n".join(lines())
    assert "canary" not in text
    assert text.count("********") >= 9
    assert "asyncpg.exceptions.DataError: invalid input for query argument" in text


def test_an_exception_brings_its_frames_causes_and_members(start: Start) -> None:
    lines = start()

    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("both", [ValueError("inner")]) from error
    except ExceptionGroup as group:
        structlog.get_logger().error("failed", exc_info=group)

    trace = decode(lines()[0])["exception"]
    assert "test_logger.py" in trace
    assert "builtins.ExceptionGroup: both" in trace
    assert "builtins.ValueError: inner" in trace
    assert "builtins.KeyError: 'first'" in trace


def test_what_libraries_log_has_the_same_shape(start: Start) -> None:
    lines = start()

    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("Error handling %s", "request")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)

    error, warning = (decode(line) for line in lines())
    assert error["event"] == "Error handling request"
    assert (error["logger"], error["level"]) == ("aiohttp.server", "error")
    assert error["exception"].endswith("RuntimeError: broken")
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")


def test_odd_values_still_make_a_line(start: Start) -> None:
    lines = start()
    knot: dict[str, Any] = {}
    knot["self"] = knot

    structlog.get_logger().info(
        "odd", half="\ud800", knot=knot, thing=object(), big=2**80, raw=b"x"
    )

    assert decode(lines()[0])["event"] == "odd"


async def test_lines_of_one_turn_of_the_loop_leave_together() -> None:
    reader, fd = os.pipe()
    os.set_blocking(reader, False)
    writer = LineWriter(fd)

    writer.write(b"one\n")
    writer.write(b"two\n")
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()
    assert os.read(reader, 100) == b"one\ntwo\n"

    writer.write(b"waits\n")
    thread = threading.Thread(target=writer.write, args=(b"thread\n",))
    thread.start()
    thread.join()
    assert os.read(reader, 100) == b"waits\nthread\n"
    writer.write(b"error\n", at_once=True)
    assert os.read(reader, 100) == b"error\n"
    os.close(reader)
    os.close(fd)


def test_a_reader_that_left_stops_nothing() -> None:
    reader, fd = os.pipe()
    os.close(reader)
    writer = LineWriter(fd)

    writer.write(b"nobody reads this\n")
    os.close(fd)
    writer.close()
    writer.write(b"nor this\n")


def test_a_full_pipe_loses_lines_and_not_the_server() -> None:
    reader, fd = os.pipe()
    os.set_blocking(fd, False)
    writer = LineWriter(fd)

    writer.write(b"x" * (1 << 20))

    assert os.read(reader, 10) == b"x" * 10
    os.close(reader)
    os.close(fd)
