//! `[socketio.yunity]` and `[socketio.messenger]`: the bridges, and the mounts that result from all paths together.

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{list, require};
use crate::wire::Mount;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawYunity {
    enabled: bool,
    #[serde(deserialize_with = "list")]
    path: Vec<String>,
    redis_manager: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMessenger {
    enabled: bool,
    path: String,
    redis_manager: bool,
}

/// One path of Socket.IO clients, and what reaches them there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a source of its own")]
pub struct MountSettings {
    /// The path, without its last slash.
    pub path: String,
    /// Whether it is that of `socketio.path`.
    pub is_main: bool,
    /// Whether the messages of `RedisManager` reach it.
    pub redis_manager: bool,
    /// Whether clients of yunity-sockets use it.
    pub yunity: bool,
    /// Whether clients of the messenger use it.
    pub messenger: bool,
}

/// The mounts that are found so far. The same path is one mount.
#[derive(Default)]
pub(super) struct Mounts(Vec<MountSettings>);

impl Mounts {
    /// Checks a path and, if it is served, adds it, and to its mount what `mark` sets.
    pub(super) fn add(
        &mut self,
        key: &'static str,
        path: &str,
        is_served: bool,
        mark: impl FnOnce(&mut MountSettings),
    ) -> Result<(), SettingsError> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let is_path = path.len() > 1 && path.starts_with('/') && !path.contains(|c: char| "?#% ".contains(c));
        require(is_path, key, "must be a path with a slash at both ends, for example /socket.io/")?;
        if !is_served {
            return Ok(());
        }
        let Self(mounts) = self;
        let index = mounts.iter().position(|mount| mount.path == path).unwrap_or_else(|| {
            let (is_main, redis_manager, yunity, messenger) = Default::default();
            mounts.push(MountSettings { path: path.to_owned(), is_main, redis_manager, yunity, messenger });
            mounts.len() - 1
        });
        require(index < Mount::MAX, key, "has too many paths: at most 8 in all")?;
        mark(&mut mounts[index]);
        Ok(())
    }

    /// Returns the mounts.
    pub(super) fn finish(self, websocket_path: &str) -> Result<Vec<MountSettings>, SettingsError> {
        let websocket_path = websocket_path.trim_end_matches('/');
        for MountSettings { path, is_main, yunity, .. } in &self.0 {
            let key = match (is_main, yunity) {
                (true, _) => "socketio.path",
                (false, true) => "socketio.yunity.path",
                (false, false) => "socketio.messenger.path",
            };
            require(path != websocket_path, key, "is also websocket_url")?;
        }
        Ok(self.0)
    }
}

impl RawYunity {
    pub(super) fn check(self, mounts: &mut Mounts) -> Result<(), SettingsError> {
        require(!self.path.is_empty(), "socketio.yunity.path", "is empty; set it to the clients' path")?;
        for path in &self.path {
            mounts.add("socketio.yunity.path", path, self.enabled, |mount| {
                mount.yunity = true;
                mount.redis_manager |= self.redis_manager;
            })?;
        }
        Ok(())
    }
}

impl RawMessenger {
    pub(super) fn check(self, mounts: &mut Mounts) -> Result<(), SettingsError> {
        mounts.add("socketio.messenger.path", &self.path, self.enabled, |mount| {
            mount.messenger = true;
            mount.redis_manager |= self.redis_manager;
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;

    fn mounts(assignments: &[&str]) -> Result<Vec<String>, String> {
        let assignments: Vec<_> = assignments.iter().map(|text| format!("socketio.{text}")).collect();
        let loaded = Settings::load(None, std::iter::empty(), &assignments);
        let (settings, _) = loaded.map_err(|error| error.to_string())?;
        let describe = |mount: &super::MountSettings| {
            let super::MountSettings { path, is_main, redis_manager, yunity, messenger } = mount;
            let marks =
                [(is_main, "main"), (redis_manager, "manager"), (yunity, "yunity"), (messenger, "messenger")];
            let marks = marks.into_iter().filter(|(is_set, _)| **is_set);
            marks.fold(path.clone(), |text, (_, name)| text + " " + name)
        };
        Ok(settings.socket_io.mounts.iter().map(describe).collect())
    }

    #[test]
    fn each_path_is_one_mount_and_bridges_are_no_part_of_the_main_one() {
        let (yunity, messenger) = ("yunity.enabled=true", "messenger.enabled=true");
        assert_eq!(mounts(&[]).unwrap(), [""; 0]);
        assert_eq!(mounts(&["enabled=true"]).unwrap(), ["/socket.io main manager"]);
        assert_eq!(mounts(&[yunity]).unwrap(), ["/socket yunity"]);
        assert_eq!(
            mounts(&["enabled=true", yunity, messenger, "messenger.redis_manager=true"]).unwrap(),
            ["/socket.io main manager", "/socket yunity", "/websocket manager messenger"]
        );
        assert_eq!(
            mounts(&["enabled=true", yunity, "yunity.path=/socket.io/,/a"]).unwrap(),
            ["/socket.io main manager yunity", "/a yunity"]
        );
        assert_eq!(
            mounts(&[yunity, messenger, "messenger.path=/socket"]).unwrap(),
            ["/socket yunity messenger"]
        );
        assert_eq!(
            mounts(&["enabled=true", "redis_manager.enabled=false"]).unwrap(),
            ["/socket.io main"],
            "nothing reaches it from RedisManager"
        );
        for (wrong, expected) in [
            ("yunity.path=", "socketio.yunity.path: is empty"),
            ("yunity.path=socket", "socketio.yunity.path: must be a path"),
            ("yunity.path=/ws/", "socketio.yunity.path: is also websocket_url"),
            ("messenger.path=/ws", "socketio.messenger.path: is also websocket_url"),
            ("yunity.path=/1,/2,/3,/4,/5,/6,/7,/8", "socketio.messenger.path: has too many paths"),
        ] {
            let error = mounts(&[yunity, messenger, wrong]).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }
}
