"""Settings: what is read, what is refused and with which words, and the key that is made."""

import multiprocessing
import os
from datetime import timedelta
from ipaddress import ip_network
from multiprocessing.synchronize import Barrier
from pathlib import Path

import msgspec
import pytest

from internal.config.config import (
    Config,
    ConfigError,
    Secret,
    bound_to,
    ensure_secret,
    environ_of,
    load,
    read_dotenv,
)
from internal.config.cores import usable_cores
from internal.config.docs import describe
from internal.config.dotenv import parse

KEY = "Zk3v9QpLr7TtWx2BnMs8HdYcUfAe5GjK"
OTHER_KEY = "q8Rn2VbXw6LmTz4KdYs7PcHfJg3EuAa9"
DATABASE = "postgresql://ada:lovelace@db/parley"


def refusal(environ: dict[str, str], dotenv: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ, dotenv)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_nothing_given_is_a_server_for_this_machine() -> None:
    config = load({})

    assert (config.host, config.port) == ("127.0.0.1", 8080)
    assert config.public_url == "http://localhost:8080"
    assert config.is_embedded
    assert config.upload_dir == Path("var/uploads")
    assert config.metrics_host == "127.0.0.1"
    assert config.jwt_expires_in == timedelta(minutes=15)
    assert config.heartbeat_interval == timedelta(seconds=41.25)


