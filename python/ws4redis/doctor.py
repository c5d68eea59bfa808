"""Compares Django's settings with what Redis and the running gateways say; used by `manage.py ws4redis_doctor`."""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core import checks

from ws4redis import connection, identity, session_engine, settings, testing
from ws4redis.redis_store import RedisStore

# In the test session: the nonce of the question. A gateway answers for sessions with this field only.
PROBE = "ws4redis:doctor"
# How long the test session lives if the doctor is interrupted before deleting it.
PROBE_SECONDS = 60

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    text: str


class Doctor:
    """One examination. `wait_seconds` is how long gateways have for their answers."""

    def __init__(self, wait_seconds: float = 2.0) -> None:
        """Asks nobody yet."""
        self.wait_seconds = wait_seconds
        self.nonce = secrets.token_hex(16)
        self.engine = session_engine.describe()

    def examine(self) -> Iterator[Finding]:
        """Yields what it finds, in order; raises nothing for a Redis that is gone."""
        yield from self._system_checks()
        if testing.is_muted():
            yield Finding(WARNING, "this is a test run: Redis and gateways are not asked")
            return
        try:
            client = connection.client()
            version = client.info("server").get("redis_version", "of unknown version")
            yield Finding(OK, f"Redis {version} answers")
        except redis.exceptions.NoPermissionError:
            yield Finding(OK, "Redis answers")
        except (redis.RedisError, TypeError, ValueError) as error:
            yield Finding(ERROR, f"Redis cannot be reached by WS4REDIS_CONNECTION: {error}")
            return
        try:
            yield from self._pub_sub_and_gateways(client)
        except redis.RedisError as error:
            yield Finding(ERROR, f"Redis refused: {error}")

    def needed(self) -> dict[str, str]:
        """Returns what the gateway has to be set to, as far as Django knows: prefix, cookie, keys …"""
        engine = self.engine
        values = "signed with SECRET_KEY" if engine.signed else "as the cache writes them"
        return {
            "Redis": _address(),
            "prefix": settings.WS4REDIS_PREFIX or "",
            "websocket_url": settings.WEBSOCKET_URL,
            "heartbeat": settings.WS4REDIS_HEARTBEAT or "",
            "session cookie": django_settings.SESSION_COOKIE_NAME,
            "session key in Redis": engine.template or "none: use the callback",
            "session values": values if engine.template else "not in Redis",
        }

    def _system_checks(self) -> Iterator[Finding]:
        found = [m for m in checks.run_checks(tags=["ws4redis"]) if not m.is_silenced()]
        for message in found:
            level = ERROR if message.level >= checks.ERROR else WARNING
            yield Finding(level, f"{message.msg}" + (f" {message.hint}" if message.hint else ""))
        if not found:
            yield Finding(OK, "manage.py check finds nothing in the settings")

    def _pub_sub_and_gateways(self, client: redis.Redis) -> Iterator[Finding]:
        session = None
        with client.pubsub(ignore_subscribe_messages=True) as ear:
            ear.subscribe(f"{RedisStore.get_prefix()}ws4redis:doctor:{self.nonce}")
            # The confirmation: from here on no answer is missed.
            ear.get_message(timeout=self.wait_seconds)
            try:
                session, findings = self._test_session()
                yield from findings
                question = {"v": identity.FORMAT, "doctor": self.nonce}
                if session is not None and self.engine.obstacle is None:
                    question["session"] = session.session_key
                asked: Any = client.publish(
                    identity.control_channel(), json.dumps(question, separators=(",", ":"))
                )
                answers = list(self._answers(ear, asked)) if asked else []
            finally:
                if session is not None:
                    session.delete()
        yield from self._gateways(client, asked, answers)
        for answer in answers:
            yield from self._compare(answer)

    def _test_session(self) -> tuple[Any, list[Finding]]:
        """Stores a session as Django does, and looks for it in Redis as the gateway will."""
        if self.engine.obstacle is not None:
            level = OK if settings.WS4REDIS_CALLBACK_SECRET else ERROR
            return None, [Finding(level, f"{self.engine.obstacle}: the gateway needs auth.callback_url")]
        try:
            session = session_engine.store_class()()
            session[PROBE] = self.nonce
            session.set_expiry(PROBE_SECONDS)
            session.create()
            session.save()
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is the finding
            return None, [Finding(ERROR, f"no session can be stored by {self.engine.name}: {error}")]
        name = str(self.engine.template).replace("{key}", session.session_key)
        shown = self.engine.template
        if self.engine.url is None:
            return session, [
                Finding(WARNING, f"sessions should be at {shown}, in a Redis that cannot be told")
            ]
        try:
            url = self.engine.url
            found = redis.Redis.from_url(url, socket_timeout=connection.REPLY_TIMEOUT_SECONDS).exists(name)
        except (redis.RedisError, ValueError) as error:
            return session, [
                Finding(WARNING, f"sessions should be at {shown}; could not look there: {error}")
            ]
        if not found:
            return session, [Finding(ERROR, f"a session just stored is not at {shown}")]
        return session, [Finding(OK, f"a session just stored is at {shown}"), *self._same_redis(name)]

    def _same_redis(self, name: str) -> list[Finding]:
        if connection.client().exists(name):
            return []
        return [
            Finding(
                WARNING,
                "sessions are not in the Redis database of WS4REDIS_CONNECTION: "
                "the gateway needs the address of their Redis, too",
            )
        ]

    def _answers(self, ear: Any, expected: int) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + self.wait_seconds
        while expected > 0 and (left := end - time.monotonic()) > 0:
            message = ear.get_message(timeout=left)
            if message is None:
                continue
            expected -= 1
            try:
                answer = json.loads(message["data"])
            except ValueError:
                continue
            if isinstance(answer, dict):
                yield answer

    def _gateways(self, client: redis.Redis, asked: int, answers: list[Any]) -> Iterator[Finding]:
        if answers:
            yield Finding(OK, f"{len(answers)} of {asked} listeners on {identity.control_channel()} answered")
        elif asked:
            yield Finding(
                WARNING,
                f"{asked} listeners on {identity.control_channel()}, but no answer: "
                "is the gateway older than this package? Compare its settings by hand, see below",
            )
        else:
            yield Finding(
                ERROR,
                f"no gateway listens on {identity.control_channel()} of this Redis: "
                "it is not running, has another Redis, or is older than this package",
            )
            others = _other_prefixes(client)
            if others:
                prefixes = ", ".join(repr(prefix) for prefix in others)
                yield Finding(
                    ERROR, f"gateways listen with the prefix {prefixes}; WS4REDIS_PREFIX is another"
                )

    def _compare(self, answer: dict[str, Any]) -> Iterator[Finding]:
        who = f"gateway {str(answer.get('server', 'without a name'))[:80]}"
        wrong = False
        for name, mine in (
            ("websocket_url", settings.WEBSOCKET_URL),
            ("heartbeat", settings.WS4REDIS_HEARTBEAT or ""),
            ("cookie", django_settings.SESSION_COOKIE_NAME),
        ):
            theirs = answer.get(name, mine)
            if theirs != mine:
                wrong = True
                yield Finding(ERROR, f"{who}: {name} is {theirs!r} there and {mine!r} here")
        problem = _probe_problem(answer.get("probe"), answer.get("keys"), self.engine)
        if problem is not None:
            wrong = True
            yield Finding(ERROR, f"{who}: {problem}")
        if self.engine.obstacle is not None and answer.get("callback") is False:
            wrong = True
            yield Finding(ERROR, f"{who}: auth.callback_url is not set")
        proof = answer.get("callback_proof")
        if isinstance(proof, str) and not any(
            hmac.compare_digest(proof.encode(), mine.encode()) for mine in self._proofs()
        ):
            wrong = True
            yield Finding(ERROR, f"{who}: its secret for the callback is not WS4REDIS_CALLBACK_SECRET")
        if not wrong:
            yield Finding(OK, f"{who}: everything fits")

    def _proofs(self) -> list[str]:
        given: Any = settings.WS4REDIS_CALLBACK_SECRET or ()
        message = f"ws4redis:doctor:{self.nonce}".encode()
        texts = [given] if isinstance(given, str) else given
        return [hmac.new(text.encode(), message, "sha256").hexdigest() for text in texts]


def _probe_problem(probe: Any, keys: Any, engine: session_engine.SessionEngine) -> str | None:
    if probe == "missing":
        return f"found no session; it looks at {keys!r}, and Django writes to {engine.template}"
    if probe == "refused":
        return "the session's signature does not fit: it has another SECRET_KEY, or none"
    if probe == "unreadable":
        return f"found the session at {engine.template}, and could not read it"
    return None


def _address() -> str:
    # Never the whole of it: there may be a password in it.
    try:
        about = connection.pool().connection_kwargs
    except (TypeError, ValueError):
        return "not known"
    where = about.get("path") or f"{about.get('host', 'localhost')}:{about.get('port', 6379)}"
    return f"{where}, database {about.get('db', 0)}"


def _other_prefixes(client: redis.Redis) -> list[str]:
    try:
        channels: Any = client.pubsub_channels("*ws4redis:control")
    except redis.RedisError:
        return []
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in channels]
    return sorted(name[: -len("ws4redis:control")].rstrip(":") for name in names)
