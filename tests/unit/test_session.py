"""The gateway's state machine, without a socket."""

from collections.abc import Callable

import pytest

from internal.chat.ws.events import HEARTBEAT_ACK, CloseReason
from internal.chat.ws.session import (
    Action,
    Close,
    Identify,
    Reply,
    Resume,
    Send,
    Session,
    Show,
    State,
)
from internal.presence.model import PresenceUpdate


def greeted() -> Session:
    return Session(interval_s=40, identify_s=10, now=100)


def opening() -> Session:
    session = greeted()
    session.receive(b'{"op":2,"d":{"token":"t"}}', 100)
    return session


def opened() -> Session:
    session = greeted()
    session.receive(b'{"op":2,"d":{"token":"t"}}', 100)
    session.opened(101)
    return session


def test_hello_tells_the_interval_in_milliseconds() -> None:
    assert b'"heartbeat_interval":40000' in greeted().hello()


@pytest.mark.parametrize("state", [greeted, opened])
def test_a_heartbeat_is_answered_before_and_after_identify(
    state: Callable[[], Session],
) -> None:
    assert state().receive(b'{"op":1,"d":null}', 102) == Reply(HEARTBEAT_ACK)


def test_identify_asks_who_it_is_and_gives_time_for_it() -> None:
    session = greeted()
    action = session.receive(b'{"op":2,"d":{"token":"t","properties":{"os":1},"x":[]}}', 100)
    assert action == Identify("t")
    assert session.state is State.OPENING
    assert session.deadline > 110


@pytest.mark.parametrize(("seq", "wanted"), [("7", 7), ("null", 0), ("0", 0), (str(2**63), 2**63)])
def test_resume_names_the_session_and_the_position(seq: str, wanted: int) -> None:
    body = f'{{"op":6,"d":{{"token":"t","session_id":"s","seq":{seq}}}}}'
    assert greeted().receive(body.encode(), 100) == Resume("t", "s", wanted)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", CloseReason.DECODE_ERROR),
        (b"\xff\xfe", CloseReason.DECODE_ERROR),
        (b"[" * 100_000, CloseReason.DECODE_ERROR),
        (b'{"op":1,"d":' + b"[" * 100_000, CloseReason.DECODE_ERROR),
        (b'{"op":NaN}', CloseReason.DECODE_ERROR),
        (b'{"op":"2"}', CloseReason.DECODE_ERROR),
        (b'{"op":1.5}', CloseReason.DECODE_ERROR),
        (b'{"d":1}', CloseReason.DECODE_ERROR),
        (b"[]", CloseReason.DECODE_ERROR),
        (b'{"op":2,"d":{"token":5}}', CloseReason.DECODE_ERROR),
        (b'{"op":2,"d":null}', CloseReason.DECODE_ERROR),
        (b'{"op":2}', CloseReason.DECODE_ERROR),
        (b'{"op":2,"d":{"token":"\\ud800"}}', CloseReason.DECODE_ERROR),
        (b'{"op":6,"d":{"token":"t","session_id":"s","seq":"1"}}', CloseReason.DECODE_ERROR),
        (b'{"op":6,"d":{"token":"t","session_id":"s","seq":1.5}}', CloseReason.DECODE_ERROR),
        (b'{"op":6,"d":{"token":"t","session_id":"s","seq":-1}}', CloseReason.INVALID_SEQ),
        (b'{"op":99}', CloseReason.UNKNOWN_OPCODE),
        (b'{"op":-1}', CloseReason.UNKNOWN_OPCODE),
        (b'{"op":100,"d":{}}', CloseReason.NOT_AUTHENTICATED),
    ],
)
def test_what_a_stranger_must_not_say(raw: bytes, reason: CloseReason) -> None:
    assert greeted().receive(raw, 100) == Close(reason)


def test_a_second_identify_ends_it() -> None:
    assert opened().receive(b'{"op":2,"d":{"token":"t"}}', 102) == Close(
        CloseReason.ALREADY_AUTHENTICATED
    )


def test_a_send_hands_its_body_on_as_it_is() -> None:
    assert opened().receive(b'{"op":100,"d":{"content":"\\u00e4"}}', 102) == Send(
        b'{"content":"\\u00e4"}'
    )


def test_the_121st_message_at_once_is_too_many_and_time_makes_room() -> None:
    session = greeted()

    def beat(now: float) -> Action | None:
        return session.receive(b'{"op":1}', now)

    for _ in range(120):
        assert beat(100) == Reply(HEARTBEAT_ACK)
    assert beat(100.4) == Close(CloseReason.RATE_LIMITED)
    assert beat(101) == Reply(HEARTBEAT_ACK)


@pytest.mark.parametrize("state", [opened, opening])
def test_a_presence_may_be_shown_once_it_is_asked_who_it_is(
    state: Callable[[], Session],
) -> None:
    action = state().receive(b'{"op":3,"d":{"status":"dnd","activities":null,"x":1}}', 102)
    assert action == Show(PresenceUpdate(status="dnd"))


def test_identify_tells_the_presence_and_the_kind_of_device() -> None:
    raw = b'{"op":2,"d":{"token":"t","presence":{"status":"idle"},"properties":{"browser":"iOS"}}}'
    assert greeted().receive(raw, 100) == Identify("t", PresenceUpdate(status="idle"), "mobile")


def test_presences_count_as_any_message_does() -> None:
    session = opened()
    for _ in range(120):
        assert isinstance(session.receive(b'{"op":3,"d":{}}', 101), Show)
    assert session.receive(b'{"op":3,"d":{}}', 101) == Close(CloseReason.RATE_LIMITED)


def test_heartbeats_put_off_the_deadline_and_nothing_else_does() -> None:
    session = opened()
    session.receive(b'{"op":1,"d":5}', 200)
    assert session.deadline == 280
    session.receive(b'{"op":100,"d":{}}', 250)
    assert session.deadline == 280


def test_a_refused_resume_may_identify_on_the_same_socket() -> None:
    session = greeted()
    session.receive(b'{"op":6,"d":{"token":"t","session_id":"s","seq":5}}', 100)
    session.reopened(105, 10)
    assert session.deadline == 115
    assert session.receive(b'{"op":2,"d":{"token":"t"}}', 106) == Identify("t")


def test_a_closed_session_hears_and_becomes_nothing() -> None:
    session = greeted()
    session.state = State.CLOSED
    assert session.receive(b'{"op":1}', 100) is None
    session.opened(100)
    session.reopened(100, 10)
    assert session.state is State.CLOSED