def test_everything_given() -> None:
    config = load(
        {
            "HOST": "::",
            "PORT": "0",
            "PUBLIC_URL": "https://chat.example.org/",
            "WORKERS": "2",
            "DRAIN_DELAY": "5",
            "DATA_DIR": "/srv/parley",
            "DATABASE_URL": DATABASE,
            "REDIS_URL": "redis://cache:6379/1",
            "JWT_SECRET": KEY,
            "JWT_PREVIOUS_SECRETS": f"{OTHER_KEY}, {KEY}",
            "MAX_FILE_SIZE": "10 MiB",
            "CORS_ORIGINS": "https://a.example.org, http://localhost:3000/",
            "TRUSTED_PROXIES": "10.0.0.7,10.1.0.0/16,fd00::/8",
            "LOG_LEVEL": "WARNING",
            "LOG_FORMAT": "json",
            "RATE_LIMIT_SCALE": "2.5",
            "REGISTRATION": "invite",
            "PATH": "/usr/bin",
        }
    )

    assert config.port == 0
    assert config.public_url == "https://chat.example.org"
    assert config.workers == 2
    assert config.drain_delay == timedelta(seconds=5)
    assert config.upload_dir == Path("/srv/parley/uploads")
    assert config.database_url == DATABASE
    assert config.jwt_previous_secrets == (OTHER_KEY, KEY)
    assert config.max_file_size == 10 * 1024 * 1024
    assert config.cors_origins == ("https://a.example.org", "http://localhost:3000")
    assert ip_network("10.1.0.0/16") in config.trusted_proxies
    assert (config.log_level, config.log_format) == ("warning", "json")
    assert config.rate_limit_scale == 2.5
    assert config.registration == "invite"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("900", timedelta(minutes=15)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("1.5 h", timedelta(minutes=90)),
        ("1d", timedelta(days=1)),
        ("2000ms", timedelta(seconds=2)),
    ],
)
def test_a_time_may_have_a_unit(text: str, span: timedelta) -> None:
    assert load({"JWT_EXPIRES_IN": text}).jwt_expires_in == span


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "-1", "a whole number"),
        ("PORT", "8_080", "a whole number"),
        ("PORT", "٨٠٨٠", "a whole number"),
        ("HOST", "http://localhost", "without a port"),
        ("PUBLIC_URL", "chat.example.org", "begins with http://"),
        ("PUBLIC_URL", "https://chat.example.org/?a=b", "without a query"),
        ("PUBLIC_URL", "https://chat.example.org:99999", "begins with http://"),
        ("PUBLIC_URL", "https://[::1", "begins with http://"),
        ("WORKERS", "0", "a whole number from 1 to 64, or `auto`"),
        ("WORKERS", "65", "a whole number from 1 to 64"),
        ("WORKERS", "many", "a whole number from 1 to 64"),
        ("DRAIN_DELAY", "11m", "a time from 0s to 10m"),
        ("DATA_DIR", "a\0b", "the path of a folder"),
        ("DATABASE_URL", "mysql://db/parley", "postgresql://"),
        ("DATABASE_URL", "postgresql:parley", "postgresql://"),
        ("DATABASE_URL", "postgresql://db/par ley", "a space"),
        ("DATABASE_URL", "postgresql://[db/parley", "postgresql://"),
        ("DB_HOST", "a b", "a host name"),
        ("REDIS_URL", "http://cache", "redis://"),
        ("REDIS_URL", "redis://", "each host is a name or an address"),
        ("REDIS_URL", "redis://one,,two", "each host is a name or an address"),
        ("REDIS_URL", "redis://one:six", "each host is a name or an address"),
        ("REDIS_URL", "redis://one:70000,two", "each host is a name or an address"),
        ("REDIS_URL", "redis://one/zero", "the number of a database"),
        ("REDIS_URL", "unix://run/redis.sock", "its absolute path"),
        ("REDIS_URL", "unix://", "its absolute path"),
        ("REDIS_MODE", "cloud", "one of single, cluster, sentinel"),
        ("JWT_EXPIRES_IN", "2d", "a time from 1s to 1d"),
        ("JWT_EXPIRES_IN", "soon", "a time"),
        ("JWT_EXPIRES_IN", "nan", "a time"),
        ("MAX_FILE_SIZE", "1 TB", "a size"),
        ("MAX_FILE_SIZE", "1", "a size from 1KiB to 4GiB"),
        ("BCRYPT_COST", "17", "from 4 to 16"),
        ("BCRYPT_COST", "3", "from 4 to 16"),
        ("RATE_LIMIT_SCALE", "0", "a number from 0.01"),
        ("RATE_LIMIT_SCALE", "inf", "a number"),
        ("RATE_LIMIT_SCALE", "NaN", "a number"),
        ("REGISTRATION", "on", "one of open, invite, closed"),
        ("LOG_LEVEL", "loud", "one of debug"),
        ("CORS_ORIGINS", "*", "every origin is to be named"),
        ("CORS_ORIGINS", "https://a.example.org/path", "a comma-separated list of origins"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "addresses or networks"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    sentence = refusal({name: text})

    assert sentence.startswith(f"{name}=")
    assert allowed in sentence


def test_a_refused_secret_is_not_repeated() -> None:
    for name in ("JWT_SECRET", "DATABASE_URL", "REDIS_URL", "JWT_PREVIOUS_SECRETS"):
        assert "hunter2" not in refusal({name: "hunter2"})


def test_control_characters_in_a_refused_value_are_written_out() -> None:
    assert r"PORT=80\n\x1b[31m" in refusal({"PORT": "80\n\x1b[31m"})


def test_the_environment_wins_over_the_file_and_empty_is_none() -> None:
    config = load({"PORT": "81", "HOST": ""}, "PORT=82\nHOST=10.0.0.1\nBCRYPT_COST=\n")

    assert (config.port, config.host, config.bcrypt_cost) == (81, "10.0.0.1", 12)


def test_an_unknown_key_in_the_file_is_refused_with_a_guess() -> None:
    assert "the closest is JWT_EXPIRES_IN." in refusal({}, "JWT_EXPIRE_IN=15m")
    assert "docs/configuration.md" in refusal({}, "ZZZ=1")
    assert load({"JWT_EXPIRE_IN": "whatever the environment holds"}).port == 8080


def test_file_quotes_comments_and_export() -> None:
    text = (
        "\ufeff# a comment\r\n"
        "export PORT = 81 # the port\r\n"
        "A='it is #1 \\n'\n"
        'B="two\\nlines \\"quoted\\" \\$HOME \\\\" # why not\n'
        "C=#empty\n"
        "D=a=b#c 'd\n"
        "\n"
        "E= \n"
    )

    assert parse(text) == {
        "PORT": "81",
        "A": "it is #1 \\n",
        "B": 'two\nlines "quoted" $HOME \\',
        "C": "",
        "D": "a=b#c 'd",
        "E": "",
    }


@pytest.mark.parametrize(
    "text", ["PORT", "1PORT=1", "=1", "A='x", 'A="x', "A='x' y", 'A="\\x41"', "A B=1", "A=1\nA=2"]
)
def test_a_malformed_line_is_named_by_its_number(text: str) -> None:
    sentence = refusal({}, "# first\n" + text)

    assert sentence.startswith("Line ")
    assert " of .env " in sentence


def test_a_malformed_line_does_not_show_a_secret() -> None:
    assert "hunter2" not in refusal({}, "JWT_SECRET='hunter2")


def test_a_database_in_parts_is_quoted() -> None:
    config = load(
        {
            "DB_HOST": "::1",
            "DB_PORT": "5433",
            "DB_USERNAME": "ada@home",
            "DB_PASSWORD": "p:/@? #%",
            "DB_DATABASE": "chat/1",
            "REDIS_HOST": "cache",
            "JWT_SECRET": KEY,
        }
    )

    assert config.database_url == (
        "postgresql://ada%40home:p%3A%2F%40%3F%20%23%25@[::1]:5433/chat%2F1"
    )
    assert config.redis_url == "redis://cache:6379/0"


def test_a_database_behind_a_socket() -> None:
    config = load({"DB_HOST": "/run/postgresql", "JWT_SECRET": KEY})

    assert config.database_url == ("postgresql://parley@/parley?host=%2Frun%2Fpostgresql&port=5432")


def test_url_and_parts_do_not_mix() -> None:
    assert "DATABASE_URL and DB_HOST are both given" in refusal(
        {"DATABASE_URL": DATABASE, "JWT_SECRET": KEY}, "DB_HOST=db"
    )
    assert "REDIS_URL and REDIS_PORT are both given" in refusal(
        {"REDIS_URL": "redis://a", "REDIS_PORT": "1"}
    )
    assert "DB_PASSWORD is given without DB_HOST" in refusal({"DB_PASSWORD": "x"})


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "JWT_SECRET is missing"),
        (KEY[:31], "shorter than 32 bytes"),
        ("a" * 64, "an example"),
        ("please-change-me-" + KEY, "an example"),
        ("this-is-an-EXAMPLE-secret-0123456789", "an example"),
    ],
)
def test_a_database_of_ones_own_needs_a_real_key(key: str, why: str) -> None:
    assert why in refusal({"DATABASE_URL": DATABASE, "JWT_SECRET": key})


