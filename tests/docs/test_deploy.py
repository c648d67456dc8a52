"""The files for deployments fit each other, the configuration and what was measured."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from wirebell.configuration import ServeConfiguration, load
from wirebell.configuration.keys import KEYS, read_known
from wirebell.options import TransportOptions

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
PAGES = (DEPLOY / "README.md", DEPLOY / "sizing.md")

# What ends after the connections are closed; `wirebell.configuration` leaves as much.
SPARE_SECONDS = 2


def read(name: str) -> str:
    """Read a file for deployments."""
    return (DEPLOY / name).read_text()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of one YAML document."""
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def read_manifest(name: str) -> dict[str, Any]:
    """Read a manifest."""
    return read_yaml(KUBERNETES / f"{name}.yaml")


def configure(*arguments: str) -> ServeConfiguration:
    """Load the configuration with a command's flags and the secrets that it expects."""
    pairs = iter(arguments)
    flags = {name.removeprefix("--"): value for name, value in zip(pairs, pairs, strict=True)}
    environ = read_manifest("secret")["stringData"]
    return load(DEPLOY / "wirebell.toml", environ, flags)


def test_the_configuration_is_understood() -> None:
    """The example says nothing that is unknown, and everything that the pages promise of it."""
    configuration = configure()

    assert () == configuration.warnings
    assert [] == configuration.find_insecure_modes()
    assert configuration.settings.broker_url.startswith("redis://")
    endpoints = configuration.endpoints
    assert ("/health", "/ready", "/metrics") == (
        endpoints.health,
        endpoints.ready,
        endpoints.metrics,
    )


def test_kubernetes_has_the_same_configuration() -> None:
    """The config map holds the file."""
    text = read_manifest("configmap")["data"]["wirebell.toml"]

    assert tomllib.loads(read("wirebell.toml")) == tomllib.loads(text)


def test_variables_exist() -> None:
    """Every variable of ours that a file names is a key, but the one that is warned of."""
    known = {path.upper().replace(".", "_") for path in read_known()}
    known |= {key.target.removeprefix("settings.").upper() for key in KEYS.values()}
    named: set[str] = set()
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file():
            named |= set(re.findall(r"\bWIREBELL_([A-Z][A-Z_]+[A-Z])\b", path.read_text()))

    assert {"PORT"} == named - known


def test_metrics_exist() -> None:
    """Every metric that a page names is in the guide."""
    guide = (ROOT / "docs" / "guide.md").read_text()
    for page in PAGES:
        for name in re.findall(r"`(wirebell_\w+)`", page.read_text()):
            assert f"| `{name}" in guide, name


def test_links_lead_somewhere() -> None:
    """Every relative link of the pages names a file, and a heading where it has one."""
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
                slugs = [title.lower().replace(" ", "-") for title in titles]
                assert heading in slugs, f"{page.name}: {link}"


def test_every_file_is_in_the_table() -> None:
    """The page lists what stands beside it."""
    page = read("README.md")
    names = {path.name for path in DEPLOY.iterdir() if path.suffix not in (".md", ".dockerignore")}

    assert names == {name.rstrip("/") for name in re.findall(r"\[`([^`]+)`\]", page)}


def test_proxies_show_clients_what_is_theirs() -> None:
    """Transports and emulation are passed on, what operators ask is not."""
    transports = TransportOptions.create_all()
    streams = {
        getattr(transports, name).path
        for name in transports.__struct_fields__
        if name != "emulation"
    }
    assert {"/connection"} == {f"/{path.split('/')[1]}" for path in streams}
    emulation = transports.emulation.path
    nginx = re.findall(r"location (?:= )?(\S+) \{", read("nginx.conf"))
    (caddy,) = re.findall(r"@clients path (.+)", read("Caddyfile"))
    rule = read_manifest("ingress")["spec"]["rules"][0]

    assert ["/connection/", emulation, f"{configure().api.path}/", "/"] == nginx
    assert f"/connection/* {emulation}" == caddy
    assert ["/connection", emulation] == [each["path"] for each in rule["http"]["paths"]]


