//! Barriers: a question that follows earlier frames over a link. The answer shows that the other end has dealt with
//! them, so that a test can read exact counters without waiting for a time.
//!
//! The question is an ARP probe (RFC 5227), which nobody learns from and gregw does not count. `topology` offers
//! barriers for its links.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::link::{End, Mac, next_mac};
use crate::wait;
use crate::wire::Wire;

/// A question or answer may get lost at a full link; after so long it is asked again.
const REPEAT: Duration = Duration::from_millis(200);
const BROADCAST: Mac = [0xff; 6];
/// EtherType of ARP; hardware and protocol are Ethernet and IPv4 (RFC 826).
const PREFIX: [u8; 8] = [8, 6, 0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
/// Offsets in a frame.
const OPERATION: usize = 12 + PREFIX.len();
const TARGET_MAC: usize = OPERATION + 2 + 10;

/// Returns once `owner`, at the other end of the link, has dealt with all frames that were sent from `end` before, and
/// all that it had sent to `end` by then have arrived.
///
/// # Panics
/// If it does not answer.
#[track_caller]
pub fn pass(end: &End, owner: Ipv4Addr) {
    // An answer repeats the asker's address: each question has one of its own.
    let asker = next_mac();
    let mut wire = Wire::open(end);
    let question = question(end.mac, asker, owner);
    let what = format!("{owner} has answered on {}", end.device);
    wait::expect(&what, || {
        wire.send(&question);
        let answer = wire.find(REPEAT, |frame| is_answer(frame, asker).then_some(()));
        answer.is_some()
    });
}

/// The question by which an asker with address `asker` asks who has `owner`.
pub fn question(source: Mac, asker: Mac, owner: Ipv4Addr) -> Vec<u8> {
    let mut frame = [BROADCAST, source].concat();
    frame.extend(PREFIX);
    frame.extend(REQUEST);
    frame.extend(asker);
    frame.extend(Ipv4Addr::UNSPECIFIED.octets());
    frame.extend([0; 6]);
    frame.extend(owner.octets());
    frame
}

fn is_answer(frame: &[u8], asker: Mac) -> bool {
    frame.get(12..OPERATION) == Some(&PREFIX)
        && frame.get(OPERATION..OPERATION + 2) == Some(&REPLY)
        && frame.get(TARGET_MAC..TARGET_MAC + 6) == Some(&asker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_the_question_and_from_answers_to_others() {
        let (source, asker) = (next_mac(), next_mac());
        let mut frame = question(source, asker, [10, 0, 0, 1].into());
        frame[TARGET_MAC..TARGET_MAC + 6].copy_from_slice(&asker);
        assert!(!is_answer(&frame, asker), "the question");
        frame[OPERATION..OPERATION + 2].copy_from_slice(&REPLY);
        assert!(is_answer(&frame, asker));
        assert!(!is_answer(&frame, source), "an answer to somebody else");
        assert!(!is_answer(&frame[..20], asker), "a short frame");
    }
}
