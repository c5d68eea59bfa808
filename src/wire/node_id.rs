//! The id of a gateway process.

use std::fmt;

/// The id of a gateway process, random at each start: the `node` of its events, and its `host_id` for python-socketio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(u128);

impl NodeId {
    /// Returns a new id.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Returns the public id of a connection that has no id in its protocol, from its number in this process.
    ///
    /// 48 bits of the node make it unique over the processes of a site.
    pub fn connection_id(self, number: u64) -> String {
        format!("{:012x}-{number}", self.0 >> 80)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_32_digits_and_the_ids_of_connections_begin_with_12_of_them() {
        let node = NodeId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(node.to_string(), "0123456789abcdef0123456789abcdef");
        assert_eq!(node.connection_id(42), "0123456789ab-42");
        assert_eq!(NodeId(1).to_string().len(), 32);
        assert_ne!(NodeId::random(), NodeId::random());
    }
}