def test_proxies_wait_longer_than_a_ping() -> None:
    """A link that says nothing is not cut between two pings and their answers."""
    settings = configure().settings
    least = settings.ping_interval_seconds + settings.pong_timeout_seconds
    nginx = re.findall(r"proxy_(?:read|send)_timeout (\d+)s;", read("nginx.conf"))
    annotations = read_manifest("ingress")["metadata"]["annotations"]
    ingress = [value for name, value in annotations.items() if name.endswith("-timeout")]

    assert len(nginx) == len(ingress) == 2
    assert all(float(seconds) > least for seconds in (*nginx, *ingress))


def test_ports_meet() -> None:
    """Proxies lead to where nodes listen."""
    port = str(configure().server.port)
    deployment = read_manifest("deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    compose = read_yaml(DEPLOY / "compose.yaml")["services"]

    assert port == str(container["ports"][0]["containerPort"])
    assert port == str(read_manifest("service")["spec"]["ports"][0]["port"])
    assert port == deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert f"EXPOSE {port}\n" in read("Dockerfile")
    assert f"wirebell:{port}" == compose["caddy"]["environment"]["UPSTREAMS"]
    assert ["8001", "8002"] == re.findall(r"server 127\.0\.0\.1:(\d+)", read("nginx.conf"))
    assert "{$UPSTREAMS:127.0.0.1:8001 127.0.0.1:8002}" in read("Caddyfile")
    assert "wirebell@8001 wirebell@8002" in read("README.md")


def test_names_meet() -> None:
    """Manifests refer to each other by names that exist."""
    names = {
        path.stem: read_yaml(path) for path in KUBERNETES.glob("*.yaml") if path.stem != "secret"
    }
    resources = names.pop("kustomization")["resources"]
    pod = names["deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    container = pod["spec"]["containers"][0]

    assert sorted(f"{name}.yaml" for name in names) == sorted(resources)
    assert read_manifest("secret")["metadata"]["name"] == "wirebell"
    assert "wirebell" == container["envFrom"][0]["secretRef"]["name"]
    assert names["configmap"]["metadata"]["name"] == pod["spec"]["volumes"][0]["configMap"]["name"]
    for name, selector in (
        ("service", "selector"),
        ("poddisruptionbudget", "selector"),
        ("networkpolicy", "podSelector"),
    ):
        found = names[name]["spec"][selector]
        assert labels == found.get("matchLabels", found), name
    assert names["horizontalpodautoscaler"]["spec"]["scaleTargetRef"]["name"] == "wirebell"
    assert pod["spec"]["enableServiceLinks"] is False


def test_probes_ask_what_is_there() -> None:
    """Liveness does not look at the broker, readiness does."""
    container = read_manifest("deployment")["spec"]["template"]["spec"]["containers"][0]
    endpoints = configure().endpoints

    assert endpoints.ready == container["readinessProbe"]["httpGet"]["path"]
    for name in ("livenessProbe", "startupProbe"):
        assert endpoints.health == container[name]["httpGet"]["path"]
    assert f"health_uri {endpoints.ready}" in read("Caddyfile")
    assert f":8000{endpoints.health}'" in read("Dockerfile")


def test_commands_are_understood() -> None:
    """What the unit and the containers start has flags that exist."""
    (command,) = re.findall(r"^ExecStart=\S+ serve (.+)$", read("wirebell@.service"), re.M)
    words = command.replace("%i", "8001").split()
    container = read_manifest("deployment")["spec"]["template"]["spec"]["containers"][0]
    docker = json.loads(re.findall(r"^CMD (.+)$", read("Dockerfile"), re.M)[0])

    server = configure(*words[2:]).server
    assert ("127.0.0.1", 8001) == (server.address, server.port)
    assert container["args"] == docker == ["serve", *words[:2]]


def test_every_end_has_its_time() -> None:
    """Whoever stops a node waits longer than it may take, and it may take as long as it drains."""
    configuration = configure()
    settings, most = configuration.settings, configuration.server.shutdown_seconds
    deployment = read_manifest("deployment")["spec"]["template"]["spec"]
    (name, sleep) = deployment["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    (unit,) = re.findall(r"^TimeoutStopSec=(\d+)$", read("wirebell@.service"), re.M)
    compose = read_yaml(DEPLOY / "compose.yaml")["services"]["wirebell"]["stop_grace_period"]
    rows = dict(re.findall(r"\| `(\w[\w. ]*)`[^|]*\| (\d+) s", read("README.md")))

    # The configuration shortens a drain that does not fit.
    assert 20.0 == settings.drain_window_seconds
    last = max(settings.close_timeout_seconds, settings.handover_seconds)
    assert most >= settings.drain_window_seconds + last + SPARE_SECONDS
    assert "sleep" == name
    assert deployment["terminationGracePeriodSeconds"] > int(sleep) + most
    assert int(unit) > most
    assert int(compose.removesuffix("s")) > most
    assert {
        "drain_window_seconds": "20",
        "shutdown.timeout": f"{most:.0f}",
        "TimeoutStopSec": unit,
        "stop_grace_period": compose.removesuffix("s"),
        "terminationGracePeriodSeconds": str(deployment["terminationGracePeriodSeconds"]),
    } == rows


def test_the_image_has_what_it_is_built_from() -> None:
    """What is copied exists and is not left out, and the extras are those of the package."""
    text = read("Dockerfile")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M)
        for name in line.split()[:-1]
    ]
    (wanted,) = re.findall(r"pip install --no-cache-dir '\.\[(.+)\]'", text)
    taken = set(re.findall(r"^!(.+)$", read("Dockerfile.dockerignore"), re.M))
    needed = {"pyproject.toml", project["project"]["readme"], "src", "clients", "LICENSE"}

    assert all((ROOT / name).exists() for name in copied)
    assert taken == set(copied) == needed | {"docs/deploy/wirebell.toml"}
    assert set(wanted.split(",")) <= project["project"]["optional-dependencies"].keys()
    (extras,) = re.findall(r"pip install '(wirebell\[.+\])'", read("README.md"))
    assert Requirement(extras).extras <= project["project"]["optional-dependencies"].keys()


PER_WORKER, BACK_SECONDS, SPARE, RATE = 50_000, 60, 1.25, 0.1
ANNOUNCE_SECONDS = 3


def compute_row(connections: int, plan: dict[str, int]) -> str:
    """Compute a row of the table, as the page says that it is done."""
    published = connections * RATE
    workers = SPARE * max(
        connections / PER_WORKER,
        published / plan["deliveries"],
        connections / plan["idle"],
        connections / (BACK_SECONDS * plan["connects"]),
    )
    count = max(2, math.ceil(workers))
    memory = connections * (plan["process_kib"] + plan["kernel_kib"]) / 2**20
    bandwidth = connections * (RATE * plan["delivery_bytes"] + plan["ping_bytes"]) * 8 / 1e9
    shards = []
    for audience in (100, 1):
        publications = published / audience
        receivers = count * (1 - (1 - 1 / count) ** audience)
        most = max(publications / plan["shard"], publications * receivers / plan["shard_out"])
        shards.append(max(1, math.ceil(most)))
    return (
        f"| {connections:,} | {count} | {memory:.1f} GiB | {bandwidth:.3f} Gbit/s | {shards[0]} | "
        f"{shards[1]} | {count**2 / ANNOUNCE_SECONDS:,.0f}/s |"
    )


def test_the_table_of_sizes_is_computed() -> None:
    """Each row follows from the planning values that stand on the page."""
    page = read("sizing.md")
    table = page.partition("<!-- sizes:begin -->")[2].partition("<!-- sizes:end -->")[0]
    rows = [line for line in table.strip().splitlines() if line.startswith("| 1")]
    found = re.findall(r"^\| `(\w+)` \| ([\d,]+) ", page, re.M)
    plan = {name: int(value.replace(",", "")) for name, value in found}

    assert [compute_row(10**power, plan) for power in (4, 5, 6, 7)] == rows
    assert ANNOUNCE_SECONDS == configure().settings.node_announce_seconds


def test_pages_hold_what_was_measured() -> None:
    """What pages quote was measured, and no planning value promises more."""
    program = ROOT / "benchmarks" / "report.py"
    command = [sys.executable, str(program), "--check", *map(str, PAGES)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ("", 0) == (result.stderr, result.returncode)
