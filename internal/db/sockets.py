"""Private folders for Unix sockets, whose paths have to be short."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from internal.db.cluster import MAX_SOCKET_PATH, EmbeddedError, lock

_LONGEST_NAME: Final = "worker-64-12345678.sock"


@contextmanager
def socket_folder(home: Path) -> Iterator[Path]:
    """Have a folder that no other account may enter and no other process takes meanwhile.

    It is `home`, or one with a shorter path. The latter has a name that follows from `home`, so
    that what a killed process left in it is found and cleared by the next.
    """
    # Root may look after the data of an ordinary account, who gave it the folder then.
    home = folder = _private(home, is_given=os.geteuid() == 0)
    held = lock(home / "lock", home)
    try:
        if not _is_short(folder):
            folder = _shorter(home)
        _clear(folder)
        yield folder
    finally:
        _clear(folder)
        if folder != home:
            folder.rmdir()
        os.close(held)


def _shorter(home: Path) -> Path:
    mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    folder = _private(Path(tempfile.gettempdir()) / f"parley-{os.geteuid()}-{mark}")
    if not _is_short(folder):
        raise EmbeddedError(f"The path of {folder} is too long for a socket: set TMPDIR.")
    return folder


def _is_short(folder: Path) -> bool:
    return len(os.fsencode(folder / _LONGEST_NAME)) <= MAX_SOCKET_PATH


def _private(path: Path, *, is_given: bool = False) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        is_ours = is_given or found.st_uid == os.geteuid()
        if not stat.S_ISDIR(found.st_mode) or not is_ours:
            raise EmbeddedError(f"{path} is not a folder of this account: move it away.")
        if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
            path.chmod(stat.S_IRWXU)
    except OSError as error:
        raise EmbeddedError(f"{path} can't be made: {error.strerror}.") from error
    return path.resolve()


def _clear(folder: Path) -> None:
    for left_over in folder.iterdir():
        if left_over.is_socket():
            left_over.unlink(missing_ok=True)
