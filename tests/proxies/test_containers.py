"""The image, the compose file and the Kubernetes manifest agree with the settings and with each other.

The tests in tests/images build the image and run it.
"""

import itertools
import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml
from reverse_proxies import DEPLOY

from harness import BINARY, DEADLINE

ROOT = DEPLOY.parents[1]
DEFAULTS = tomllib.loads((ROOT / "settings.toml").read_text())

DOCKERFILE = (DEPLOY / "container" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
MANIFEST = {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes" / "ws4redis.yaml").read_text())}

POD = MANIFEST["Deployment"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
GATEWAY = COMPOSE["services"]["gateway"]

SETTINGS = {
    "image": (DEPLOY / "container" / "settings.toml").read_text(),
    "compose": (DEPLOY / "compose" / "settings.toml").read_text(),
    "kubernetes": MANIFEST["ConfigMap"]["data"]["settings.toml"],
}

MARGIN_SECONDS = 10
"""What the unit's TimeoutStopSec adds to the drain: the last publications, and the end of the process."""

CONNECTION_BYTES = 6400
"""docs/scaling.md: a connection with a session, and the kernel's part."""

UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


def in_bytes(quantity):
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def in_force(name):
    """Return the settings of a file over the defaults."""
    own = tomllib.loads(SETTINGS[name])
    return {
        section: {**values, **own.get(section, {})} for section, values in DEFAULTS.items() if isinstance(values, dict)
    }


def instruction(name):
    """Return the values of an instruction of the Dockerfile, the last one first."""
    return re.findall(rf"(?m)^{name} (.*)$", DOCKERFILE)[::-1]


def folder(address):
    """Return the folder of a unix socket."""
    assert address.startswith("unix:")
    return str(pathlib.PurePath(address.removeprefix("unix:")).parent)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_gateway_accepts_the_settings_and_they_are_careful(name, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS[name])
    words = [BINARY, "settings", "--changed", "--settings", file]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "anonymous_publish = false" in shown.stdout


def test_the_image_is_built_with_the_oldest_rust_that_suffices_and_is_not_root():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    assert f"rust:{package['rust-version']}-" in DOCKERFILE
    [user] = instruction("USER")
    assert all(int(number) > 0 for number in user.split(":"))


def test_what_the_build_of_the_image_needs_is_sent_to_it():
    ignored = (DEPLOY / "container" / "Dockerfile.dockerignore").read_text()
    sent = [line.removeprefix("!") for line in ignored.splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in sent)
    included = re.findall(r'(?m)^path = "([^"]*)"$', (ROOT / "Cargo.toml").read_text())
    copied = [path for line in instruction("COPY") if "--from" not in line for path in line.split()[:-1] if path != "."]
    for path in ["Cargo.lock", "Cargo.toml", "settings.toml", "src", "static", *included, *copied]:
        assert any(path == one or path.startswith(f"{one}/") for one in sent), path


def commands():
    yield "image", tuple(yaml.safe_load(re.search(r"HEALTHCHECK .*CMD (\[.*\])", DOCKERFILE)[1]))
    for probe in ("livenessProbe", "readinessProbe"):
        yield "kubernetes", tuple(CONTAINER[probe]["exec"]["command"])


@pytest.mark.parametrize(("name", "command"), commands())
def test_a_probe_asks_the_admin_listener_of_the_settings(name, command, tmp_path):
    [entry] = yaml.safe_load(instruction("ENTRYPOINT")[0])
    assert command[0] == entry
    (tmp_path / "settings.toml").write_text(SETTINGS[name])
    words = [BINARY, *command[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    # No gateway listens there on this machine.
    assert done.returncode == 1 and tomllib.loads(SETTINGS[name])["admin"]["listen"] in done.stderr, done


def test_probes_wait_longer_than_the_command():
    limit = int(
        re.search(r"TIMEOUT: Duration = Duration::from_secs\((\d+)\)", (ROOT / "src/admin/ask.rs").read_text())[1]
    )
    for probe in ("livenessProbe", "readinessProbe"):
        assert CONTAINER[probe]["timeoutSeconds"] > limit
    assert int(re.search(r"--timeout=(\d+)s", DOCKERFILE)[1]) > limit


def test_a_stop_leaves_time_for_the_drain():
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = in_force("kubernetes")["server"]["drain_seconds"]
    assert POD["terminationGracePeriodSeconds"] >= pause + drain + MARGIN_SECONDS
    seconds = int(GATEWAY["stop_grace_period"].removesuffix("s"))
    assert seconds >= in_force("compose")["server"]["drain_seconds"] + MARGIN_SECONDS


def test_the_memory_limit_of_the_pod_is_above_the_bounds_of_the_settings():
    settings = in_force("kubernetes")
    messages = settings["messages"]
    bound = messages["outbox_total_bytes"] + messages["unfinished_total_bytes"]
    bound += settings["server"]["max_connections"] * CONNECTION_BYTES
    assert bound < in_bytes(CONTAINER["resources"]["limits"]["memory"])


def test_descriptors_suffice_for_all_connections():
    assert GATEWAY["ulimits"]["nofile"] > in_force("compose")["server"]["max_connections"]


def test_the_pod_has_few_rights():
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    user, group = map(int, instruction("USER")[0].split(":"))
    assert POD["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_finds_its_settings_and_its_socket():
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts["settings"] == instruction("WORKDIR")[0]
    assert mounts["admin"] == folder(in_force("kubernetes")["admin"]["listen"])
    assert {volume["name"] for volume in POD["volumes"]} == set(mounts)


def test_the_service_and_the_budget_are_for_the_pods():
    labels = MANIFEST["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFEST["Service"]["spec"]["selector"] == labels
    assert MANIFEST["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    [port], [exposed] = MANIFEST["Service"]["spec"]["ports"], CONTAINER["ports"]
    assert port["targetPort"] == exposed["name"]
    assert in_force("kubernetes")["server"]["listen"] == f"0.0.0.0:{exposed['containerPort']}"
    assert instruction("EXPOSE") == [str(exposed["containerPort"])]


def test_the_containers_of_the_compose_file_share_the_sockets():
    services = COMPOSE["services"]
    targets = {
        name: {volume.split(":")[0]: volume.split(":")[1] for volume in service["volumes"]}
        for name, service in services.items()
    }
    nginx = (DEPLOY / "nginx" / "unix.conf").read_text()
    settings = in_force("compose")
    assert f"server {settings['server']['listen']};" in nginx
    assert targets["gateway"]["sockets"] == targets["nginx"]["sockets"] == folder(settings["server"]["listen"])
    assert settings["server"]["trusted_proxies"] == ["unix"]
    gunicorn = re.search(r"unix:\S+", services["django"]["command"])[0]
    assert f"server {gunicorn};" in nginx
    assert targets["django"]["gunicorn"] == targets["nginx"]["gunicorn"] == folder(gunicorn)
    assert (
        f"alias {targets['nginx']['static']}/;" in nginx and targets["django"]["static"] == targets["nginx"]["static"]
    )
    certificates = re.search(r"ssl_certificate (.*)/fullchain.pem;", nginx)[1]
    # Files in live/ are links into archive/, so the folder of both has to be there.
    mounted = [volume.rsplit(":", 2)[1] for volume in services["nginx"]["volumes"] if volume.endswith(":ro")]
    assert any(certificates.startswith(f"{path}/live/") for path in mounted)


def test_the_admin_socket_is_in_memory_of_the_gateway_alone():
    assert GATEWAY["tmpfs"] == [folder(in_force("compose")["admin"]["listen"])]
    assert GATEWAY["read_only"] and GATEWAY["cap_drop"] == ["ALL"] and "ports" not in GATEWAY
    user, group = instruction("USER")[0].split(":")
    assert COMPOSE["volumes"]["sockets"]["driver_opts"]["o"] == f"uid={user},gid={group},mode=0755"


def test_the_files_of_the_compose_file_exist():
    home = DEPLOY / "compose"
    volumes = itertools.chain.from_iterable(service["volumes"] for service in COMPOSE["services"].values())
    files = [volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    assert files and all((home / file).is_file() for file in files)
    build = GATEWAY["build"]
    assert (home / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    mounted = dict(volume.split(":")[:2] for volume in GATEWAY["volumes"])
    assert mounted["./settings.toml"] == f"{instruction('WORKDIR')[0]}/settings.toml"
