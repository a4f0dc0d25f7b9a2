//! What the drivers of devices can do with XDP, as the kernel tells it over generic netlink (family `netdev`, from Linux
//! 6.3 on): above all, whether a device takes frames that a program in a driver redirects to it.
//!
//! ```text
//!  | netlink: length (4), type (2), flags (2), number (4), port (4) | generic: command (1), version (1), 0 (2) | attributes |
//! ```

use std::collections::HashMap;
use std::io;

use gre_common::id::IfIndex;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NETDEV_XDP_ACT_NDO_XMIT`.
const TAKES_FRAMES: u64 = 1 << 2;

/// `GENL_ID_CTRL`, its command to tell a family, and the attributes of its answer.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Command of the family `netdev` to tell devices, and the attributes of its answer.
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;

const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The features of all devices of this network namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Features(HashMap<IfIndex, u64>);

impl Features {
    /// Asks the kernel. `None`: it does not know of such features.
    pub(crate) fn read() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let Some(family) = family(&socket)? else {
            return Ok(None);
        };
        let mut features = HashMap::new();
        ask(&socket, family, GET_DEVICE, NLM_F_DUMP, &[], |attributes| {
            let index = attribute(attributes, DEVICE_INDEX).and_then(number);
            let bits = attribute(attributes, DEVICE_FEATURES).and_then(number);
            if let (Some(index), Some(bits)) = (index, bits) {
                features.insert(IfIndex(index as u32), bits);
            }
        })?;
        Ok(Some(Self(features)))
    }

    /// Whether the device takes frames that a program in a driver redirects to it.
    pub(crate) fn takes_frames(&self, device: IfIndex) -> bool {
        self.0
            .get(&device)
            .is_some_and(|bits| bits & TAKES_FRAMES != 0)
    }
}

/// The number of the family; `None` if the kernel has none of that name.
fn family(socket: &Socket) -> io::Result<Option<u16>> {
    let name = b"netdev\0\0";
    // The length does not count the padding.
    let attribute_head = [11_u16.to_ne_bytes(), FAMILY_NAME.to_ne_bytes()].concat();
    let question = [&attribute_head[..], name].concat();
    let mut id = None;
    let asked = ask(socket, CONTROLLER, GET_FAMILY, 0, &question, |attributes| {
        id = attribute(attributes, FAMILY_ID).and_then(number);
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        asked => asked.map(|()| id.and_then(|id| u16::try_from(id).ok())),
    }
}

/// Sends a question and hands the attributes of each answer to `each`.
fn ask(
    socket: &Socket,
    family: u16,
    command: u8,
    flags: u16,
    attributes: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let length = (HEADER + GENERIC_HEADER + attributes.len()) as u32;
    let mut question = length.to_ne_bytes().to_vec();
    question.extend(family.to_ne_bytes());
    question.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    question.extend([0; 8]);
    question.extend([command, 1, 0, 0]);
    question.extend(attributes);
    socket.send(&question, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for message in Messages(&answer) {
            let (kind, body) = message?;
            match kind {
                DONE => return Ok(()),
                ERROR => return refusal(body),
                _ => each(body.get(GENERIC_HEADER..).unwrap_or_default()),
            }
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(());
        }
    }
}

fn refusal(body: &[u8]) -> io::Result<()> {
    let code = body
        .first_chunk()
        .map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code));
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// Type and body of each message of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = first_message(self.0);
        let length = message.map_or(self.0.len(), |(_, body)| HEADER + body.len());
        // Each begins at a multiple of four bytes.
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO)))
    }
}

fn first_message(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((kind, bytes.get(HEADER..length)?))
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == kind)
        .and_then(|attribute| {
            let length = attribute.length().into();
            // All attributes from this one on.
            attribute.into_inner().get(ATTRIBUTE_HEADER..length)
        })
}

/// An unsigned number of two to eight bytes.
fn number(value: &[u8]) -> Option<u64> {
    match *value {
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d, ref rest @ ..] if rest.len() < 4 => {
            Some(u32::from_ne_bytes([a, b, c, d]).into())
        }
        _ => value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_and_a_broken_one_ends_them() {
        let message = |kind: u16, body: &[u8]| {
            let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let both = [message(20, &[1, 2, 3]), message(DONE, &[0; 4])].concat();
        let read: Vec<_> = Messages(&both)
            .map(|message| message.expect("whole"))
            .collect();
        assert_eq!(read, [(20, &[1, 2, 3][..]), (DONE, &[0; 4][..])]);
        let broken: Vec<_> = Messages(&both[..18]).collect();
        assert!(matches!(&broken[..], [Err(_)]));
        assert!(refusal(&(-libc::ENOENT).to_ne_bytes()).is_err());
    }

    #[test]
    fn an_attribute_ends_before_the_next_one() {
        let first = [&6_u16.to_ne_bytes()[..], &[1, 0, 7, 0, 0, 0]].concat();
        let second = [&8_u16.to_ne_bytes()[..], &[2, 0, 9, 0, 0, 0]].concat();
        let both = [first, second].concat();
        assert_eq!(attribute(&both, 1).and_then(number), Some(7));
        assert_eq!(attribute(&both, 2).and_then(number), Some(9));
        assert_eq!(attribute(&both, 3), None);
    }

    #[test]
    fn the_kernel_that_runs_knows_its_devices_or_has_no_such_family() {
        let features = Features::read().expect("an answer");
        if let Some(features) = features {
            assert!(!features.takes_frames(IfIndex(u32::MAX)));
        }
    }

    #[test]
    fn numbers_of_all_lengths_are_read() {
        assert_eq!(number(&7_u16.to_ne_bytes()), Some(7));
        assert_eq!(number(&7_u32.to_ne_bytes()), Some(7));
        assert_eq!(number(&7_u64.to_ne_bytes()), Some(7));
        assert_eq!(number(&[7]), None);
    }
}
