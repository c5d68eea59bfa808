//! The flags and subcommands. Help, completions and the man page are made from them.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;

use super::{CommandError, ListenRequest, PublishCommand};
use crate::wire::AudienceNames;

/// A gateway between Redis and browsers for Django sites.
#[derive(Parser, Debug)]
#[command(
    version,
    about,
    after_help = "A setting such as server.listen is set by --set server.listen=127.0.0.1:9000, by the environment\n\
                  (WS4REDIS_SERVER__LISTEN) or in a settings file; `ws4redis settings` shows those in force.\n\
                  log.filter sets what is logged, and RUST_LOG overrides it.\n\n\
                  Exit codes: 0 fine, 64 settings or flags cannot be used, 69 Redis cannot be reached, 1 anything else, also a problem that check or health has found."
)]
pub struct Arguments {
    /// Settings file; default: settings.toml in the working directory, if it exists.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// One setting, for example --set server.listen=127.0.0.1:9000. May be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Also stop when standard input is closed: a parent process that started the gateway with a pipe takes it along, even if
    /// it is killed.
    #[arg(long)]
    pub end_with_stdin: bool,
    /// The subcommand; the default is to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the gateway (the default).
    Serve,
    /// Check the settings and the connection to Redis.
    Check(CheckFlags),
    /// Ask the running gateway whether it is ready: 0 if it is, else 1.
    Health(HealthFlags),
    /// Print the settings in force, and where each comes from. Secrets are masked.
    Settings(SettingsFlags),
    /// Write a commented settings file for a new site, with the values of --set.
    GenerateSettings(GenerateSettings),
    /// Publish a message, as Django's RedisPublisher does.
    Publish(PublishFlags),
    /// Print the messages of facilities as they come; with --socketio the notifications of a session, as the command-line
    /// client of yunity-sockets does.
    Listen(ListenFlags),
    /// Close connections of the running gateway: one by its id, or all that the flags name.
    Kick(KickFlags),
    /// Make the running gateway read its settings again, over its admin listener.
    Reload(OutputFlags),
    /// Print the open connections of the running gateway, from its admin listener.
    Connections(ConnectionFlags),
    /// Print the channels that clients of the running gateway listen to, and how many do.
    Channels(ChannelFlags),
    /// Print the users that are connected to the running gateway, with the number of their connections.
    Users(UserFlags),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page.
    Man,
}