def test_the_metrics_listener_has_a_port_of_its_own() -> None:
    assert "METRICS_PORT=8080" in refusal({"METRICS_PORT": "8080"})
    assert load({"METRICS_PORT": "0", "PORT": "0"}).metrics_port == 0


def test_the_real_port_reaches_a_derived_address_only() -> None:
    assert bound_to(load({"PORT": "0"}), 4711).public_url == "http://localhost:4711"
    given = load({"PORT": "0", "PUBLIC_URL": "https://chat.example.org"})
    assert bound_to(given, 4711).public_url == "https://chat.example.org"
    assert load({"HOST": "fd00::1"}).public_url == "http://[fd00::1]:8080"


def test_the_struct_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load({}).port = 1  # type: ignore[misc]  # That it can't be set is what is tested.


def test_secrets_show_in_no_repr_and_no_description() -> None:
    config = load(
        {
            "DATABASE_URL": "postgresql://ada:hunter2@db/parley",
            "REDIS_URL": "redis://cache/0?password=hunter2",
            "JWT_SECRET": KEY,
            "JWT_PREVIOUS_SECRETS": OTHER_KEY,
        }
    )

    for text in (repr(config), describe(config), repr(msgspec.structs.asdict(config))):
        assert not any(secret in text for secret in ("hunter2", KEY, OTHER_KEY))
    assert "DATABASE_URL=postgresql://ada:********@db/parley\n" in describe(config)
    assert "REDIS_URL=********\n" in describe(config)
    assert repr(Secret("hunter2")) == "Secret('********')"


def test_a_description_is_an_env_file_again() -> None:
    config = load({"JWT_EXPIRES_IN": "90s", "CORS_ORIGINS": "https://a.example.org"})

    assert load({}, describe(config)) == config


def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    config = load({"DATA_DIR": str(tmp_path / "deep" / "var")})

    made = ensure_secret(config)
    kept = ensure_secret(config)

    path = tmp_path / "deep" / "var" / "jwt.secret"
    assert made.jwt_secret == kept.jwt_secret == path.read_text().strip()
    assert len(made.jwt_secret) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["jwt.secret"]
    assert ensure_secret(load({"JWT_SECRET": KEY})).jwt_secret == KEY


def _make_key(folder: str, barrier: Barrier, keys: "multiprocessing.SimpleQueue[str]") -> None:
    barrier.wait()
    keys.put(str(ensure_secret(load({"DATA_DIR": folder})).jwt_secret))


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, keys = context.Barrier(4), context.SimpleQueue()
    processes = [
        context.Process(target=_make_key, args=(str(tmp_path / "var"), barrier, keys))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    made = {keys.get() for _ in processes}
    for process in processes:
        process.join()

    assert len(made) == 1


def test_a_bad_key_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "jwt.secret"
    config = load({"DATA_DIR": str(tmp_path)})

    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="shorter than 32 bytes; delete it"):
        ensure_secret(config)
    path.write_text(KEY)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        ensure_secret(config)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text(KEY)
    with pytest.raises(ConfigError, match="can't be kept or read"):
        ensure_secret(config)


