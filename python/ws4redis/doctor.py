"""Comparison of Django's settings with Redis and the running gateways, for `manage.py ws4redis_doctor`."""

from __future__ import annotations

import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings as django_settings
from django.core import checks

from ws4redis import (
    channels,
    connection,
    facilities,
    gateway_settings,
    handshake,
    history,
    identity,
    pages,
    session_engine,
    settings,
    testing,
)
from ws4redis.development import IDENTITY_PATH
from ws4redis.redis_store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.contrib.sessions.backends.base import SessionBase
    from redis.client import PubSub

# Field of the test session; its value is the nonce. A gateway reports on sessions with this field only.
PROBE = "ws4redis:doctor"
# Lifetime of the test session if an interrupt prevents its deletion.
PROBE_SECONDS = 60
# Longest message on the control channel that a gateway reads.
MAX_QUERY_BYTES = 4 * 1024

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: `OK`, `WARNING` or `ERROR`.
        text: The problem, its consequence, and its cure.
    """

    level: str
    text: str


class Doctor:
    """One examination of the settings, Redis and the running gateways."""

    def __init__(
        self, wait_seconds: float = 2.0, site: str | None = None, facility: str = handshake.FACILITY
    ) -> None:
        """Prepare an examination; it sends nothing yet.

        Args:
            wait_seconds: Time that gateways have to answer, in seconds.
            site: Address of the site as in a browser, where a handshake is attempted. None: nowhere.
            facility: The facility of that handshake.
        """
        self.wait_seconds = wait_seconds
        self.site = site
        self.facility = facility
        self.errors = 0
        self.facilities: dict[str, str] = {}
        # Findings that do not apply if all gateways are those of runserver, which asks the site by itself.
        self._unless_runserver: list[Finding] = []
        self.nonce = secrets.token_hex(16)
        self.engine = session_engine.describe()

    def examine(self) -> Iterator[Finding]:
        """Yield the findings in their order. An unreachable Redis is a finding, not an exception."""
        for finding in self._examine():
            # Nothing is said to match while something is known not to.
            self.errors += finding.level == ERROR
            yield finding
        # No gateway was asked.
        yield from self._unless_runserver

    def _examine(self) -> Iterator[Finding]:
        yield from self._system_checks()
        if testing.is_muted():
            yield Finding(WARNING, "this is a test run; Redis and the gateways are not queried")
            return
        try:
            client = connection.client()
            about: Any = client.info("server")
            yield _server(about)
        except redis.exceptions.NoPermissionError:
            yield Finding(OK, "Redis answers")
        except (redis.RedisError, TypeError, ValueError) as error:
            yield Finding(ERROR, f"Redis is unreachable with WS4REDIS_CONNECTION: {error}")
            return
        try:
            yield from self._histories(client)
            yield from self._pub_sub_and_gateways(client)
        except redis.RedisError as error:
            yield Finding(ERROR, f"Redis refused a command: {error}")

    def settings_file(self) -> str:
        """Return the settings that the gateway needs as TOML, as far as Django's settings determine them.

        Secrets are left out; comments say where they belong. The result is valid TOML in any case.
        """
        try:
            derived = gateway_settings.derive()
        except (ImportError, TypeError, ValueError) as error:
            return f"# unknown: {' '.join(str(error).split())}\n"
        notes = [f"# {note}." for note in derived.notes]
        if "channels.layer" not in derived.values:
            notes += [
                f"# {name}: {value}, if [[channels.groups]] rules are set"
                for name, value in channel_layer().items()
            ]
        return "\n".join([derived.as_toml(secrets=False).rstrip("\n"), *notes]) + "\n"

    def _system_checks(self) -> Iterator[Finding]:
        found = checks.run_checks(tags=["ws4redis"])
        if self.site is not None and self.site.startswith("https:"):
            found += pages.plain_addresses()
        found = [message for message in found if not message.is_silenced()]
        for message in found:
            level = ERROR if message.level >= checks.ERROR else WARNING
            finding = Finding(level, f"{message.msg}" + (f" {message.hint}" if message.hint else ""))
            if message.id == "ws4redis.W006":
                self._unless_runserver.append(finding)
            else:
                yield finding
        if not found:
            yield Finding(OK, "manage.py check finds no problem in the settings")

    def _histories(self, client: redis.Redis) -> Iterator[Finding]:
        try:
            estimates = list(history.estimates())
        except ValueError:
            # A system check reports it.
            return
        for estimate in estimates:
            yield Finding(OK, estimate)
        if estimates:
            try:
                history.probe(client, RedisStore.get_prefix())
            except history.HistoryRefused as error:
                yield Finding(ERROR, str(error))

    def _pub_sub_and_gateways(self, client: redis.Redis) -> Iterator[Finding]:
        session = None
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(f"{RedisStore.get_prefix()}ws4redis:doctor:{self.nonce}")
            # Waits for the confirmation; from then on no answer is missed.
            pubsub.get_message(timeout=self.wait_seconds)
            try:
                session, findings = self._store_test_session()
                yield from findings
                listeners: Any = client.publish(identity.control_channel(), self._query(session))
                answers = list(self._answers(pubsub, listeners)) if listeners else []
                yield from self._callback(answers)
                yield from self._handshake(session)
            finally:
                if session is not None:
                    session.delete()
        yield from self._report_listeners(client, listeners, len(answers))
        for answer in answers:
            yield from self._compare(answer)

    def _query(self, session: SessionBase | None) -> str:
        query: dict[str, Any] = {"v": identity.FORMAT, "doctor": self.nonce}
        if session is not None and self.engine.obstacle is None:
            query["session"] = str(session.session_key)
        remaining = MAX_QUERY_BYTES - len(_compact(query)) - len(',"facilities":[]')
        for name, place in sorted(facilities.named().items()):
            remaining -= len(_compact(name)) + 1
            # Gateways ignore longer queries.
            if remaining >= 0:
                self.facilities[name] = place
        return _compact({**query, "facilities": list(self.facilities)})

    def _callback(self, answers: list[dict[str, Any]]) -> Iterator[Finding]:
        """Yield what sessions outside of Redis need, once it is known whose gateways answer."""
        late, self._unless_runserver = self._unless_runserver, []
        if answers and all(_is_of_runserver(answer) for answer in answers):
            if self.engine.obstacle is not None:
                yield Finding(OK, f"{self.engine.obstacle}; the gateway of manage.py runserver asks the site")
            return
        yield from late
        if self.engine.obstacle is None:
            return
        if not answers and django_settings.DEBUG and not settings.WS4REDIS_CALLBACK_SECRET:
            text = "manage.py runserver sets auth.callback_url in its gateway, any other needs it"
            yield Finding(WARNING, f"{self.engine.obstacle}; {text}")
            return
        level = OK if settings.WS4REDIS_CALLBACK_SECRET else ERROR
        yield Finding(level, f"{self.engine.obstacle}; the gateway needs auth.callback_url")

    def _handshake(self, session: SessionBase | None) -> Iterator[Finding]:
        if self.site is None:
            yield Finding(OK, "no handshake was tested; --site https://www.example.com tests one")
            return
        key = str(session.session_key) if session is not None else None
        result = handshake.attempt(self.site, key, self.facility)
        cookie = "with a session" if key is not None else "without a session"
        if result.problem is None:
            yield Finding(OK, f"a page of {self.site} opens {result.url}, {cookie}")
        elif result.is_refused_by_rules:
            yield Finding(
                WARNING,
                f"the [[access]] rules of the gateway do not admit {result.url}, {cookie}; its Origin was not compared. "
                "Name a facility that they admit: --facility NAME. Where they admit users only, log in and open a page: "
                "the doctor has no user",
            )
        else:
            yield Finding(
                ERROR, f"a page of {self.site} cannot open {result.url}, {cookie}: {result.problem}"
            )

    def _store_test_session(self) -> tuple[SessionBase | None, list[Finding]]:
        """Store a session as Django does, and look it up in Redis as the gateway does."""
        if self.engine.obstacle is not None:
            return None, []
        try:
            session = session_engine.store_class()()
            session[PROBE] = self.nonce
            session.set_expiry(PROBE_SECONDS)
            session.create()
            session.save()
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the error is the finding
            return None, [Finding(ERROR, f"{self.engine.name} cannot store a session: {error}")]
        name = str(self.engine.template).replace("{key}", str(session.session_key))
        shown = self.engine.template
        if self.engine.url is None:
            reason = f" ({self.engine.url_problem})" if self.engine.url_problem else ""
            return session, [Finding(WARNING, f"sessions should be at {shown}, in an unknown Redis{reason}")]
        try:
            with connection.single_use(self.engine.url) as client:
                found = client.exists(name)
        except (redis.RedisError, ValueError) as error:
            return session, [
                Finding(WARNING, f"sessions should be at {shown}, but the lookup failed: {error}")
            ]
        if not found:
            return session, [Finding(ERROR, f"a session that was just stored is not at {shown}")]
        return session, [
            Finding(OK, f"a session that was just stored is at {shown}"),
            *self._same_redis(name),
        ]

    def _same_redis(self, name: str) -> list[Finding]:
        if connection.client().exists(name):
            return []
        return [
            Finding(
                WARNING,
                "sessions are not in the Redis database of WS4REDIS_CONNECTION; "
                "set session.redis_url of the gateway to the address of their Redis",
            )
        ]

    def _answers(self, pubsub: PubSub, expected: int) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + self.wait_seconds
        while expected > 0 and (remaining := end - time.monotonic()) > 0:
            message = pubsub.get_message(timeout=remaining)
            if message is None:
                continue
            expected -= 1
            try:
                answer = json.loads(message["data"])
            except ValueError:
                continue
            if isinstance(answer, dict):
                yield answer

    def _report_listeners(self, client: redis.Redis, listeners: int, answered: int) -> Iterator[Finding]:
        channel = identity.control_channel()
        if answered:
            yield Finding(OK, f"{answered} of {listeners} listeners on {channel} answered")
        elif listeners:
            yield Finding(
                WARNING,
                f"{listeners} listeners on {channel}, but no answer; "
                "the gateway may be older than this package. Compare its settings with those below",
            )
        else:
            yield Finding(
                ERROR,
                f"no gateway listens on {channel} of this Redis; "
                "it is not running, uses another Redis, or is older than this package",
            )
            others = _other_prefixes(client)
            if others:
                prefixes = ", ".join(repr(prefix) for prefix in others)
                yield Finding(
                    ERROR, f"gateways listen with the prefix {prefixes}; WS4REDIS_PREFIX is different"
                )

    def _compare(self, answer: dict[str, Any]) -> Iterator[Finding]:
        gateway = f"gateway {str(answer.get('server', 'without a name'))[:80]}"
        matches = True
        for name, ours in (
            ("websocket_url", settings.WEBSOCKET_URL),
            ("heartbeat", settings.heartbeat_text() or ""),
            ("cookie", django_settings.SESSION_COOKIE_NAME),
        ):
            theirs = answer.get(name, ours)
            if theirs != ours:
                matches = False
                yield Finding(ERROR, f"{gateway}: {name} is {theirs!r} in the gateway and {ours!r} in Django")
        difference = _history_difference(answer.get("history"))
        if difference is not None:
            matches = False
            yield Finding(ERROR, f"{gateway}: {difference}")
        problem = _probe_problem(answer.get("probe"), answer.get("keys"), self.engine)
        if problem is not None:
            matches = False
            yield Finding(ERROR, f"{gateway}: {problem}")
        if self.engine.obstacle is not None and answer.get("callback") is False:
            matches = False
            yield Finding(ERROR, f"{gateway}: auth.callback_url is not set")
        # runserver generates a secret for each run.
        proof = None if _is_of_runserver(answer) else answer.get("callback_proof")
        if isinstance(proof, str) and not any(
            hmac.compare_digest(proof.encode(), expected.encode()) for expected in self._callback_proofs()
        ):
            matches = False
            yield Finding(ERROR, f"{gateway}: its auth.callback_secret is not in WS4REDIS_CALLBACK_SECRET")
        for text in self._unreachable(answer):
            matches = False
            yield Finding(WARNING, f"{gateway}: {text}")
        for finding in _compare_features(answer):
            matches = False
            yield Finding(finding.level, f"{gateway}: {finding.text}")
        off = _features_off(answer)
        if off:
            yield Finding(OK, f"{gateway}: off there: {', '.join(off)}")
        if matches:
            yield Finding(OK, f"{gateway}: {self._praise(bool(off))}")

    def _unreachable(self, answer: dict[str, Any]) -> Iterator[str]:
        names = answer.get("unreachable")
        for name in names if isinstance(names, list) else []:
            place = self.facilities.get(name)
            if place is not None:
                yield (
                    f"its [[access]] rules let nobody subscribe to the facility {name!r}, and {place} there; name it in a "
                    "rule with a subscribe- flag"
                )

    def _praise(self, has_features_off: bool) -> str:
        if self.errors:
            return "what it answers matches Django's settings; the errors above remain"
        return "the settings of what is on match" if has_features_off else "all settings match"

    def _callback_proofs(self) -> list[str]:
        setting: str | Iterable[str] = settings.WS4REDIS_CALLBACK_SECRET or ()
        message = f"ws4redis:doctor:{self.nonce}".encode()
        return [
            hmac.new(secret.encode(), message, "sha256").hexdigest()
            for secret in ([setting] if isinstance(setting, str) else setting)
        ]


def _is_of_runserver(answer: dict[str, Any]) -> bool:
    """Return True if `runserver` has started the gateway, and answers its questions for visitors."""
    return answer.get("callback_path") == IDENTITY_PATH


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _server(about: dict[str, Any]) -> Finding:
    version = about.get("redis_version", "of unknown version")
    embedded = about.get("embedded_store")
    if embedded is None:
        return Finding(OK, f"Redis {version} answers")
    if isinstance(embedded, list):
        # redis-py splits the values of INFO at commas.
        embedded = ",".join(embedded)
    return Finding(
        OK if django_settings.DEBUG else WARNING,
        f"the embedded store of a gateway answers ({embedded}), no Redis; messages are lost when that gateway ends, and "
        "sessions unless embedded.snapshot_file keeps them, as with runserver. On a server start Redis before it, and set "
        "redis.url",
    )


def _compare_features(answer: dict[str, Any]) -> Iterator[Finding]:
    """Yield what does not fit between Django and the gateway's events and Socket.IO. Older gateways report neither."""
    theirs, ours = answer.get("events"), settings.WS4REDIS_EVENTS
    if theirs is None:
        return
    is_chosen = ours != settings.DEFAULTS["WS4REDIS_EVENTS"]
    # Channels are for readers other than the worker.
    if theirs.startswith("channel:"):
        yield Finding(WARNING, f"events.to is {theirs!r} in the gateway, which ws4redis_worker cannot read")
    elif theirs != ours and (theirs or is_chosen):
        yield Finding(ERROR, f"events.to is {theirs!r} in the gateway and WS4REDIS_EVENTS {ours!r} in Django")
    channel = settings.WS4REDIS_SOCKETIO_CHANNEL
    is_chosen = channel != settings.DEFAULTS["WS4REDIS_SOCKETIO_CHANNEL"]
    channels = answer.get("socketio_channels", [])
    if channel not in channels and (channels or is_chosen):
        yield Finding(
            ERROR,
            f"socketio.redis_manager.channels are {channels!r} in the gateway, without {channel!r}, "
            "which is WS4REDIS_SOCKETIO_CHANNEL in Django",
        )