/// How a command prints.
#[derive(Args, Debug, Clone, Copy)]
pub struct OutputFlags {
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `ws4redis health`.
#[derive(Args, Debug, Clone, Copy)]
pub struct HealthFlags {
    /// Ask only whether it is alive: also without Redis, and while it stops.
    #[arg(long)]
    pub live: bool,
    /// How to print the answer.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis kick`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("connections").required(true).multiple(true).args(["id", "user", "group", "session", "facility"])))]
pub struct KickFlags {
    /// The id of a connection.
    #[arg(allow_hyphen_values = true, conflicts_with_all = ["user", "group", "session", "facility"])]
    pub id: Option<String>,
    /// Connections of a user.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Connections of the users of a group.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Connections of a session, by its hash in the list of connections.
    #[arg(long, value_name = "HASH")]
    pub session: Option<String>,
    /// Connections with a facility.
    #[arg(long, value_name = "FACILITY")]
    pub facility: Option<String>,
    /// The close code; default: 1008, after which the JavaScript client does not connect again.
    #[arg(long, value_name = "CODE")]
    pub code: Option<u16>,
    /// The reason of the close frame; default: "closed by the operator".
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How to print the answer.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis connections`. All that are given have to match.
#[derive(Args, Debug)]
pub struct ConnectionFlags {
    /// Only those of a user.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only those of the users of a group.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only those of a session, by the hash that the list has.
    #[arg(long, value_name = "HASH")]
    pub session: Option<String>,
    /// Only those to a facility.
    #[arg(long, value_name = "NAME")]
    pub facility: Option<String>,
    /// Only those of a dialect: relay, live or `socket_io`.
    #[arg(long, value_name = "NAME")]
    pub dialect: Option<String>,
    /// Only those of a form: websocket, event-stream or polling.
    #[arg(long, value_name = "NAME")]
    pub form: Option<String>,
    /// Only those in a namespace of Socket.IO.
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Only those from an IP address.
    #[arg(long, value_name = "IP")]
    pub address: Option<String>,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis channels`.
#[derive(Args, Debug)]
pub struct ChannelFlags {
    /// Only those whose names begin so.
    #[arg(value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Groups of Django Channels in place of Redis channels.
    #[arg(long)]
    pub groups: bool,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis users`.
#[derive(Args, Debug)]
pub struct UserFlags {
    /// Only those whose names begin so.
    #[arg(value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis settings`.
#[derive(Args, Debug)]
pub struct SettingsFlags {
    /// Only the settings that are not built-in.
    #[arg(long)]
    pub changed: bool,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis generate-settings`.
#[derive(Args, Debug)]
pub struct GenerateSettings {
    /// Redis, the same as --set redis.url=URL
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// The address to listen on, the same as --set server.listen=ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The file to write, which must not exist; default: standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Flags of `ws4redis listen`.
#[derive(Args, Debug)]
pub struct ListenFlags {
    /// The facilities.
    #[arg(required_unless_present = "socketio", conflicts_with = "socketio")]
    pub facility: Vec<String>,
    /// Only messages to all clients, and to the audiences of the other flags; without any of them all messages of the
    /// facilities.
    #[arg(long, conflicts_with = "socketio")]
    pub broadcast: bool,
    /// Messages to a user. May be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "socketio")]
    pub user: Vec<String>,
    /// Messages to a group. May be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "socketio")]
    pub group: Vec<String>,
    /// Messages to a session, by its key; may be repeated. With --socketio the session id that the client names.
    #[arg(long, value_name = "KEY")]
    pub session: Vec<String>,
    /// Listen for so many seconds; default: until Ctrl-C.
    #[arg(long, value_name = "N", conflicts_with = "socketio")]
    pub seconds: Option<u64>,
    /// The notifications of yunity-sockets: the server and its path, for example <http://127.0.0.1:8000/socket/>
    #[arg(long, value_name = "URL", requires = "session")]
    pub socketio: Option<String>,
    /// With --socketio the protocol of Engine.IO, 3 or 4.
    #[arg(long, value_name = "VERSION", default_value = "4")]
    pub engine: String,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Flags of `ws4redis check`.
#[derive(Args, Debug)]
pub struct CheckFlags {
    /// Print each message that passes through Redis: source, channel, receivers, event, and why it is dropped; no contents.
    #[arg(long)]
    pub listen: bool,
    /// Listen for so many seconds; default: until Ctrl-C.
    #[arg(long, value_name = "N", requires = "listen")]
    pub seconds: Option<u64>,
    /// Whom to try.
    #[command(flatten)]
    pub visitor: VisitorFlags,
}

/// Flags of `ws4redis check` that try a visitor.
#[derive(Args, Debug, Default)]
pub struct VisitorFlags {
    /// Say who the visitor with this session cookie is, and what is found under each key of session.keys.
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["user", "group", "listen"])]
    pub cookie: Option<String>,
    /// Say what the visitor may do at this address, for example /ws/chat?subscribe-user
    #[arg(long, value_name = "URL", conflicts_with = "listen")]
    pub url: Option<String>,
    /// With --url: a visitor with this user name; default: an anonymous one.
    #[arg(long, value_name = "NAME", requires = "url")]
    pub user: Option<String>,
    /// With --url: a group of the visitor. May be repeated.
    #[arg(long, value_name = "NAME", requires = "user")]
    pub group: Vec<String>,
}

impl VisitorFlags {
    /// Returns whether a visitor is to be tried.
    pub fn are_given(&self) -> bool {
        self.cookie.is_some() || self.url.is_some()
    }
}

/// Flags of `ws4redis publish`.
#[derive(Args, Debug)]
pub struct PublishFlags {
    /// Publish to all clients.
    #[arg(long)]
    pub broadcast: bool,
    /// Publish to a user. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub user: Vec<String>,
    /// Publish to a group. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// Publish to a session. May be repeated.
    #[arg(long, value_name = "KEY")]
    pub session: Vec<String>,
    /// Seconds that the message is persisted for later subscribers; 0 or negative: not persisted.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub expire: Option<i64>,
    /// The facility.
    pub facility: String,
    /// The message; without it, or with "-", it is read from standard input.
    pub message: Option<String>,
}

impl Arguments {
    /// Reads the arguments of the process.
    ///
    /// # Errors
    ///
    /// When they are invalid, or ask for help.
    pub fn read() -> Result<Self, CommandError> {
        Self::try_parse().map_err(CommandError::Usage)
    }
}

impl From<PublishFlags> for PublishCommand {
    fn from(flags: PublishFlags) -> Self {
        let PublishFlags { broadcast, user, group, session, expire, facility, message } = flags;
        let audiences = AudienceNames { broadcast, users: user, groups: group, sessions: session };
        Self { audiences, expire, facility, text: message }
    }
}

impl From<ListenFlags> for ListenRequest {
    fn from(flags: ListenFlags) -> Self {
        let ListenFlags { facility, broadcast, user, group, session, seconds, .. } = flags;
        Self { facilities: facility, broadcast, users: user, groups: group, sessions: session, seconds }
    }
}
