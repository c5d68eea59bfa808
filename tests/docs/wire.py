"""What goes over a client's connection, and programs that are run as a person would run them."""

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
    """Stands between clients and a gateway, notes how they connect, and has files: types and texts by paths."""

    def __init__(self, port, files=()):
        self.behind = port
        self.files = dict(files)
        self.heads = []
        """Pairs of a request's head and its answer's, in the order of the answers."""
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
        far = socket.create_connection(("127.0.0.1", self.behind), DEADLINE)
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
        """The head, and whatever has come with it."""
        head = b""
        while b"\r\n\r\n" not in head and (piece := source.recv(65536)):
            head += piece
        return head

    def _pump(self, source, target, client=False):
        try:
            while piece := source.recv(65536):
                # A client that is idle sends nothing else together with it.
                self.pongs += client and piece[0] == PONG
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def connected(self, deadline, program):
        """Waits for the next client; returns the heads of its request and answer."""
        until(lambda: len(self.heads) > 0 or program.process.poll() is not None, True, "a client", deadline)
        assert self.heads, f"it has ended: {program.end()}"
        return self.heads.pop(0)

    def answers_a_ping(self):
        before = self.pongs
        until(lambda: self.pongs, lambda count: count > before, "a pong")

    def close(self):
        self.listener.close()


class Program:
    """A program with all that it starts; with `terminal` it sees a terminal in the place of pipes."""

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
        """Reads on to what fits the pattern; returns the match."""
        end = time.monotonic() + deadline
        while not (found := re.search(pattern, self.seen)):
            try:
                piece = self.pieces.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} within {deadline} s, only {self.seen[-2000:]!r}") from None
            assert piece is not None, f"it has ended without {pattern!r}: {self.seen[-2000:]!r}"
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", piece.decode(errors="replace"))
        self.seen = self.seen[found.end() :]
        return found

    def end(self, deadline=DEADLINE):
        """Waits for its end; returns the exit code and what it has said since."""
        code = self.process.wait(deadline)
        self.reading.join(deadline)
        while (piece := self.pieces.get(timeout=deadline)) is not None:
            self.seen += piece.decode(errors="replace")
        return code, self.seen

    def stop(self):
        # The group is its own, and lives at least as long as the program that has not been waited for.
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        if self.terminal is not None:
            os.close(self.terminal)