def test_a_data_dir_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")

    with pytest.raises(ConfigError, match="can't be kept or read"):
        ensure_secret(load({"DATA_DIR": str(tmp_path / "var")}))


def test_this_process_can_load_its_own_environment() -> None:
    known = {name: text for name, text in os.environ.items() if name.startswith("LC_")}

    assert isinstance(load(known), Config)


def test_a_password_that_would_be_taken_for_a_path_is_refused_unshown() -> None:
    for url in (
        "postgresql://u:pa#sekret@host/db",
        "postgresql://u:pa/sekret@host/db",
        "postgresql://u:pa?sekret@host/db",
    ):
        sentence = refusal({"DATABASE_URL": url, "JWT_SECRET": KEY})
        assert "percent-encoded" in sentence
        assert "sekret" not in sentence


def test_a_key_that_is_no_utf_8_is_refused() -> None:
    assert "UTF-8" in refusal({"JWT_SECRET": KEY + "\udcff"})


def test_origins_are_what_browsers_send() -> None:
    config = load({"CORS_ORIGINS": "https://B.example.org:443, http://c.example.org:8080"})
    assert config.cors_origins == ("https://b.example.org", "http://c.example.org:8080")


def test_a_dotenv_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert read_dotenv(path) is None
    path.write_bytes(b"PORT=\xff")
    with pytest.raises(ConfigError, match=r"UTF-8\.$"):
        read_dotenv(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        read_dotenv(path)


HOSTS = "redis://:word@one:6379,two,[::1]:7000/0"


@pytest.mark.parametrize("mode", ["cluster", "sentinel"])
def test_a_redis_of_several_hosts(mode: str) -> None:
    config = load({"REDIS_URL": HOSTS, "REDIS_MODE": mode})

    assert (config.redis_url, config.redis_mode) == (HOSTS, mode)
    assert config.redis_sentinel_service == "mymaster"
    assert "REDIS_URL=redis://:********@one:6379,two,[::1]:7000/0\n" in describe(config)


def test_a_redis_may_be_a_socket() -> None:
    assert load({"REDIS_URL": "unix:///run/redis.sock"}).redis_url == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"REDIS_URL": HOSTS}, "REDIS_URL names several hosts"),
        ({"REDIS_MODE": "cluster"}, "REDIS_MODE is given without REDIS_URL"),
        ({"REDIS_URL": "unix:///run/r.sock", "REDIS_MODE": "sentinel"}, "REDIS_URL names a socket"),
        ({"REDIS_URL": "redis://one/1", "REDIS_MODE": "cluster"}, "REDIS_URL names a database"),
        (
            {"REDIS_URL": "redis://one", "REDIS_SENTINEL_SERVICE": "parley"},
            "REDIS_SENTINEL_SERVICE is given without REDIS_MODE=sentinel",
        ),
    ],
)
def test_settings_of_redis_that_contradict_each_other(given: dict[str, str], sentence: str) -> None:
    assert sentence in refusal(given)


def test_auto_is_a_worker_for_each_core() -> None:
    assert load({"WORKERS": "auto"}).workers == min(usable_cores(), 64)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("99900000 100000", None)],
)
def test_a_container_may_use_fewer_cores(tmp_path: Path, quota: str, cores: int | None) -> None:
    quotas = tmp_path / "cpu.max"
    quotas.write_text(quota + "\n")
    assert usable_cores(quotas) == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"DB_HOST": "db", "DB_PASSWORD": "pass word", "REDIS_HOST": "::1", "JWT_SECRET": KEY},
        {
            "DATABASE_URL": DATABASE,
            "REDIS_URL": HOSTS,
            "REDIS_MODE": "cluster",
            "JWT_SECRET": KEY,
            "JWT_PREVIOUS_SECRETS": f"{OTHER_KEY},{KEY}",
            "CORS_ORIGINS": "https://a.example.org,http://localhost:3000",
            "TRUSTED_PROXIES": "10.0.0.7,10.1.0.0/16,fd00::/8",
            "RATE_LIMIT_SCALE": "123456.78901",
            "HEARTBEAT_INTERVAL": "100.5ms",
            "MAX_FILE_SIZE": "1025",
            "PORT": "8081",
        },
    ],
)
def test_settings_survive_being_written_as_an_environment(given: dict[str, str]) -> None:
    config = load(given)
    assert load(environ_of(config)) == config
