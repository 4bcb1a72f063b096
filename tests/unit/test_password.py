"""Password hashes: every character counts, and only so many are made at once."""

import asyncio
from collections.abc import Iterator

import bcrypt
import pytest

from internal.errors import Unavailable
from internal.utils.password import Passwords


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(4)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("password", "close"),
    [
        ("x" * 72, "x" * 73),
        ("x" * 73, "x" * 72),
        ("x" * 71 + "é", "x" * 71 + "è"),
        ("a\0b", "a\0c"),
        ("\0", "\0\0"),
        ("", " "),
        ("x" * 1_000_000, "x" * 999_999),
    ],
)
async def test_every_character_counts(passwords: Passwords, password: str, close: str) -> None:
    known = await passwords.hash(password)
    assert await passwords.verify(password, known)
    assert not await passwords.verify(close, known)


async def test_two_hashes_of_a_password_differ(passwords: Passwords) -> None:
    assert await passwords.hash("the same") != await passwords.hash("the same")


async def test_nobody_has_no_password(passwords: Passwords) -> None:
    for password in ("", "." * 31, "anything"):
        assert not await passwords.verify(password, None)


async def test_a_hash_of_another_cost_is_outdated(passwords: Passwords) -> None:
    known = await passwords.hash("secret")
    assert not passwords.is_outdated(known)
    dearer = Passwords(5)
    assert dearer.is_outdated(known)
    assert await dearer.verify("secret", known)
    dearer.close()


@pytest.mark.parametrize("made_with", [4, 5, 6, 7])
async def test_every_refusal_takes_as_long(monkeypatch: pytest.MonkeyPatch, made_with: int) -> None:
    """Whatever the cost of the hash was, and whether there is one."""
    spent = 0

    def hashpw(password: bytes, salt: bytes) -> bytes:
        nonlocal spent
        spent += 2 ** int(salt.split(b"$")[2])
        return hash_as_before(password, salt)

    def checkpw(password: bytes, known: bytes) -> bool:
        return hashpw(password, known) == known

    hash_as_before = bcrypt.hashpw
    earlier, now = Passwords(made_with), Passwords(6)
    known = await earlier.hash("secret")
    monkeypatch.setattr(bcrypt, "hashpw", hashpw)
    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    for shown in (known, None, known):
        spent = 0
        assert not await now.verify("a guess", shown)
        assert spent == 2 ** max(6, made_with)
    spent = 0
    assert await now.verify("secret", known)
    assert spent == 2**made_with, "who is let in waits for nothing more"
    earlier.close()
    now.close()


async def test_the_queue_is_bounded() -> None:
    passwords = Passwords(4, at_once=1, most=3)
    under_way = [asyncio.create_task(passwords.hash("secret")) for _ in range(3)]
    await asyncio.sleep(0)
    assert passwords.queued() == 3
    with pytest.raises(Unavailable) as refusal:
        await passwords.hash("secret")
    assert refusal.value.retry_after == 1
    await asyncio.gather(*under_way)
    await asyncio.gather(passwords.hash("again"))
    passwords.close()


async def test_a_client_that_leaves_makes_room() -> None:
    passwords = Passwords(4, at_once=1, most=2)
    leaving = [asyncio.create_task(passwords.hash("secret")) for _ in range(2)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    for _ in range(5):  # the turns that the news of a cancelled hash takes
        await asyncio.sleep(0)
    assert await passwords.hash("next")
    passwords.close()


async def test_the_event_loop_goes_on_meanwhile() -> None:
    passwords = Passwords(10)
    hashing = asyncio.create_task(passwords.hash("secret"))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    passwords.close()


async def test_nothing_is_hashed_after_the_end() -> None:
    passwords = Passwords(4)
    passwords.close()
    with pytest.raises(RuntimeError):
        await passwords.hash("secret")
    assert passwords.queued() == 0
