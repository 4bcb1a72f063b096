"""What deploy/ promises: settings that exist, probes that answer, and time enough to stop."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # No types are pinned for it; what is read is JSON.

from internal.config.config import Config, ConfigError, Parts, load, settings_of
from internal.config.values import Duration
from internal.middleware.connections import Limits
from internal.routes import catalogue
from tests.support.process import ROOT
from tests.support.proxies import HAPROXY_CONFIG, NGINX_TEMPLATE, certificate, command, settings

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNITS = ["parley.service", "parley@.service"]
SETTINGS = {setting.name for struct in (Config, Parts) for setting in settings_of(struct)}
PATHS = {path for row in catalogue.routes() for path in row.paths}
# What Python and the shell read, and not the server.
FOREIGN = {"PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
KEY = "0123456789abcdef" * 4
# How long the embedded PostgreSQL may take for its last checkpoint.
CHECKPOINT = timedelta(seconds=30)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pairs(text: str) -> dict[str, str]:
    """The lines NAME=value of a file, without comments."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def seconds(text: str) -> timedelta:
    return Duration(timedelta(), timedelta(days=1)).read(text)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(read(DEPLOY / "compose.yaml")))


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(read(KUBERNETES / f"{name}.yaml")))


def pod() -> dict[str, Any]:
    return dict(manifest("deployment")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return dict(only)


def unit(name: str) -> list[tuple[str, str]]:
    lines = read(DEPLOY / "systemd" / name).splitlines()
    found = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return [(key, value) for key, _, value in found]


def image_environment() -> dict[str, str]:
    (block,) = re.findall(r"^ENV (PATH=(?:.*\\\n)*.*)$", read(DEPLOY / "Dockerfile"), re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S+)", block))


def unit_environment(name: str) -> dict[str, str]:
    words = [word for key, value in unit(name) if key == "Environment" for word in value.split()]
    words += [word for word in start_of(name) if "=" in word]
    return dict(word.split("=", 1) for word in words)


def start_of(name: str) -> list[str]:
    # A template's unit is named by its port.
    return dict(unit(name))["ExecStart"].replace("%i", "8081").split()


def compose_environment() -> dict[str, str]:
    """The environment of a node, with values as an operator might give."""
    given = {
        "DATABASE_PASSWORD": KEY,
        "REDIS_PASSWORD": KEY,
        "JWT_SECRET": KEY,
        "PUBLIC_URL": "https://chat.example.org",
        "REGISTRATION": "open",
    }
    nodes = compose()["x-node"]["environment"]
    return {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: given[found[1]], str(value))
        for name, value in nodes.items()
    }


def kubernetes_environment() -> dict[str, str]:
    return pairs(read(KUBERNETES / "settings.env") + read(KUBERNETES / "secret.env.example"))


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(image_environment(), id="Dockerfile"),
        pytest.param(compose_environment(), id="compose.yaml"),
        pytest.param(kubernetes_environment(), id="kubernetes"),
        *(pytest.param(unit_environment(name), id=name) for name in UNITS),
    ],
)
def test_every_name_is_a_setting(environment: dict[str, str]) -> None:
    assert environment.keys() - FOREIGN
    assert environment.keys() - FOREIGN - SETTINGS == set()


def test_the_server_takes_the_environment_of_compose() -> None:
    config = load({**image_environment(), **compose_environment()})

    assert config.database_url is not None
    assert config.redis_url is not None


def test_what_is_a_nodes_own_wins_over_what_they_share() -> None:
    words = start_of("parley@.service")
    shared = {"PORT": "1", "METRICS_PORT": "2", "DATA_DIR": "/3", "REGISTRATION": "closed"}
    shown = run(*words[: words.index("/opt/parley/.venv/bin/python")], "/usr/bin/env", **shared)

    own = {"PORT=8081", "METRICS_PORT=18081", "DATA_DIR=/var/lib/parley/8081"}
    assert {*own, "REGISTRATION=closed"} <= set(shown.splitlines())


def test_the_server_takes_the_environment_of_kubernetes_once_the_secret_is_real() -> None:
    environment = {**image_environment(), **kubernetes_environment()}

    with pytest.raises(ConfigError, match="JWT_SECRET"):
        load(environment)
    assert load({**environment, "JWT_SECRET": KEY}).database_url is not None


