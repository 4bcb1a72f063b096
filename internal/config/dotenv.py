"""Read a .env file: KEY=value lines, strictly, so that a slip is found at the start."""

import re

from internal.config.values import ConfigError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.ASCII | re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?", re.DOTALL)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?', re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s+)#.*", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def parse(text: str) -> dict[str, str]:
    """Return what the file sets, in its order.

    Nothing of a value stands in an error: it may be a password.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        if not found:
            raise ConfigError(f"Line {number} of .env can't be read: write KEY=value.")
        name = found[1]
        if name in values:
            raise ConfigError(f"Line {number} of .env sets {name} a second time.")
        values[name] = _value(found[2], name=name, number=number)
    return values


def _value(text: str, *, name: str, number: int) -> str:
    if text.startswith("'"):
        quoted = _SINGLE.fullmatch(text)
        if quoted:
            return quoted[1]
    elif text.startswith('"'):
        quoted = _DOUBLE.fullmatch(text)
        if quoted:
            return _unescape(quoted[1], name=name, number=number)
    else:
        return _COMMENT.sub("", text)
    raise ConfigError(
        f"Line {number} of .env can't be read: the value of {name} begins with a quote that does"
        " not end, or more stands behind it."
    )


def _unescape(text: str, *, name: str, number: int) -> str:
    def mark(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise ConfigError(
                f"Line {number} of .env can't be read: in the double quotes of {name} a backslash"
                ' stands only before \\ " $ n r t.'
            )
        return _ESCAPES[found[1]]

    return _ESCAPE.sub(mark, text)
