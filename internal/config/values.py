"""What the text of a setting may be, and the value that it becomes."""

import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from internal.config.cores import usable_cores

Network = IPv4Network | IPv6Network

MASK = "********"
SHORTEST_KEY = 32
FEWEST_CHARACTERS = 8
MOST_WORKERS = 64

_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d)?", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15}) ?(?:([KMG])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}", re.ASCII)
_DATABASE = re.compile(r"/?|/[0-9]{1,5}", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# Words of the keys that stand in examples and tutorials; a random key never holds them.
_PLACEHOLDERS = ("change", "example", "your-", "your_", "replace", "placeholder", "password")


class ConfigError(Exception):
    """Why the server can't start with these settings, in one sentence for the operator."""


class Secret(str):
    """A string that never shows itself in a repr, so not in a log line or a traceback either."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return f"Secret('{MASK}')"


class NotAllowedError(ValueError):
    """A text that its kind refuses; `reason` is there when `allowed` alone would not explain it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(Protocol):
    """One kind of setting: how its text is read, shown, and described."""

    @property
    def allowed(self) -> str:
        """What may be given, to follow the words 'it has to be'."""

    @property
    def secret(self) -> bool: ...

    def read(self, text: str) -> object:
        """Return the value of a text, or raise NotAllowedError."""

    def show(self, value: object) -> str:
        """Write a value as it would be given, but without what is secret."""


class Plain:
    """What most kinds share: nothing is secret, and a value is shown as its str."""

    secret = False

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True)
class Whole(Plain):
    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, text: str) -> int:
        if not _WHOLE.fullmatch(text) or not self.least <= int(text) <= self.most:
            raise NotAllowedError
        return int(text)


@dataclass(frozen=True)
class Number(Plain):
    least: float
    most: float

    @property
    def allowed(self) -> str:
        return f"a number from {self.least:g} to {self.most:.15g}"

    def read(self, text: str) -> float:
        if not _NUMBER.fullmatch(text) or not self.least <= float(text) <= self.most:
            raise NotAllowedError
        return float(text)

    @override
    def show(self, value: object) -> str:
        return f"{value:.15g}" if isinstance(value, float) else str(value)


class Workers(Plain):
    """How many processes serve."""

    allowed = f"a whole number from 1 to {MOST_WORKERS}, or `auto` for one for each core"

    def read(self, text: str) -> int:
        if text == "auto":
            return min(usable_cores(), MOST_WORKERS)
        if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= MOST_WORKERS:
            raise NotAllowedError
        return int(text)


