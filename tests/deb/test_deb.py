"""The Debian package: installed, used, upgraded under open connections, removed and purged, with a real systemd.

The tests are steps of one life and run in this order.
"""

import pathlib
import re
import time

from conftest import PACKAGES

DEADLINE = 30

CLIENTS = 50

SETTINGS = "/etc/ws4redis/settings.toml"

# Opens CLIENTS sockets, says "open", and opens each again after a close until standard input ends; then prints the close codes
# and how many are open.
VISITORS = f"""
import asyncio, collections, sys, websockets

codes = collections.Counter()
up = set()

async def visit(number):
    while True:
        try:
            async with websockets.connect("ws://127.0.0.1:8000/ws/x?subscribe-broadcast") as socket:
                up.add(number)
                try:
                    async for message in socket:
                        pass
                finally:
                    up.discard(number)
                codes[socket.close_code] += 1
        except websockets.ConnectionClosed as closed:
            codes[closed.rcvd.code if closed.rcvd else 1006] += 1
        except (OSError, websockets.WebSocketException):
            pass
        await asyncio.sleep(0.1)

async def all_open():
    while len(up) < {CLIENTS}:
        await asyncio.sleep(0.05)

async def main():
    tasks = [asyncio.create_task(visit(number)) for number in range({CLIENTS})]
    await all_open()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await all_open()
    print(len(up), dict(codes), flush=True)
    for task in tasks:
        task.cancel()

asyncio.run(main())
"""


def until(read, wanted):
    """Wait for a value."""
    end = time.monotonic() + DEADLINE
    while (value := read()) != wanted:
        assert time.monotonic() < end, f"still {value!r}"
        time.sleep(0.1)


def package(revision):
    """Return the package of a revision."""
    [path] = PACKAGES.glob(f"ws4redis_*-{revision}_amd64.deb")
    return path


def ready(container):
    """Ask the admin listener whether the gateway accepts clients."""
    request = "GET /health/ready HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
    script = f"""
import socket
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect("/run/ws4redis/admin.sock")
s.sendall(b"{request}"); print(s.recv(65536).decode())
"""
    done = container.run("python3", "-c", script, check=False)
    return done.stdout.partition("\n")[0]


def test_one_command_installs_a_running_service(container):
    container.run("dpkg", "-i", container.add(package(1)))
    until(container.state, "active")
    until(lambda: ready(container), "HTTP/1.1 200 OK")
    pid = container.output("systemctl", "show", "-P", "MainPID", "ws4redis")
    assert container.output("stat", "-c", "%U", f"/proc/{pid}") == "ws4redis"


def test_settings_and_the_admin_socket_can_be_read_by_few(container):
    modes = container.output(
        "stat", "-c", "%a %U %G", "/etc/ws4redis/settings.toml", "/run/ws4redis/admin.sock"
    )
    assert modes.splitlines() == ["640 root ws4redis", "600 ws4redis ws4redis"]


def test_the_manual_and_the_completions_are_found(container):
    assert "ws4redis" in container.output("man", "--pager=cat", "ws4redis")
    shell = (
        "source /usr/share/bash-completion/bash_completion; _completion_loader ws4redis; complete -p ws4redis"
    )
    assert "ws4redis" in container.output("bash", "-c", shell)


def test_the_settings_name_files_that_exist(container):
    named = re.findall(r"/usr/share/[\w./-]*[\w/]", container.output("cat", SETTINGS))
    assert named
    container.run("ls", *named)


def test_the_check_command_accepts_the_settings(container):
    container.run("ws4redis", "check", "--settings", "/etc/ws4redis/settings.toml")


def test_systemd_gives_it_few_rights(container):
    words = ("systemd-analyze", "security", "--no-pager", "ws4redis.service")
    [level] = re.findall(r"Overall exposure level for ws4redis.service: ([0-9.]+)", container.output(*words))
    assert float(level) <= 2.0


def test_a_reload_applies_the_settings_and_an_error_changes_nothing(container):
    def status():
        return container.output("systemctl", "show", "-P", "StatusText", "ws4redis")

    path = "/etc/ws4redis/settings.toml"
    pid = container.output("systemctl", "show", "-P", "MainPID", "ws4redis")
    container.run("cp", "-p", path, f"{path}.before")
    container.run("sh", "-c", f"printf '\\n[origin]\\nallowed = [\"https://a.example\"]\\n' >>{path}")
    container.run("systemctl", "reload", "ws4redis")
    until(status, "settings reloaded; changed: origin.allowed")
    container.run("sh", "-c", f"echo 'no setting' >>{path}")
    container.run("systemctl", "reload", "ws4redis")
    until(lambda: "settings not reloaded" in status(), True)
    container.run("mv", f"{path}.before", path)
    container.run("systemctl", "reload", "ws4redis")
    until(status, "settings reloaded; changed: origin.allowed")
    until(container.state, "active")
    assert container.output("systemctl", "show", "-P", "MainPID", "ws4redis") == pid


