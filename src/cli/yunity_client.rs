//! `ws4redis listen`: the command-line client of yunity-sockets. It names a session and prints each notification of its user.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use super::CommandError;
use crate::wire::engine_io::EngineVersion;
use crate::wire::socket_io::{JsonElements, JsonMembers, push_compact_json, push_json_string, unescape_json};

/// Limit for a connection and each part of its handshake.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses before a reconnect: those of the official client.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// The path, if the URL has none.
const DEFAULT_PATH: &str = "/socket/";

/// A client of yunity-sockets on the command line.
#[derive(Debug)]
pub struct ListenCommand {
    /// The URL of the server, with its path.
    pub url: String,
    /// The session id; only one is possible.
    pub sessions: Vec<String>,
    /// The protocol of Engine.IO, 3 or 4.
    pub engine: String,
}

/// Where to connect.
struct ListenTarget {
    /// With the port.
    host: String,
    /// With the slash at its end.
    path: String,
    version: EngineVersion,
}

/// Why a connection ended.
enum ClientEnd {
    /// It is tried again.
    Lost(String),
    /// Trying again would not help.
    Refused(String),
    /// Standard output failed.
    Stdio(io::Error),
}

/// Connects, names the session, and prints each notification as a line of JSON. Reconnects until it is interrupted.
///
/// # Errors
///
/// When the arguments are invalid, the server refuses the client, or standard output fails.
pub fn listen(command: &ListenCommand) -> Result<(), CommandError> {
    let version = EngineVersion::from_query(&command.engine)
        .ok_or_else(|| CommandError::Arguments("--engine has to be 3 or 4".to_owned()))?;
    let [session] = &command.sessions[..] else {
        return Err(CommandError::Arguments("--session: --socketio takes one".to_owned()));
    };
    let target = ListenTarget::parse(&command.url, version).map_err(CommandError::Arguments)?;
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let reason = match target.serve(session) {
            ClientEnd::Lost(reason) => reason,
            ClientEnd::Refused(reason) => {
                return Err(CommandError::Server(format!("{}: {reason}", command.url)));
            }
            ClientEnd::Stdio(error) => return Err(CommandError::Stdio(error)),
        };
        // A connection that held is worth a quick retry.
        if begun.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }
        // If standard error is closed, there is nowhere to report to.
        let _ = writeln!(io::stderr(), "ws4redis: {reason}; connecting again in {} s", pause.as_secs());
        thread::sleep(pause);
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