def test_compose_has_no_secret_that_works_without_being_set() -> None:
    text = read(DEPLOY / "compose.yaml")
    example = pairs(read(DEPLOY / ".env.example"))
    taken = set(re.findall(r"(?<!\$)\$\{(\w+)", text)) | {"POSTGRES_PASSWORD"}

    assert taken == example.keys()
    assert {name for name, value in example.items() if value} == {"REGISTRATION"}
    required = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    assert required == taken - {"REGISTRATION", "POSTGRES_PASSWORD"}
    assert compose()["secrets"]["postgres_password"] == {"environment": "POSTGRES_PASSWORD"}


def test_compose_trusts_its_own_proxy_alone() -> None:
    found = compose()
    proxy = found["services"]["proxy"]["networks"]["edge"]["ipv4_address"]

    assert found["x-node"]["environment"]["TRUSTED_PROXIES"] == proxy
    assert [name for name, service in found["services"].items() if "ports" in service] == ["proxy"]


def test_compose_asks_postgres_to_keep_its_promises() -> None:
    service = compose()["services"]["postgres"]

    assert {"fsync=on", "full_page_writes=on", "synchronous_commit=on"} <= set(service["command"])
    assert int(re.findall(r"postgres:(\d+)", service["image"])[0]) >= 16


def probes() -> Iterator[tuple[str, str]]:
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield name, container()[name]["httpGet"]["path"]
    (path,) = re.findall(r"uri (\S+) ver", read(HAPROXY_CONFIG))
    yield "haproxy", path
    (path,) = re.findall(r"HEALTHCHECK.*\n.*'GET', '(.*?)'", read(DEPLOY / "Dockerfile"))
    yield "Dockerfile", path
    (path,) = re.findall(r"'GET', '(.*?)'", str(compose()["x-node"]["healthcheck"]["test"]))
    yield "compose.yaml", path


def test_probes_ask_for_what_they_mean() -> None:
    asked = dict(probes())

    assert asked == {
        "startupProbe": "/live",
        "livenessProbe": "/live",
        "readinessProbe": "/ready",
        "haproxy": "/ready",
        "Dockerfile": "/live",
        "compose.yaml": "/ready",
    }
    assert set(asked.values()) <= PATHS


