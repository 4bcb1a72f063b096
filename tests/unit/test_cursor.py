"""Signed cursors."""

import pytest

from internal.chat.ws.cursor import Cursor, CursorSigner

CURSOR = Cursor(user_id=1, login_id=2, epoch=3, key=4, expires_at=1000, suppressed=[5, 6])
OLD, NEW = b"o" * 32, b"n" * 32


def test_a_cursor_comes_back_as_it_was_made() -> None:
    signer = CursorSigner([NEW])
    assert signer.read(signer.sign(CURSOR), now=999) == CURSOR


def test_a_cursor_ends() -> None:
    signer = CursorSigner([NEW])
    assert signer.read(signer.sign(CURSOR), now=1000) is None


def test_a_cursor_of_an_earlier_key_is_read_and_that_of_a_removed_one_is_not() -> None:
    made = CursorSigner([OLD]).sign(CURSOR)
    assert CursorSigner([NEW, OLD]).read(made, now=0) == CURSOR
    assert CursorSigner([NEW]).read(made, now=0) is None


@pytest.mark.parametrize("text", ["", "=", "a", "ä", "\ud800", "AAAA" * 30, "!" * 40])
def test_a_forged_cursor_is_none(text: str) -> None:
    assert CursorSigner([NEW]).read(text, now=0) is None


def test_no_byte_of_a_cursor_can_be_changed() -> None:
    signer = CursorSigner([NEW])
    made = signer.sign(CURSOR)
    for at, letter in enumerate(made[:-1]):
        other = made[:at] + ("A" if letter != "A" else "B") + made[at + 1 :]
        assert signer.read(other, now=0) is None