impl ListenTarget {
    fn parse(url: &str, version: EngineVersion) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        match scheme {
            "http" | "ws" => {}
            "https" | "wss" => {
                return Err(format!(
                    "{url}: TLS is not supported here; use the address of the gateway itself"
                ));
            }
            _ => return Err(format!("{url}: expected a URL such as http://127.0.0.1:8000/socket/")),
        }
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let is_path = !path.contains(['?', '#', ' ']);
        if host.is_empty() || !is_path {
            return Err(format!("{url}: expected a URL such as http://127.0.0.1:8000/socket/"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { host.to_owned() } else { format!("{host}:80") };
        let path = match path.trim_end_matches('/') {
            "" => DEFAULT_PATH.to_owned(),
            path => format!("/{path}/"),
        };
        Ok(Self { host, path, version })
    }

    /// Serves one connection until it ends.
    fn serve(&self, session: &str) -> ClientEnd {
        let mut socket = match self.connect() {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        match self.run(&mut socket, session) {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    fn connect(&self) -> Result<WebSocket<TcpStream>, ClientEnd> {
        let lost = |error: io::Error| ClientEnd::Lost(format!("cannot connect to {} ({error})", self.host));
        let address = self.host.to_socket_addrs().map_err(lost)?.next();
        let address = address.ok_or_else(|| lost(io::Error::other("the name has no address")))?;
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(lost)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(lost)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(lost)?;
        let version = match self.version {
            EngineVersion::V3 => 3,
            EngineVersion::V4 => 4,
        };
        let url = format!("ws://{}{}?EIO={version}&transport=websocket", self.host, self.path);
        match client(url, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let status = response.status();
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let text = format!("the server answers {status} {}", body.escape_debug());
                // The server may be starting, or short of something.
                if status.is_server_error() {
                    Err(ClientEnd::Lost(text))
                } else {
                    Err(ClientEnd::Refused(text))
                }
            }
            Err(HandshakeError::Failure(error)) => Err(broken(&error)),
            Err(HandshakeError::Interrupted(_)) => Err(ClientEnd::Lost("no answer in time".to_owned())),
        }
    }

    /// Runs the protocol, which has no end of its own.
    fn run(
        &self,
        socket: &mut WebSocket<TcpStream>,
        session: &str,
    ) -> Result<std::convert::Infallible, ClientEnd> {
        let mut times = PingTimes::default();
        let mut is_waiting = false;
        loop {
            let packet = match socket.read() {
                Ok(Message::Text(packet)) => packet,
                Ok(_) => continue,
                Err(Error::Io(error)) if is_timeout(&error) => {
                    // The client pings in protocol 3; in protocol 4 the server should have.
                    if is_waiting || self.version == EngineVersion::V4 {
                        return Err(ClientEnd::Lost("no sign of life of the server".to_owned()));
                    }
                    send(socket, "2")?;
                    is_waiting = true;
                    wait(socket, times.timeout)?;
                    continue;
                }
                Err(error) => return Err(broken(&error)),
            };
            is_waiting = false;
            let packet = packet.as_str();
            match packet.split_at_checked(1) {
                Some(("0", open)) => {
                    times = PingTimes::parse(open);
                    if self.version == EngineVersion::V4 {
                        send(socket, "40")?;
                    }
                }
                Some(("1", _)) => {
                    return Err(ClientEnd::Lost("the server has closed the session".to_owned()));
                }
                Some(("2", data)) => send(socket, &format!("3{data}"))?,
                Some(("4", message)) => receive(socket, message, session)?,
                _ => {}
            }
            wait(socket, times.until(self.version))?;
        }
    }
}

/// How long to wait for the other side.
#[derive(Clone, Copy)]
struct PingTimes {
    interval: Duration,
    timeout: Duration,
}

impl Default for PingTimes {
    fn default() -> Self {
        Self { interval: TIMEOUT, timeout: TIMEOUT }
    }
}

impl PingTimes {
    /// Reads the open packet.
    fn parse(open: &str) -> Self {
        let member = |name: &str| {
            let mut members = JsonMembers::new(open)?.flatten();
            let (_, raw) = members.find(|(key, _)| unescape_json(key).is_some_and(|key| key == name))?;
            raw.parse().ok().filter(|milliseconds| *milliseconds > 0).map(Duration::from_millis)
        };
        let default = Self::default();
        Self {
            interval: member("pingInterval").unwrap_or(default.interval),
            timeout: member("pingTimeout").unwrap_or(default.timeout),
        }
    }

    fn until(self, version: EngineVersion) -> Duration {
        match version {
            EngineVersion::V3 => self.interval,
            EngineVersion::V4 => self.interval + self.timeout,
        }
    }
}

/// Handles a packet of Socket.IO.
fn receive(socket: &mut WebSocket<TcpStream>, message: &str, session: &str) -> Result<(), ClientEnd> {
    match message.split_at_checked(1) {
        Some(("0", rest)) if !rest.starts_with('/') => {
            let mut packet = String::from(r#"42["authenticate",{"sessionId":"#);
            push_json_string(&mut packet, session);
            send(socket, &(packet + "}]"))?;
            // Standard error, because standard output has one line of JSON for each notification. If it is closed, there is
            // nowhere to report to.
            let _ = writeln!(
                io::stderr(),
                "ws4redis: connected as session {}; a session id that the site does not know hears nothing",
                session.escape_debug()
            );
            Ok(())
        }
        Some(("1", _)) => Err(ClientEnd::Lost("the server has disconnected the client".to_owned())),
        Some(("4", reason)) => {
            Err(ClientEnd::Refused(format!("the server refuses the client: {}", reason.escape_debug())))
        }
        Some(("2", event)) => print(event).map_err(ClientEnd::Stdio),
        _ => Ok(()),
    }
}

/// Prints the argument of a notification as one line.
fn print(event: &str) -> io::Result<()> {
    let Some(mut elements) = JsonElements::new(event) else { return Ok(()) };
    let name = elements.next().and_then(Result::ok).and_then(unescape_json);
    let (Some("message"), Some(Ok(argument))) = (name.as_deref(), elements.next()) else { return Ok(()) };
    let mut line = String::new();
    // A server that sends invalid JSON has nothing to say.
    if push_compact_json(&mut line, argument, None).is_err() {
        return Ok(());
    }
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

fn send(socket: &mut WebSocket<TcpStream>, packet: &str) -> Result<(), ClientEnd> {
    socket.send(Message::text(packet)).map_err(|error| broken(&error))
}

fn wait(socket: &WebSocket<TcpStream>, time: Duration) -> Result<(), ClientEnd> {
    socket.get_ref().set_read_timeout(Some(time)).map_err(|error| ClientEnd::Lost(error.to_string()))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn broken(error: &Error) -> ClientEnd {
    ClientEnd::Lost(format!("the connection was lost ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_neither_scheme_nor_port_nor_path() {
        let parse = |url: &str| {
            let target = ListenTarget::parse(url, EngineVersion::V4);
            target.map(|target| target.host + &target.path)
        };
        for (url, expected) in [
            ("http://127.0.0.1:8000/socket.io/", "127.0.0.1:8000/socket.io/"),
            ("ws://h:1/a/b", "h:1/a/b/"),
            ("h:1", "h:1/socket/"),
            ("http://h/", "h:80/socket/"),
            ("http://[::1]:9/x", "[::1]:9/x/"),
        ] {
            assert_eq!(parse(url).unwrap(), expected, "{url}");
        }
        for invalid in ["https://h/", "ftp://h/", "http:///x", "http://h/?a=1"] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