def test_the_kubelet_reaches_what_it_asks() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    asked = {
        container()[probe]["httpGet"]["port"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    config = load({**image_environment(), **kubernetes_environment(), "JWT_SECRET": KEY})

    assert asked == {"metrics"}
    assert ports == {"http": config.port, "metrics": config.metrics_port}
    assert config.metrics_host == "0.0.0.0"  # noqa: S104
    # A supervisor's has no probes.
    assert config.workers == 1


def farewell(environment: dict[str, str]) -> timedelta:
    """The longest that a node takes to stop."""
    config = load({**environment, "JWT_SECRET": KEY})
    return config.drain_delay + config.shutdown_timeout + config.drain_window


def test_compose_gives_nodes_time_to_stop() -> None:
    grace = seconds(compose()["x-node"]["stop_grace_period"])

    assert grace >= timedelta(seconds=60)
    assert grace > farewell(compose_environment())


def test_kubernetes_gives_nodes_time_to_stop() -> None:
    words = container()["lifecycle"]["preStop"]["exec"]["command"]
    (pause,) = re.findall(r"time\.sleep\((\d+)\)", words[-1])
    grace = timedelta(seconds=pod()["terminationGracePeriodSeconds"])

    assert grace > timedelta(seconds=int(pause)) + farewell(kubernetes_environment())


@pytest.mark.parametrize("name", UNITS)
def test_systemd_gives_nodes_time_to_stop(name: str) -> None:
    # A delay that is set later, as README.md proposes it, has room, too.
    delay = {"DRAIN_DELAY": "5s"}
    grace = timedelta(seconds=int(dict(unit(name))["TimeoutStopSec"]))

    assert grace > farewell({**unit_environment(name), **delay}) + CHECKPOINT


def test_a_stopping_node_accepts_until_the_proxy_has_noticed() -> None:
    (inter, fall) = re.findall(r"CHECK_INTERVAL-(\w+).*fall (\d+)", read(HAPROXY_CONFIG))[0]
    noticed = seconds(inter) * int(fall)

    for environment in (compose_environment(), kubernetes_environment()):
        assert load({**environment, "JWT_SECRET": KEY}).drain_delay > noticed
    readiness = container()["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= 5


def test_proxies_wait_for_heartbeats_and_hang_up_before_the_nodes() -> None:
    haproxy, nginx = read(HAPROXY_CONFIG), read(NGINX_TEMPLATE)
    (tunnel,) = re.findall(r"PROXY_TUNNEL_TIMEOUT-(\w+)", haproxy)
    (keep_alive,) = re.findall(r"http-keep-alive \"\$\{PROXY_TIMEOUT-(\w+)", haproxy)
    (upstream,) = re.findall(r"keepalive_timeout (\d+s)", nginx)
    ingress = manifest("ingress")["metadata"]["annotations"]
    silence = 2 * load({}).heartbeat_interval

    assert seconds(tunnel) > silence
    assert seconds(ingress["haproxy.org/timeout-tunnel"]) > silence
    assert int(ingress["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > silence.total_seconds()
    for text in (keep_alive, upstream, ingress["haproxy.org/timeout-http-keep-alive"]):
        assert seconds(text).total_seconds() < Limits().idle_s


@pytest.mark.parametrize("path", [HAPROXY_CONFIG, NGINX_TEMPLATE], ids=["haproxy", "nginx"])
def test_the_head_of_a_proxy_lists_its_variables(path: Path) -> None:
    text = read(path)
    head = re.sub(r"PROXY_NODE_1 … PROXY_NODE_3", "PROXY_NODE_1 PROXY_NODE_2 PROXY_NODE_3", text)
    told = {name for line in head.splitlines() for name in re.findall(r"^# .*", line)}
    listed = set(re.findall(r"PROXY_\w+", "\n".join(told)))

    assert set(re.findall(r"\$\{(PROXY_\w+)", text)) == listed


def nginx_exports() -> dict[str, str]:
    """What the instructions have exported for nginx."""
    section = read(DEPLOY / "README.md").partition("## nginx\n")[2].partition("\n## ")[0]
    exports = re.findall(r"^ +export (.*)$", section, re.MULTILINE)
    given = dict(pair.split("=", 1) for line in exports for pair in line.split())
    (names,) = re.findall(r"envsubst '(.*)'", section)
    assert set(names.split()) == {f"${name}" for name in given}
    return given


def test_the_instructions_set_every_variable_of_nginx() -> None:
    assert set(re.findall(r"\$\{(PROXY_\w+)\}", read(NGINX_TEMPLATE))) == nginx_exports().keys()


def test_nobody_is_root_and_everybody_agrees_who_it_is() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", read(DEPLOY / "Dockerfile"), re.MULTILINE)
    data = next(mount for mount in compose()["x-node"]["tmpfs"] if mount.startswith("/data"))

    assert int(user) > 0
    assert f"--uid {user}" in read(DEPLOY / "Dockerfile")
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] == int(user)
    assert f"uid={user}" in data


def test_kubernetes_takes_what_containers_need_not_have() -> None:
    context = container()["securityContext"]

    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    # Else a service named redis would set REDIS_PORT, which is a setting of ours.
    assert pod()["enableServiceLinks"] is False


def test_a_rolling_update_takes_no_node_away_first() -> None:
    spec = manifest("deployment")["spec"]

    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["replicas"] > manifest("disruption-budget")["spec"]["maxUnavailable"]


def test_the_image_has_what_it_copies() -> None:
    sources = re.findall(r"^COPY (?!--from)(\S+) ", read(DEPLOY / "Dockerfile"), re.MULTILINE)
    admitted = re.findall(r"^!(\S+)$", read(ROOT / ".dockerignore"), re.MULTILINE)

    assert sorted(sources) == sorted(admitted)
    assert [source for source in sources if not (ROOT / source).exists()] == []


# Linters, where they are installed.


def tool(name: str) -> str:
    """The path of a program; the test is skipped without."""
    places = (str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin")
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*words: str | Path, **environ: str) -> str:
    """What a linter prints, that finds nothing."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_the_proxy_takes_its_configuration(kind: str, tmp_path: Path) -> None:
    tool(kind)
    tool("openssl")
    environ = settings(tmp_path, certificate(tmp_path), [], (8443, 8080))

    run(*command(kind, tmp_path, environ, check=True), **environ)


def test_haproxy_needs_no_variable_but_the_nodes(tmp_path: Path) -> None:
    """What the file falls back to is taken, too; the certificate alone is not there."""
    program = tool("haproxy")
    nodes = {f"PROXY_NODE_{number}": f"127.0.0.1:808{number}" for number in range(1, 4)}
    tool("openssl")
    given = {"PROXY_CERTIFICATE": str(certificate(tmp_path)), **nodes}

    run(program, "-c", "-f", HAPROXY_CONFIG, **given)


def test_nginx_takes_what_the_instructions_say_where_its_output_is_a_socket(
    tmp_path: Path,
) -> None:
    """As under systemd. Nobody can open a socket by the name /dev/stdout."""
    tool("nginx")
    tool("openssl")
    environ = nginx_exports()
    log = environ["PROXY_ACCESS_LOG"].replace("/var/log/nginx", str(tmp_path))
    here = {"PROXY_CERTIFICATE": str(certificate(tmp_path)), "PROXY_ACCESS_LOG": log}
    ports = {"PROXY_HTTP": "127.0.0.1:8080", "PROXY_HTTPS": "127.0.0.1:8443"}
    words = command("nginx", tmp_path, {**environ, **here, **ports}, check=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(words, stdout=theirs.fileno(), stderr=subprocess.PIPE, check=False)

    assert done.returncode == 0, done.stderr.decode()
    assert Path(log).exists()


def test_haproxy_is_nobody_once_it_runs(tmp_path: Path) -> None:
    """With the file that is for those who start it as root."""
    program = tool("haproxy")
    tool("openssl")
    account = DEPLOY / "haproxy" / "account.cfg"
    environ = settings(tmp_path, certificate(tmp_path), [], (8443, 8080))
    try:
        pwd.getpwnam("haproxy")
    except KeyError:
        pytest.skip("there is no user haproxy")

    run(program, "-c", "-f", HAPROXY_CONFIG, "-f", account, **environ)
    instructions = read(DEPLOY / "README.md")
    assert re.search(
        r'^ +echo .EXTRAOPTS=".*-f /etc/haproxy/account.cfg"', instructions, re.MULTILINE
    )
    assert {"user", "group", "chroot"} <= {
        line.split()[0] for line in read(account).splitlines() if line.startswith(" ")
    }


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    program = tool("systemd-analyze")
    text = read(DEPLOY / "systemd" / name)
    # The programs have to be there, and /opt/parley need not be.
    here = text.replace("/opt/parley/.venv/bin/python", sys.executable)
    copy = tmp_path / name.replace("@", "@8081")
    copy.write_text(here.replace("/opt/parley", str(ROOT)), encoding="utf-8")

    assert run(program, "verify", "--man=no", copy).strip() == ""


def test_docker_takes_the_dockerfile() -> None:
    run(tool("hadolint"), DEPLOY / "Dockerfile")


def test_compose_takes_its_file() -> None:
    run(
        tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"
    )


def test_kubernetes_takes_the_manifests(tmp_path: Path) -> None:
    program = tool("kubectl")
    folder = shutil.copytree(KUBERNETES, tmp_path / "kubernetes", dirs_exist_ok=True)
    shutil.copy(folder / "secret.env.example", folder / "secret.env")
    built = run(program, "kustomize", folder)
    everything = tmp_path / "everything.yaml"
    everything.write_text(built, encoding="utf-8")

    kinds = {document["kind"] for document in yaml.safe_load_all(built)}
    assert {"Deployment", "Service", "Ingress", "PodDisruptionBudget", "Secret"} <= kinds
    run(tool("kubernetes-validate"), "--strict", everything)


def test_kubernetes_is_not_built_without_a_secret(tmp_path: Path) -> None:
    program = tool("kubectl")
    folder = shutil.copytree(KUBERNETES, tmp_path / "kubernetes", dirs_exist_ok=True)
    (folder / "secret.env").unlink(missing_ok=True)
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, check=False)

    assert done.returncode != 0
    assert b"secret.env" in done.stderr


def test_the_yaml_is_tidy() -> None:
    rules = (
        "{line-length: disable, document-start: disable, comments: {min-spaces-from-content: 1}}"
    )
    run(tool("yamllint"), "--strict", "-d", f"{{extends: default, rules: {rules}}}", DEPLOY)


def test_the_shell_takes_the_script() -> None:
    run(tool("sh"), "-n", DEPLOY / "postgres" / "10-parley.sh")