def test_a_killed_gateway_is_started_again(container):
    before = container.output("systemctl", "show", "-P", "MainPID", "ws4redis")
    container.run("sh", "-c", f"kill -9 {before}")

    def changed():
        state = container.output("systemctl", "show", "-P", "MainPID", "ws4redis")
        return state not in (before, "0") and ready(container) == "HTTP/1.1 200 OK"

    until(changed, True)


def test_an_upgrade_keeps_settings_and_clients_come_back(container):
    container.run("sh", "-c", "echo '# mine' >>/etc/ws4redis/settings.toml")
    visitors = container.start("python3", "-c", VISITORS)
    assert visitors.stdout.readline() == "open\n"
    container.run("dpkg", "-i", "--force-confold", container.add(package(2)))
    until(container.state, "active")
    out, _ = visitors.communicate("\n", timeout=DEADLINE)
    count, _, codes = out.partition(" ")
    # Each was closed once, as a service that restarts (RFC 6455, section 7.4.1, and the IANA registry).
    assert (int(count), codes) == (CLIENTS, f"{{1012: {CLIENTS}}}\n")
    assert container.output("tail", "-n", "1", "/etc/ws4redis/settings.toml") == "# mine"
    assert container.output("dpkg-query", "-W", "-f", "${Version}", "ws4redis").endswith("-2")


def test_an_upgrade_keeps_owner_and_mode_of_the_settings(container):
    container.run("sh", "-c", f"chown ws4redis:adm {SETTINGS} && chmod 600 {SETTINGS}")
    container.run("dpkg", "-i", "--force-confold", container.add(package(2)))
    until(container.state, "active")
    assert container.output("stat", "-c", "%a %U %G", SETTINGS) == "600 ws4redis adm"


def test_an_upgrade_without_the_settings_is_complete(container):
    container.run("mv", SETTINGS, "/mnt/kept.toml")
    container.run("dpkg", "-i", container.add(package(2)))
    assert container.output("dpkg-query", "-W", "-f", "${db:Status-Status}", "ws4redis") == "installed"
    container.run("mv", "/mnt/kept.toml", SETTINGS)
    container.run("systemctl", "reset-failed", "ws4redis", check=False)
    container.run("systemctl", "restart", "ws4redis")
    until(container.state, "active")


def test_the_socket_unit_is_enabled_as_documented_and_clients_wait_for_a_restart(container):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    [paragraph] = [line for line in text.splitlines() if line.startswith("**Socket activation.**")]
    commands = re.findall(r"`(systemctl (?:stop|enable|start) [^`]*)`", paragraph)
    assert len(commands) == 3
    for command in commands:
        container.run(*command.split())
    until(container.state, "active")
    assert "systemd passed the listening sockets" in container.output("journalctl", "-u", "ws4redis", "-n", "20")
    container.run("systemctl", "stop", "ws4redis")
    connecting = "import socket; s = socket.create_connection(('127.0.0.1', 8000)); s.settimeout(20); "
    connecting += "s.sendall(b'GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(15).decode())"
    # The first connection starts the service.
    assert container.output("python3", "-c", connecting) == "HTTP/1.1 200 OK"
    container.run("systemctl", "disable", "--now", "ws4redis.socket")
    container.run("systemctl", "restart", "ws4redis")
    until(lambda: ready(container), "HTTP/1.1 200 OK")


def test_removing_stops_the_service_and_keeps_the_settings(container):
    container.run("dpkg", "-r", "ws4redis")
    assert container.state() != "active"
    assert container.run("pgrep", "ws4redis", check=False).stdout == ""
    container.run("test", "-e", "/etc/ws4redis/settings.toml")


def test_an_override_of_owner_and_mode_is_respected(container):
    container.run("dpkg", "--purge", "ws4redis")
    container.run("dpkg-statoverride", "--add", "root", "ws4redis", "644", SETTINGS)
    container.run("dpkg", "-i", container.add(package(1)))
    assert container.output("stat", "-c", "%a %U %G", SETTINGS) == "644 root ws4redis"
    container.run("dpkg-statoverride", "--remove", SETTINGS)


def test_purging_leaves_no_file(container):
    container.run("dpkg", "--purge", "ws4redis")
    left = "find / -xdev -name '*ws4redis*' -not -path '/mnt/*' -not -path '/var/cache/*' -not -path '/var/lib/systemd/*'"
    assert container.output("sh", "-c", left) == ""