@dataclass(frozen=True)
class Size(Plain):
    """A number of bytes; `10MiB` and `10M` are the same."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a size from {self.show(self.least)} to {self.show(self.most)}, as 1048576 or 1MiB"

    def read(self, text: str) -> int:
        found = _SIZE.fullmatch(text)
        if not found:
            raise NotAllowedError
        size = int(found[1]) * _BYTES[(found[2] or "").upper()]
        if not self.least <= size <= self.most:
            raise NotAllowedError
        return size

    @override
    def show(self, value: object) -> str:
        for unit in ("G", "M", "K"):
            if isinstance(value, int) and value and value % _BYTES[unit] == 0:
                return f"{value // _BYTES[unit]}{unit}iB"
        return str(value)


@dataclass(frozen=True)
class Duration(Plain):
    """A span of time; a bare number is seconds."""

    least: timedelta
    most: timedelta

    @property
    def allowed(self) -> str:
        span = f"from {self.show(self.least)} to {self.show(self.most)}"
        return f"a time {span}, as 900, 900s, 15m or 1h"

    def read(self, text: str) -> timedelta:
        found = _DURATION.fullmatch(text)
        if not found:
            raise NotAllowedError
        seconds = float(found[1]) * _SECONDS[found[2] or "s"]
        if not self.least.total_seconds() <= seconds <= self.most.total_seconds():
            raise NotAllowedError
        return timedelta(seconds=seconds)

    @override
    def show(self, value: object) -> str:
        if not isinstance(value, timedelta):
            return str(value)
        seconds = value.total_seconds()
        for unit in ("d", "h", "m"):
            if seconds and seconds % _SECONDS[unit] == 0:
                return f"{seconds / _SECONDS[unit]:g}{unit}"
        return f"{seconds:.15g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:.15g}ms"


@dataclass(frozen=True)
class Choice(Plain):
    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.options)

    def read(self, text: str) -> str:
        if text.lower() not in self.options:
            raise NotAllowedError
        return text.lower()


class Host(Plain):
    """The name or address of a machine, without port and brackets."""

    allowed = "a host name or an address, without a port"

    def read(self, text: str) -> str:
        if not _HOST.fullmatch(text):
            raise NotAllowedError
        return text


class HostOrSocket(Host):
    """A machine, or the folder of a socket on this one."""

    allowed = "a host name, an address, or the absolute path of a socket's folder"

    @override
    def read(self, text: str) -> str:
        if text.startswith("/") and "\0" not in text:
            return text
        return super().read(text)


class Folder(Plain):
    allowed = "the path of a folder"

    def read(self, text: str) -> Path:
        if "\0" in text:
            raise NotAllowedError
        return Path(text)


class Text(Plain):
    allowed = "a text"

    def read(self, text: str) -> str:
        return text


class SecretText(Text):
    allowed = "a text"
    secret = True

    @override
    def read(self, text: str) -> Secret:
        return Secret(text)

    @override
    def show(self, value: object) -> str:
        return MASK if value else ""


class SigningKey(SecretText):
    """A key for HMAC: long enough, and not one that everybody knows."""

    allowed = f"a random text of at least {SHORTEST_KEY} bytes"

    @override
    def read(self, text: str) -> Secret:
        try:
            key = text.encode()
        except UnicodeEncodeError:
            raise NotAllowedError("it is no UTF-8") from None
        if len(key) < SHORTEST_KEY:
            raise NotAllowedError(f"it is shorter than {SHORTEST_KEY} bytes")
        lowered = text.lower()
        if len(set(text)) < FEWEST_CHARACTERS or any(word in lowered for word in _PLACEHOLDERS):
            raise NotAllowedError("it is an example that anybody could guess")
        return Secret(text)


class SigningKeys(Plain):
    allowed = f"a comma-separated list of keys of at least {SHORTEST_KEY} bytes each"
    secret = True

    def read(self, text: str) -> tuple[Secret, ...]:
        return tuple(SigningKey().read(key) for key in split_list(text))

    @override
    def show(self, value: object) -> str:
        return MASK if value else ""


@dataclass(frozen=True)
class ServerUrl:
    """Where a database is. It may hold a password, so it is shown without."""

    schemes: tuple[str, ...]
    secret = True

    @property
    def allowed(self) -> str:
        return "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in self.schemes)

    def read(self, text: str) -> Secret:
        try:
            url = urlsplit(text)
        except ValueError as error:
            raise NotAllowedError from error
        if url.scheme not in self.schemes or not text.startswith(f"{url.scheme}://"):
            raise NotAllowedError
        if any(mark.isspace() or not mark.isprintable() for mark in text):
            raise NotAllowedError("it holds a space or a control character")
        if url.fragment or "@" in url.path + url.query:
            # What follows would be taken for a path, and shown where secrets are masked.
            raise NotAllowedError("/, #, ? and @ in a password have to be percent-encoded")
        return Secret(text)

    def show(self, value: object) -> str:
        url = urlsplit(str(value))
        if any("pass" in key.lower() for key in parse_qs(url.query)):
            return MASK
        user, at, place = url.netloc.rpartition("@")
        if ":" in user:
            user = f"{user.partition(':')[0]}:{MASK}"
        return url._replace(netloc=f"{user}{at}{place}").geturl() if value else ""


class RedisUrl(ServerUrl):
    """Where Redis is: on one host, or on several of which any may be asked."""

    @property
    @override
    def allowed(self) -> str:
        return f"{super().allowed}, with several hosts as redis://one:6379,two:6379"

    @override
    def read(self, text: str) -> Secret:
        url = super().read(text)
        parts = urlsplit(url)
        if parts.scheme == "unix":
            if parts.netloc or len(parts.path) < len("/x"):
                raise NotAllowedError(
                    "a socket is named by its absolute path, as unix:///run/r.sock"
                )
            return url
        for host in hosts_in(url):
            if not _is_place(host):
                raise NotAllowedError("each host is a name or an address, and may have a port")
        if not _DATABASE.fullmatch(parts.path):
            raise NotAllowedError("what follows the hosts is the number of a database")
        return url


def hosts_in(url: str) -> list[str]:
    """The hosts of a URL, each with its port where it names one."""
    return urlsplit(url).netloc.rpartition("@")[2].split(",")


def _is_place(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        return bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        return False


def origin_of(url: str) -> str:
    """The origin of a URL as browsers send it: in lower case, without the usual port."""
    parts = urlsplit(url.lower())
    usual = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    netloc = parts.netloc.removesuffix(usual) if usual else parts.netloc
    return f"{parts.scheme}://{netloc}"


class WebUrl(Plain):
    """The address of this server as its users see it."""

    allowed = "a URL that begins with http:// or https://, without a query"

    def read(self, text: str) -> str:
        if not _is_web_url(text):
            raise NotAllowedError
        return text.rstrip("/")


class Origins(Plain):
    allowed = "a comma-separated list of origins, each as https://chat.example.org"

    def read(self, text: str) -> tuple[str, ...]:
        origins = tuple(origin.rstrip("/") for origin in split_list(text))
        for origin in origins:
            if origin == "*":
                raise NotAllowedError("every origin is to be named, * stands for anybody")
            if not _is_web_url(origin) or urlsplit(origin).path:
                raise NotAllowedError
        return tuple(origin_of(origin) for origin in origins)

    @override
    def show(self, value: object) -> str:
        return show_list(value)


class Networks(Plain):
    allowed = "a comma-separated list of addresses or networks, as 10.0.0.7 or 10.0.0.0/24"

    def read(self, text: str) -> tuple[Network, ...]:
        try:
            return tuple(ip_network(network) for network in split_list(text))
        except ValueError as error:
            raise NotAllowedError from error

    @override
    def show(self, value: object) -> str:
        return show_list(value)


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def show_list(value: object) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _is_web_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        port_is_possible = url.port != 0
    except ValueError:
        return False
    clean = not any(mark.isspace() or not mark.isprintable() for mark in text)
    return (
        clean
        and port_is_possible
        and url.scheme in {"http", "https"}
        and bool(url.hostname)
        and not (url.query or url.fragment or "@" in url.netloc)
    )
