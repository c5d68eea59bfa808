"""The gateway asks the site itself who visitors are: sessions that are not in Redis, tokens, and rules of the site's own."""

import contextlib
import http.server
import ssl
import subprocess
import threading

import pytest
from websockets.exceptions import InvalidStatus

from harness import BINARY, DEADLINE, Gateway, RedisServer, clean_environment, unique
from test_sessions import ANYBODY, JOHN, MARY, SOMEBODY, closed_sockets
from worlds import Kind, World

SECRET = "what-gateway-and-site-share"
URL = "{site}/ws4redis/identity/"


def kind(name, sessions, gateway=None, **site):
    settings = {"auth__callback_url": URL, "auth__callback_secret": SECRET} | (gateway or {})
    return Kind(name, {"sessions": sessions, "callback_secret": SECRET, **site}, settings)


HTTPS = {"auth__callback_headers": "X-Forwarded-Proto: https"}
KINDS = [
    kind("callback+db", "db"),
    kind("callback+file", "file"),
    kind("callback+signed_cookies", "signed_cookies"),
    kind("callback+https_only", "db", HTTPS, ssl_redirect="1"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def started(request, database):
    world = World(request.param, database(request.param))
    yield world
    world.stop()


@pytest.fixture
def world(started):
    started.begin()
    return started


@pytest.fixture(scope="module")
def rules(database):
    """A site with a view of its own."""
    kind_of_rules = kind("callback+rules", "db", {"auth__callback_url": "{site}/rules/"})
    world = World(kind_of_rules, database(kind_of_rules))
    world.begin()
    yield world
    world.stop()


def refusal(world, facility, browser, **headers):
    """The status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        world.connect(browser, facility, **headers)
    return refused.value.response.status_code


def test_a_login_has_its_own_channels_with_every_engine(world):
    john, mary, nobody = world.browser("john"), world.browser("mary"), world.browser()
    # What the browser has of a session in its cookie is the session itself, and no key.
    missing = SOMEBODY if world.kind.site["sessions"] == "signed_cookies" else set()
    assert world.who(john) == JOHN - missing
    assert world.who(mary) == MARY - missing
    assert world.who(nobody) == ANYBODY
    facility = unique()
    with world.connect(john, facility) as johns, world.connect(mary, facility) as marys:
        assert "user mary" not in world.hears(johns, facility, mary=mary.session_key)
        assert "user john" not in world.hears(marys, facility, john=john.session_key)


def test_an_anonymous_session_has_its_own_channel_and_a_forged_one_has_none(world):
    browser = world.browser()
    browser.get("/?set=something")
    # A session in a cookie has no key, and so no channel.
    in_cookie = world.kind.site["sessions"] == "signed_cookies"
    assert world.who(browser) == (ANYBODY if in_cookie else SOMEBODY)
    for cookie in ("0" * 32, "x" * 32, "user:john:x"):
        facility = unique()
        forged = world.browser()
        forged.cookies = lambda cookie=cookie: f"sessionid={cookie}"
        with world.connect(forged, facility) as client:
            assert world.hears(client, facility, forged=cookie) == ANYBODY


def test_a_change_that_ends_a_login_applies_to_the_next_socket(world):
    john, mary = world.browser("john"), world.browser("mary")
    old = john.copy()
    world.console.run("user = User.objects.get(username='mary'); user.is_active = False; user.save()")
    assert "user mary" not in world.who(mary)
    john.log_out()
    assert world.who(john) == ANYBODY
    if world.kind.site["sessions"] != "signed_cookies":
        assert world.who(old) == ANYBODY


def test_a_change_that_ends_a_login_closes_its_open_sockets(world):
    if world.kind.site["sessions"] == "signed_cookies":
        pytest.skip("it is the browser alone that forgets such a session")
    phone, laptop, mary = world.browser("john"), world.browser("john"), world.browser("mary")
    with closed_sockets(world, mary):
        world.console.run("user = User.objects.get(username='mary'); user.set_password('new'); user.save()")
    with closed_sockets(world, phone):
        phone.log_out()
    assert world.who(laptop) == JOHN


def test_the_gateway_neither_changes_nor_prolongs_sessions(world):
    if world.kind.site["sessions"] == "signed_cookies":
        pytest.skip("there is nothing to look at")
    john = world.browser("john")
    read = "answer = dict(SessionStore(key).items())"
    if world.kind.site["sessions"] == "db":
        read += "\nfrom django.contrib.sessions.models import Session"
        read += "\nanswer['end'] = str(Session.objects.get(pk=key).expire_date)"
    before = world.console.run(read, key=john.session_key)
    for _ in range(3):
        assert world.who(john) == JOHN
    assert world.console.run(read, key=john.session_key) == before


def test_a_site_can_have_its_own_tokens_and_rules(rules):
    john, nobody = rules.browser("john"), rules.browser()
    # A token in the place of a cookie, and beside somebody else's.
    for browser in (nobody, john):
        facility = unique()
        with rules.connect(browser, facility, Authorization="Token mary") as client:
            assert rules.hears(client, facility) == MARY - SOMEBODY
    facility = unique("quiet/")
    with rules.connect(john, facility) as client:
        assert rules.hears(client, facility, john=john.session_key) == set()
    assert refusal(rules, "closed", john) == 403
    assert refusal(rules, "closed", nobody) == 403


def test_a_site_can_refuse_unknown_visitors(rules):
    facility = unique("staff/")
    with (
        rules.connect(rules.browser("admin"), facility) as admins,
        rules.connect(rules.browser("john"), facility) as johns,
        rules.connect(rules.browser(), facility) as nobodys,
    ):
        assert rules.publish("for staff", facility, broadcast=True) > 0
        admins.expect("for staff")
        assert rules.publish("to john", facility, users=["john"]) == 0
        for client in (johns, nobodys):
            client.socket.ping().wait(DEADLINE)
            with pytest.raises(TimeoutError):
                client.socket.recv(timeout=0)


def check(**settings):
    """What `ws4redis check` says of the callback."""
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
            "403 Forbidden; if it refuses everybody, auth.callback_secret",
        ),
        ({"auth__callback_url": f"{origin}/ws4redis/identity"}, "points to /ws4redis/identity/"),
        (
            {"auth__callback_url": f"{origin}/nothing/"},
            "404 Not Found; auth.callback_url has to be that of the site's view",
        ),
        ({"auth__callback_url": f"{origin}/accounts/login/"}, "its answer is no JSON object"),
        ({"auth__callback_headers": "Host: evil.example"}, "ALLOWED_HOSTS"),
        ({"auth__callback_url": "http://127.0.0.1:9/"}, "cannot be reached (Connection refused"),
        ({"auth__callback_url": "http://no.such.host.invalid/"}, "cannot be reached ("),
        ({"auth__callback_url": origin.replace("http:", "https:")}, "cannot be reached ("),
    ]:
        assert words in check(**right | wrong), wrong


def test_check_recognises_a_site_that_requires_https(started):
    if not started.site.secure:
        pytest.skip("it does not")
    settings = {
        "auth__callback_url": f"{started.site.origin}/ws4redis/identity/",
        "auth__callback_secret": SECRET,
    }
    assert "X-Forwarded-Proto: https" in check(**settings)
    assert check(**settings, **HTTPS).endswith("answered 200")


class Nobody(http.server.BaseHTTPRequestHandler):
    """Answers that nobody is known."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 - the name that http.server wants
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def https_site(directory):
    """A site with a certificate of its own making; gives its URL and the certificate."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command += " -addext basicConstraints=critical,CA:FALSE"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nobody)
    server.daemon_threads = True
    # Who does not trust the certificate goes away in the middle of the handshake.
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


def test_a_site_is_called_by_https_if_its_certificate_is_trusted(tmp_path, monkeypatch):
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
