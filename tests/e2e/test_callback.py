"""The identity callback: sessions that are not in Redis, tokens, and the site's own rules."""

import contextlib
import http.server
import ssl
import subprocess
import threading

import pytest
from websockets.exceptions import InvalidStatus

from harness import BINARY, DEADLINE, Gateway, RedisServer, clean_environment, unique
from test_sessions import NO_CHANNELS, JOHN, MARY, SESSION_ONLY, closed_sockets
from deployments import SiteKind, Deployment

SECRET = "what-gateway-and-site-share"
URL = "{site}/ws4redis/identity/"


def kind(name, sessions, gateway=None, **site):
    settings = {"auth__callback_url": URL, "auth__callback_secret": SECRET} | (gateway or {})
    return SiteKind(name, {"sessions": sessions, "callback_secret": SECRET, **site}, settings)


HTTPS = {"auth__callback_headers": "X-Forwarded-Proto: https"}
KINDS = [
    kind("callback+db", "db"),
    kind("callback+file", "file"),
    kind("callback+signed_cookies", "signed_cookies"),
    kind("callback+https_only", "db", HTTPS, ssl_redirect="1"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def started(request, database):
    deployment = Deployment(request.param, database(request.param))
    yield deployment
    deployment.stop()


@pytest.fixture
def deployment(started):
    started.reset()
    return started


@pytest.fixture(scope="module")
def rules(database):
    """A site that overrides the callback view."""
    kind_with_rules = kind("callback+rules", "db", {"auth__callback_url": "{site}/rules/"})
    deployment = Deployment(kind_with_rules, database(kind_with_rules))
    deployment.reset()
    yield deployment
    deployment.stop()


def refusal(deployment, facility, browser, **headers):
    """Returns the status of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused:
        deployment.connect(browser, facility, **headers)
    return refused.value.response.status_code


def test_a_login_has_its_own_channels_with_every_engine(deployment):
    john, mary, anonymous = deployment.browser("john"), deployment.browser("mary"), deployment.browser()
    # The cookie of this engine holds the session itself; it has no key.
    missing = SESSION_ONLY if deployment.kind.site["sessions"] == "signed_cookies" else set()
    assert deployment.channels_of_new_socket(john) == JOHN - missing
    assert deployment.channels_of_new_socket(mary) == MARY - missing
    assert deployment.channels_of_new_socket(anonymous) == NO_CHANNELS
    facility = unique()
    with deployment.connect(john, facility) as johns, deployment.connect(mary, facility) as marys:
        assert "user mary" not in deployment.channels_of(johns, facility, mary=mary.session_key)
        assert "user john" not in deployment.channels_of(marys, facility, john=john.session_key)


def test_an_anonymous_session_has_its_own_channel_and_a_forged_one_has_none(deployment):
    browser = deployment.browser()
    browser.get("/?set=something")
    # A signed-cookie session has no key, so no channel.
    in_cookie = deployment.kind.site["sessions"] == "signed_cookies"
    assert deployment.channels_of_new_socket(browser) == (NO_CHANNELS if in_cookie else SESSION_ONLY)
    for cookie in ("0" * 32, "x" * 32, "user:john:x"):
        facility = unique()
        forged = deployment.browser()
        forged.cookies = lambda cookie=cookie: f"sessionid={cookie}"
        with deployment.connect(forged, facility) as client:
            assert deployment.channels_of(client, facility, forged=cookie) == NO_CHANNELS


def test_a_change_that_ends_a_login_applies_to_the_next_socket(deployment):
    john, mary = deployment.browser("john"), deployment.browser("mary")
    old = john.copy()
    deployment.console.run("user = User.objects.get(username='mary'); user.is_active = False; user.save()")
    assert "user mary" not in deployment.channels_of_new_socket(mary)
    john.log_out()
    assert deployment.channels_of_new_socket(john) == NO_CHANNELS
    if deployment.kind.site["sessions"] != "signed_cookies":
        assert deployment.channels_of_new_socket(old) == NO_CHANNELS


def test_a_change_that_ends_a_login_closes_its_open_sockets(deployment):
    if deployment.kind.site["sessions"] == "signed_cookies":
        pytest.skip("only the browser can delete a signed-cookie session")
    phone, laptop, mary = deployment.browser("john"), deployment.browser("john"), deployment.browser("mary")
    with closed_sockets(deployment, mary):
        deployment.console.run("user = User.objects.get(username='mary'); user.set_password('new'); user.save()")
    with closed_sockets(deployment, phone):
        phone.log_out()
    assert deployment.channels_of_new_socket(laptop) == JOHN


def test_the_gateway_neither_changes_nor_prolongs_sessions(deployment):
    if deployment.kind.site["sessions"] == "signed_cookies":
        pytest.skip("the server stores nothing of a signed-cookie session")
    john = deployment.browser("john")
    read = "answer = dict(SessionStore(key).items())"
    if deployment.kind.site["sessions"] == "db":
        read += "\nfrom django.contrib.sessions.models import Session"
        read += "\nanswer['end'] = str(Session.objects.get(pk=key).expire_date)"
    before = deployment.console.run(read, key=john.session_key)
    for _ in range(3):
        assert deployment.channels_of_new_socket(john) == JOHN
    assert deployment.console.run(read, key=john.session_key) == before


def test_a_site_can_have_its_own_tokens_and_rules(rules):
    john, anonymous = rules.browser("john"), rules.browser()
    # A token without a cookie, and a token that overrides another user's cookie.
    for browser in (anonymous, john):
        facility = unique()
        with rules.connect(browser, facility, Authorization="Token mary") as client:
            assert rules.channels_of(client, facility) == MARY - SESSION_ONLY
    facility = unique("quiet/")
    with rules.connect(john, facility) as client:
        assert rules.channels_of(client, facility, john=john.session_key) == set()
    assert refusal(rules, "closed", john) == 403
    assert refusal(rules, "closed", anonymous) == 403


def test_a_site_can_refuse_unknown_visitors(rules):
    facility = unique("staff/")
    with (
        rules.connect(rules.browser("admin"), facility) as admins,
        rules.connect(rules.browser("john"), facility) as johns,
        rules.connect(rules.browser(), facility) as anonymous_client,
    ):
        assert rules.publish("for staff", facility, broadcast=True) > 0
        admins.expect("for staff")
        assert rules.publish("to john", facility, users=["john"]) == 0
        for client in (johns, anonymous_client):
            client.socket.ping().wait(DEADLINE)
            with pytest.raises(TimeoutError):
                client.socket.recv(timeout=0)


def check(**settings):
    """Returns the line of `ws4redis check` about the callback."""
    variables = {f"WS4REDIS_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        [BINARY, "check"],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("callback: ")]
    return line


def test_check_names_each_common_mistake(rules):
    origin = rules.site.origin
    right = {"auth__callback_url": f"{origin}/ws4redis/identity/", "auth__callback_secret": SECRET}
    assert check(**right).endswith("answered 200")
    for wrong, words in [
        (
            {"auth__callback_secret": "another"},
            "403 Forbidden; if it refuses every visitor, auth.callback_secret",
        ),
        ({"auth__callback_url": f"{origin}/ws4redis/identity"}, "points to /ws4redis/identity/"),
        (
            {"auth__callback_url": f"{origin}/nothing/"},
            "404 Not Found; auth.callback_url has to be the URL of the site's callback view",
        ),
        ({"auth__callback_url": f"{origin}/accounts/login/"}, "its answer is neither a JSON object nor null"),
        ({"auth__callback_headers": "Host: evil.example"}, "ALLOWED_HOSTS"),
        ({"auth__callback_url": "http://127.0.0.1:9/"}, "cannot be reached (Connection refused"),
        ({"auth__callback_url": "http://no.such.host.invalid/"}, "cannot be reached ("),
        ({"auth__callback_url": origin.replace("http:", "https:")}, "cannot be reached ("),
    ]:
        assert words in check(**right | wrong), wrong


def test_check_recognises_a_site_that_requires_https(started):
    if not started.site.secure:
        pytest.skip("this site does not require HTTPS")
    settings = {
        "auth__callback_url": f"{started.site.origin}/ws4redis/identity/",
        "auth__callback_secret": SECRET,
    }
    assert "X-Forwarded-Proto: https" in check(**settings)
    assert check(**settings, **HTTPS).endswith("answered 200")


class AnonymousSite(http.server.BaseHTTPRequestHandler):
    """An identity callback that reports every visitor as anonymous."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 - a name of http.server
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def https_site(directory):
    """Serves a callback with a self-signed certificate; yields its URL and the certificate."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command += " -addext basicConstraints=critical,CA:FALSE"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnonymousSite)
    server.daemon_threads = True
    # A client that rejects the certificate closes during the handshake, which is not an error here.
    server.handle_error = lambda *_: None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}/", certificate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_callback_uses_https_if_the_certificate_is_trusted(tmp_path, monkeypatch):
    with https_site(tmp_path) as (url, certificate):
        assert "cannot be reached (invalid peer certificate" in check(auth__callback_url=url)
        assert "invalid peer certificate" in check(auth__callback_url=url.replace("localhost", "127.0.0.1"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert check(auth__callback_url=url).endswith("answered 200")
        with contextlib.ExitStack() as stack:
            redis = RedisServer()
            stack.callback(redis.stop)
            gateway = Gateway(redis__url=redis.url, auth__callback_url=url)
            stack.callback(gateway.stop)
            gateway.connect(unique()).socket.close()
