"""A recording proxy for client connections, and programs run as from a shell."""

import os
import pty
import queue
import re
import signal
import socket
import subprocess
import threading
import time

from harness import DEADLINE, clean_environment, until

PONG = 0x8A


class Wire:
    """A proxy in front of a gateway that records handshakes and serves `files`: path -> (type, text)."""

    def __init__(self, port, files=()):
        self.backend = port
        self.files = dict(files)
        self.heads = []
        """Pairs of request head and response head, in the order of the responses."""
        self.pongs = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._relay, args=[near], daemon=True).start()

    def _relay(self, near):
        far = socket.create_connection(("127.0.0.1", self.backend), DEADLINE)
        far.settimeout(None)
        with near, far:
            head = self._head(near)
            request = head.partition(b"\r\n\r\n")[0].decode("latin-1")
            if file := self.files.get(request.split(" ")[1] if head else ""):
                kind, text = file[0], file[1].encode()
                answer = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}"
                near.sendall(f"{answer}\r\n\r\n".encode() + text)
                return
            far.sendall(head)
            answer = self._head(far)
            near.sendall(answer)
            self.heads.append((request, answer.partition(b"\r\n\r\n")[0].decode("latin-1")))
            threading.Thread(target=self._pump, args=[near, far, True], daemon=True).start()
            self._pump(far, near)

    def _head(self, source):
        """Reads the head and the bytes that arrived with it."""
        head = b""
        while b"\r\n\r\n" not in head and (piece := source.recv(65536)):
            head += piece
        return head

    def _pump(self, source, target, client=False):
        try:
            while piece := source.recv(65536):
                # An idle client sends a pong in a read of its own.
                self.pongs += client and piece[0] == PONG
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def connected(self, deadline, program):
        """Waits for the next client; returns its request head and response head."""
        until(lambda: len(self.heads) > 0 or program.process.poll() is not None, True, "a client", deadline)
        assert self.heads, f"the program has ended: {program.end()}"
        return self.heads.pop(0)

    def answers_a_ping(self):
        before = self.pongs
        until(lambda: self.pongs, lambda count: count > before, "a pong")

    def close(self):
        self.listener.close()


class Program:
    """A program with its child processes; with `terminal` it runs in a pseudo-terminal instead of pipes."""

    def __init__(self, command, directory, terminal=False, **environment):
        environment = {"PYTHONUNBUFFERED": 1, "HOME": directory, "NO_COLOR": 1, "TERM": "dumb"} | environment
        self.terminal, far = pty.openpty() if terminal else (None, None)
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env=clean_environment(**environment),
            stdin=far if terminal else subprocess.PIPE,
            stdout=far if terminal else subprocess.PIPE,
            stderr=far if terminal else subprocess.STDOUT,
            start_new_session=True,
        )
        if terminal:
            os.close(far)
        self.pieces = queue.Queue()
        self.seen = ""
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self):
        descriptor = self.process.stdout.fileno() if self.terminal is None else self.terminal
        try:
            while piece := os.read(descriptor, 65536):
                self.pieces.put(piece)
        except OSError:
            pass
        self.pieces.put(None)

    def type(self, line):
        if self.terminal is None:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()
        else:
            os.write(self.terminal, f"{line}\r".encode())

    def expect(self, pattern, deadline=DEADLINE):
        """Reads up to the first match of the pattern; returns the match."""
        end = time.monotonic() + deadline
        while not (found := re.search(pattern, self.seen)):
            try:
                piece = self.pieces.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} within {deadline} s, only {self.seen[-2000:]!r}") from None
            assert piece is not None, f"the program ended without {pattern!r}: {self.seen[-2000:]!r}"
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", piece.decode(errors="replace"))
        self.seen = self.seen[found.end() :]
        return found

    def end(self, deadline=DEADLINE):
        """Waits for its end; returns the exit code and the remaining output."""
        code = self.process.wait(deadline)
        self.reading.join(deadline)
        while (piece := self.pieces.get(timeout=deadline)) is not None:
            self.seen += piece.decode(errors="replace")
        return code, self.seen

    def stop(self):
        # The process group exists as long as the program was not reaped, so the id cannot be reused.
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        if self.terminal is not None:
            os.close(self.terminal)
