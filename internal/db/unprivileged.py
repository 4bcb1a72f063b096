"""A script by itself: becomes an unprivileged account and then the program that it was told to run.

PostgreSQL refuses to run as root. This runs as a process of its own, not between fork and exec of
the server, because Python code there may deadlock on what another thread held.

    python -I -S unprivileged.py UID GID NEED... -- PROGRAM [ARGUMENT...]

A clone below a 0700 directory of root (`mktemp -d`, /root) can't be entered by that account.
Opening the directories would show their contents to everyone, so the program gets one capability
instead, and only if it can't do without: CAP_DAC_READ_SEARCH lets it enter and read, not write.
CAP_DAC_OVERRIDE is the second choice, for containers that have no other and for installations
whose files only root may execute. What it may write it owns anyway. The capability is *ambient*,
as any other would be lost when an ordinary account executes an ordinary program.
"""

import ctypes
import os
import sys

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
ALL = 0xFFFFFFFF
# Ours might hold secrets, and LD_PRELOAD or PG* variables have no business in a server.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class Refused(Exception):
    """The account can't be taken on, or couldn't run the program; says why in one sentence."""


def main(arguments: list[str]) -> None:
    uid, gid, *rest = arguments
    end = rest.index("--")
    needs, program = rest[:end], rest[end + 1 :]
    os.chdir("/")
    kept = _permitted()
    if kept & (1 << CAP_SETPCAP):
        # PostgreSQL looks for its own program with access(2), which disregards the capabilities
        # of an ordinary account otherwise.
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    _become(int(uid), int(gid))
    for capability in (0, 1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_OVERRIDE):
        if capability & kept == capability and _suffices(capability, kept, needs, program[0]):
            _hold(capability, permitted=capability)
            os.execve(program[0], program, ENVIRONMENT)  # noqa: S606  no shell is what we want
    raise Refused(
        f"the account {uid} may not run {program[0]} or not enter {' or '.join(needs)}, and no "
        "capability (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) is there to let it"
    )


def _become(uid: int, gid: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        _prctl(PR_SET_KEEPCAPS, 1)
        os.setresuid(uid, uid, uid)
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise Refused(f"root may not become account {uid} here ({error.strerror})") from error


def _suffices(capability: int, kept: int, needs: list[str], program: str) -> bool:
    """Try, rather than compute from mode bits: there are access lists and other rules too."""
    try:
        _hold(capability, permitted=kept)
        for path in needs:
            os.close(os.open(path, os.O_RDONLY))
        if not os.access(program, os.R_OK | os.X_OK):
            return False
        null = os.open(os.devnull, os.O_RDWR)
        quiet = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        pid = os.posix_spawn(program, [program, "--version"], ENVIRONMENT, file_actions=quiet)
        os.close(null)
    except OSError:
        return False
    return os.waitpid(pid, 0)[1] == 0


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _permitted() -> int:
    """Ask what we are permitted of the first 32 capabilities, both of ours among them."""
    if sys.platform != "linux":
        return 0
    sets = (_Sets * 2)()
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.capget(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), ctypes.byref(sets)))
    return int(sets[0].permitted)


def _hold(capability: int, *, permitted: int) -> None:
    """Use this capability now and hand it on to the programs that we become."""
    if sys.platform != "linux":
        return
    sets = (_Sets * 2)(_Sets(capability, permitted & ALL, capability), _Sets(0, 0, 0))
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.capset(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), ctypes.byref(sets)))
    if capability:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability.bit_length() - 1)


def _prctl(option: int, first: int, second: int = 0) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
        _checked(libc.prctl(option, *arguments))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"FATAL:  {error}")
