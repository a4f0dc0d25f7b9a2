//! The packet pipeline over the example gateway: whatever arrives, each packet is counted once where it comes in and
//! once where it goes out or ends, and what passes to the kernel is untouched.

use std::cell::RefCell;

use gre_common::counters::{Direction, Owner};
use gre_common::id::IfIndex;
use gre_model::example::{self, Devices};
use gre_model::{Action, Counters, HostGateway};

const DEVICES: Devices = Devices {
    underlay: IfIndex(2),
    access: IfIndex(3),
    trunk: IfIndex(4),
};

/// The first byte is the device, the rest the frame.
pub(crate) fn run(bytes: &[u8]) {
    thread_local! {
        static GATEWAY: RefCell<Option<HostGateway>> = const { RefCell::new(None) };
    }
    let Some((device, frame)) = bytes.split_first() else {
        return;
    };
    let devices = [DEVICES.underlay, DEVICES.access, DEVICES.trunk, IfIndex(9)];
    let device = devices[usize::from(*device) % devices.len()];
    GATEWAY.with_borrow_mut(|gateway| {
        let gateway = gateway.get_or_insert_with(|| HostGateway::new(&example::gateway(DEVICES)));
        // Each input stands for itself: nothing of earlier ones decides about it.
        gateway.forget();
        check(gateway, device, frame);
        // A repeat meets what the first one left: sequence numbers, machines learnt.
        check(gateway, device, frame);
    });
}

fn check(gateway: &HostGateway, device: IfIndex, frame: &[u8]) {
    let before = gateway.counters();
    let (outcome, reason) = gateway.run(device, frame);
    let counted = gateway.counters().since(&before);
    let drops: u64 = counted.drops.values().sum();
    assert_eq!(drops, u64::from(reason.is_some()));
    assert!(
        counted.received() <= 1 && counted.are_balanced(),
        "{counted:?}"
    );
    match outcome.action {
        Action::Pass => {
            assert_eq!(outcome.frame, frame);
            assert_eq!(counted, Counters::default());
        }
        Action::Drop => assert_eq!(counted.transmitted(), 0),
        Action::Redirect => {
            assert_eq!(drops, 0);
            // Answers to ARP and neighbour discovery are not traffic.
            assert_eq!(counted.received(), counted.transmitted());
        }
    }
    for (owner, direction, reason) in counted.drops.keys() {
        let is_unclaimed = matches!(owner, Owner::Underlay(_));
        assert_eq!(is_unclaimed, counted.received() == 0, "{reason:?}");
        assert!(!is_unclaimed || *direction == Direction::Receive);
    }
    let events = gateway.take_events();
    assert!(events.len() <= 1, "{events:?}");
}
