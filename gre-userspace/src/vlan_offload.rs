//! Whether a network card takes VLAN tags out of frames before the program sees them.
//!
//! Asked by the gateway before it puts tagged ports on a device: without their tags, frames of these ports would be
//! taken for those of the untagged port, which may be another tenant's.

use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GFLAGS` of `linux/ethtool.h`: reads a device's flags.
const GET_FLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN`.
const RECEIVE_OFFLOAD: u32 = 1 << 8;

mod request {
    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
}

/// Reads `rx-vlan-offload` of a device, as `ethtool -k` shows it.
///
/// # Errors
/// There is no such device, or it does not tell.
pub fn is_on(device: &str) -> io::Result<bool> {
    if device.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // `struct ethtool_value`: the command, and room for the answer.
    let mut value = [GET_FLAGS, 0];
    let ifr_ifru = libc::__c_anonymous_ifr_ifru {
        ifru_data: value.as_mut_ptr().cast(),
    };
    let mut request = libc::ifreq { ifr_name, ifr_ifru };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // SAFETY: request and value outlive the call, and ETHTOOL_GFLAGS reads and writes just the two words of the value.
    unsafe { request::ethtool(std::os::fd::AsRawFd::as_raw_fd(&socket), &raw mut request) }?;
    Ok(value[1] & RECEIVE_OFFLOAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_strips_nothing_and_what_is_not_there_does_not_tell() {
        assert!(!is_on("lo").expect("it tells"));
        assert!(is_on("no-such-device").is_err());
        assert!(is_on("a-name-that-no-device-can-have").is_err());
    }
}
