//! The server of a name, as the layers of Django Channels choose it.
//!
//! <https://github.com/django/channels_redis/blob/main/channels_redis/utils.py>

/// Returns the number of the server of a name: by twelve bits of its CRC-32.
pub fn layer_host(name: &str, hosts: usize) -> usize {
    (crc32(name.as_bytes()) & 0xfff) as usize * hosts / 4096
}

/// CRC-32 of IEEE 802.3. Names are short, so no table is needed.
pub fn crc32(bytes: &[u8]) -> u32 {
    let fold = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_servers_of_channels_redis() {
        for (name, crc, hosts) in [
            ("chat_5", 756_168_073, [0, 0, 1, 1, 1, 2, 5]),
            ("room-1", 3_203_663_878, [0, 1, 1, 2, 2, 3, 8]),
            ("a", 3_904_355_907, [0, 1, 2, 3, 4, 6, 14]),
            ("b", 1_908_338_681, [0, 1, 2, 3, 4, 6, 15]),
            ("specific.957beb2e4554456e8283571e170db4b7!", 3_889_944_349, [0, 0, 1, 1, 2, 3, 7]),
            ("asgi__group__chat_5", 69_118_589, [0, 1, 1, 2, 3, 4, 10]),
            ("asgi__group__room-1", 2_549_651_442, [0, 0, 1, 1, 2, 3, 7]),
            ("gw.0123456789abcdef!", 1_597_171_279, [0, 0, 1, 1, 1, 2, 6]),
        ] {
            assert_eq!(crc32(name.as_bytes()), crc);
            assert_eq!([1, 2, 3, 4, 5, 7, 16].map(|count| layer_host(name, count)), hosts, "{name}");
        }
    }
}
