"""`manage.py ws4redis` and `manage.py ws4redis_settings`: the gateway understands what Django derives."""

import subprocess
import sys

from deployments import MANAGE, SECRET_KEY, manage, site_environment
from harness import BINARY, Client, Process, RedisServer, clean_environment, free_port, unique
from websockets.exceptions import InvalidStatus

# A site whose every derived value differs from the gateway's default.
VARIABLES = {
    "sessions": "redis_sessions",
    "session_prefix": "logins",
    "prefix": "demo",
    "heartbeat": "beat",
    "secret_key": SECRET_KEY,
    "secret_key_fallbacks": "old",
    "binary": BINARY,
}


def opens(address):
    """Tests whether a socket opens: the gateway listens before it is connected to Redis."""
    try:
        with Client(address):
            return True
    except InvalidStatus:
        return False


def test_the_gateway_runs_with_the_settings_of_the_site_and_leaves_their_file_nowhere(tmp_path):
    store = RedisServer()
    port = free_port()
    variables = VARIABLES | {"redis": f"{store.url}/1", "database": tmp_path / "db"}
    command = [sys.executable, MANAGE, "ws4redis", "--listen", f"127.0.0.1:{port}", "--set", "server.drain_seconds=0"]
    gateway = Process(command, env=site_environment(**variables))
    try:
        gateway.wait_until(lambda: "listening on" in gateway.output(), "the gateway")
        # It has replaced Python, so signals and the exit code are its own.
        name = open(f"/proc/{gateway.process.pid}/comm").read().strip()
        assert name == "ws4redis"
        assert SECRET_KEY not in open(f"/proc/{gateway.process.pid}/cmdline").read()
        address = f"ws://127.0.0.1:{port}/ws/foobar?subscribe-broadcast"
        gateway.wait_until(lambda: opens(address), "Redis")
        with Client(address) as client:
            text = unique()
            subprocess.run(
                ["redis-cli", "-p", str(store.port), "publish", "demo:broadcast:foobar", text], check=True, capture_output=True
            )
            while (message := client.receive()) == "beat":
                pass
            assert message == text
        assert gateway.stop() == 0
    finally:
        store.stop()


def test_a_written_file_passes_the_check_of_the_gateway(tmp_path):
    store = RedisServer()
    try:
        file = tmp_path / "settings.toml"
        variables = VARIABLES | {"redis": f"{store.url}/1", "database": tmp_path / "db"}
        code, output = manage("ws4redis_settings", "--output", str(file), **variables)
        assert code == 0, output
        done = subprocess.run(
            [BINARY, "--settings", file, "check"], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "demo:broadcast:" in done.stdout
        code, output = manage("ws4redis", "check", **variables)
        assert code == 0, output
        assert "demo:broadcast:" in output
    finally:
        store.stop()
