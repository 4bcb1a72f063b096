"""WebSocket frames, against the `websockets` library and against what no client may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from internal.chat.ws import wire
from internal.chat.ws.wire import FrameReader, WireFault


def client_frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin=fin).serialize(mask=True)


@given(st.binary(max_size=70_000), st.lists(st.integers(1, 5000), max_size=20))
def test_a_message_arrives_whole_however_the_network_cuts_it(
    payload: bytes, cuts: list[int]
) -> None:
    reader = FrameReader(1 << 20)
    stream = client_frame(wire.BINARY, payload) + client_frame(wire.PING, b"x")
    arrived: list[wire.Frame] = []
    for cut in cuts:
        arrived += reader.feed(stream[:cut])
        stream = stream[cut:]
    arrived += reader.feed(stream)
    assert arrived == [(wire.BINARY, payload), (wire.PING, b"x")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_our_frames_are_read_by_others(size: int) -> None:
    data = wire.encode(wire.TEXT, b"a" * size)
    assert data == Frame(Opcode.TEXT, b"a" * size).serialize(mask=False)


def test_a_close_says_code_and_reason_within_its_bound() -> None:
    frame = wire.encode_close(4000, "ä" * 200)
    assert len(frame) <= 127
    assert frame[2:4] == (4000).to_bytes(2, "big")
    assert frame[4:].decode() == "ä" * 61


def test_a_message_in_pieces_is_joined_around_control_frames() -> None:
    reader = FrameReader(100)
    arrived = reader.feed(
        client_frame(wire.TEXT, b"ab", fin=False)
        + client_frame(wire.PING, b"!")
        + client_frame(wire.CONTINUATION, b"cd", fin=False)
        + client_frame(wire.CONTINUATION, b"ef")
        + client_frame(wire.TEXT, b"next")
    )
    assert arrived == [(wire.PING, b"!"), (wire.TEXT, b"abcdef"), (wire.TEXT, b"next")]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (Frame(Opcode.TEXT, b"x").serialize(mask=False), wire.PROTOCOL_ERROR),
        (bytes((0xC1, 0x80)) + b"\0\0\0\0", wire.PROTOCOL_ERROR),
        (bytes((0x83, 0x80)) + b"\0\0\0\0", wire.PROTOCOL_ERROR),
        (bytes((0x8B, 0x80)) + b"\0\0\0\0", wire.PROTOCOL_ERROR),
        (client_frame(wire.CONTINUATION, b"x"), wire.PROTOCOL_ERROR),
        (client_frame(wire.TEXT, b"x", fin=False) + client_frame(wire.TEXT, b"x"), 1002),
        (bytes((0x09, 0x80)) + b"\0\0\0\0", wire.PROTOCOL_ERROR),
        (bytes((0x89, 0xFE)) + (126).to_bytes(2, "big"), wire.PROTOCOL_ERROR),
        (client_frame(wire.TEXT, b"x" * 101), wire.TOO_BIG),
        # Refused by the claim alone: not one byte of it has come.
        (bytes((0x81, 0xFF)) + (2**63 - 1).to_bytes(8, "big"), wire.TOO_BIG),
        (client_frame(wire.TEXT, b"x" * 60, fin=False) * 1 + client_frame(0, b"x" * 60), 1009),
        (client_frame(wire.TEXT, b"", fin=False) + client_frame(0, b"", fin=False) * 64, 1009),
    ],
    ids=range(12),  # the masks are random, and workers compare names
)
def test_what_no_client_may_send_is_refused(stream: bytes, code: int) -> None:
    with pytest.raises(WireFault) as refusal:
        FrameReader(100).feed(stream)
    assert refusal.value.code == code
