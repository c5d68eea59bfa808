"""Keep a gateway as a child of `manage.py runserver`, and pass connections to it.

The keeper lives in the process that Django's autoreloader does not restart, so a reload keeps the sockets. The server
process sends it the settings of the gateway and the clients' connections, as descriptors over a socket pair.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from ws4redis import binary

# Messages of the server process: one byte, with a descriptor.
SETTINGS: Final = b"S"
CLIENT: Final = b"C"

# Time for the gateway to listen, and to end.
START_SECONDS: Final = 10.0
END_SECONDS: Final = 3.0
# A gateway that ends sooner after its start is not started again before the settings change.
MIN_UPTIME_SECONDS: Final = 2.0
RESTART_SECONDS: Final = 1.0
# A gateway that has not reached Redis after this time answers for itself.
REDIS_SECONDS: Final = 3.0
# Largest request head; the gateway refuses more than 1 MiB itself.
MAX_HEAD_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 1 << 16
POLL_SECONDS: Final = 0.02
CLOSE_ON_EXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

# runserver itself says that there is an embedded store.
LOG_LEVELS: Final = "warn,ws4redis::server::embedded_store=error"

UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 27\r\n\r\nthe gateway does not run.\r\n"
)


class Keeper:
    """A thread with an event loop that runs one gateway.

    Attributes:
        server_end: The end of the socket pair for the server process, inheritable.
    """

    def __init__(self) -> None:
        """Create the socket pair; nothing runs yet."""
        self._channel, self.server_end = socket.socketpair()
        self._channel.setblocking(False)
        os.set_inheritable(self.server_end.fileno(), True)
        self._address = str(_private_folder() / secrets.token_hex(8))
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        # Set once the gateway answers, which then has Redis.
        self._is_ready = False
        self._configuration: dict[str, Any] | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="ws4redis-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the gateway, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS + 2)
        self.server_end.close()

    def _run(self) -> None:
        self._loop.add_reader(self._channel, self._receive)
        try:
            self._loop.run_forever()
        finally:
            self._end_gateway()
            self._loop.run_until_complete(self._end_tasks())
            self._loop.close()
            self._channel.close()
            # Left by a gateway that was killed.
            with contextlib.suppress(OSError):
                os.unlink(self._address)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        # Without tasks, gather() needs a loop that runs in this thread.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _receive(self) -> None:
        try:
            kind, descriptors = _receive_descriptors(self._channel)
        except (BlockingIOError, InterruptedError):
            return
        if not kind:
            self._loop.remove_reader(self._channel)
            return
        for descriptor in descriptors:
            # Where the flag does not exist. Django's reloader may start a child meanwhile, with all that is inheritable.
            os.set_inheritable(descriptor, False)
            if kind == SETTINGS:
                self._apply(descriptor)
            else:
                task = self._loop.create_task(self._serve(socket.socket(fileno=descriptor)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    # ---- The gateway -------------------------------------------------------------------------------------------------

    def _apply(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            configuration = json.load(file)
        is_running = self._process is not None and self._process.poll() is None
        if is_running and configuration == self._configuration:
            return
        if is_running:
            _say("the settings have changed; the gateway is started again")
        self._end_gateway()
        self._configuration = configuration
        self._start_gateway()

    def _start_gateway(self) -> None:
        if self._configuration is None:
            return
        command = [
            self._configuration["binary"],
            "--end-with-stdin",
            *("--set", f"server.listen=unix:{self._address}", "--set", "server.unix_mode=0600"),
        ]
        try:
            pipe = binary.settings_pipe(self._configuration["settings"])
        except (OSError, ValueError) as error:
            _say(f"the gateway cannot be started: {error}")
            return
        try:
            self._process = subprocess.Popen(
                [*command, "--settings", f"/dev/fd/{pipe}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[pipe],
                env={"RUST_LOG": LOG_LEVELS, **os.environ},
                # Ctrl-C at the terminal is for runserver, which then closes the gateway's standard input.
                start_new_session=True,
            )
        except OSError as error:
            _say(f"{command[0]} does not run here: {error}. {binary.HOW_TO_GET_IT}")
            return
        finally:
            os.close(pipe)
        self._started = time.monotonic()
        self._is_ready = False
        threading.Thread(target=self._watch, args=[self._process], daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        # The loop is closed if runserver has ended first.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_end, process, code)

    def _on_end(self, process: subprocess.Popen[bytes], code: int) -> None:
        if process is not self._process:
            return
        self._close_stdin(process)
        self._process = None
        if time.monotonic() - self._started < MIN_UPTIME_SECONDS:
            _say(
                f"the gateway ended with {code}; pages get no WebSockets until its settings change, or runserver restarts"
            )
        else:
            _say(f"the gateway ended with {code}; it is started again")
            self._loop.call_later(RESTART_SECONDS, self._restart)

    def _restart(self) -> None:
        if self._process is None:
            self._start_gateway()

    def _end_gateway(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._close_stdin(process)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @staticmethod
    def _close_stdin(process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    # ---- Connections -------------------------------------------------------------------------------------------------

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=client, limit=MAX_HEAD_BYTES)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            gateway = await self._connect()
            if gateway is None:
                writer.write(UNAVAILABLE)
                await writer.drain()
                return
            gateway_reader, gateway_writer = gateway
            try:
                gateway_writer.write(head_for_gateway(head))
                await asyncio.gather(_copy(reader, gateway_writer), _copy(gateway_reader, writer))
            finally:
                await _close(gateway_writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The client, or the gateway, has gone.
            pass
        finally:
            await _close(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the gateway; wait for one that has just been started, and for its connection to Redis."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if (
                    self._is_ready
                    or await self._has_redis()
                    or time.monotonic() > self._started + REDIS_SECONDS
                ):
                    self._is_ready = True
                    return await asyncio.open_unix_connection(self._address)
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def _has_redis(self) -> bool:
        """Ask the gateway for an event stream, which it refuses with 503 without Redis."""
        reader, writer = await asyncio.open_unix_connection(self._address)
        try:
            writer.write(self._probe)
            status = await reader.readline()
            return bool(status) and b" 503 " not in status
        finally:
            writer.close()

    @property
    def _probe(self) -> bytes:
        path = (self._configuration or {}).get("path", "/")
        target = f"{path}ws4redis-probe?subscribe-broadcast&client=ws4redis"
        return f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()


def _receive_descriptors(channel: socket.socket) -> tuple[bytes, list[int]]:
    # socket.recv_fds() ignores its flags.
    found = array.array("i")
    kind, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_LEN(found.itemsize), CLOSE_ON_EXEC)
    for level, form, data in ancillary:
        if level == socket.SOL_SOCKET and form == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return kind, found.tolist()


def _private_folder() -> Path:
    """Return a folder for sockets that only this user can enter: one for all runs, since a kill leaves no time to remove it."""
    folder = Path(tempfile.gettempdir()) / f"ws4redis-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    # Another user was faster.
    return Path(tempfile.mkdtemp(prefix="ws4redis-"))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        # The other direction may go on, as when a client only reads.
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def head_for_gateway(head: bytes) -> bytes:
    """Return the head of a request for the gateway: the connection serves no second request, which may be for Django."""
    first, *lines = head.split(b"\r\n")[:-2]
    if any(line.lower().startswith(b"upgrade:") for line in lines):
        return head
    kept = [line for line in lines if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])


def _say(text: str) -> None:
    # Django's OutputWrapper belongs to the command, and this is a thread.
    print(f"ws4redis: {text}", file=sys.stderr, flush=True)