def _features_off(answer: dict[str, Any]) -> list[str]:
    """Return the features that are off in the gateway, each with its consequence."""
    consequences = {
        "socketio": "Socket.IO (socketio.enabled), so Emitter reaches nobody",
        "events": "events (events.to), so ws4redis_worker gets nothing",
        "presence": "presence ([[presence]] or events), so is_online() is always False",
    }
    return [text for name, text in consequences.items() if name in answer and not answer[name]]


def _probe_problem(probe: object, keys: object, engine: session_engine.SessionEngine) -> str | None:
    if probe == "missing":
        return f"found no session; it reads {keys!r}, and Django writes to {engine.template}"
    if probe == "refused":
        return "the signature of the session is invalid there; the gateway needs the SECRET_KEY of this site"
    if probe == "unreadable":
        return f"cannot read the session at {engine.template}"
    return None


def _history_difference(theirs: object) -> str | None:
    try:
        ours = [rule.as_table() for rule in history.rules()]
    except ValueError:
        return None
    # Older gateways do not report their tables.
    if theirs is None or theirs == ours:
        return None
    shown = json.dumps(theirs, ensure_ascii=False)[:400]
    return (
        f"[[history]] is {shown} in the gateway, and WS4REDIS_HISTORY is {json.dumps(ours, ensure_ascii=False)}; "
        "messages of Django and of browsers are kept differently"
    )


def channel_layer() -> dict[str, str]:
    """Return what the gateway's `[channels]` needs for the site's channel layer; empty without one."""
    try:
        return channels.gateway_settings()
    except (ImportError, TypeError, ValueError) as error:
        return {"channels.layer": f"unknown: {error}"}


def _other_prefixes(client: redis.Redis) -> list[str]:
    try:
        channels: Any = client.pubsub_channels("*ws4redis:control")
    except redis.RedisError:
        return []
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in channels]
    return sorted(name[: -len("ws4redis:control")].rstrip(":") for name in names)
