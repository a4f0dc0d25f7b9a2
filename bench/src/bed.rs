//! The devices that a case runs on: two cables, both ends of each in one namespace.
//!
//! What is under test sits on `left` and `right`; frames come from and arrive at the far ends, which nothing else uses.

use anyhow::Result;

use crate::namespace::{Namespace, index, run};

/// A layer-2 address.
pub(crate) type Mac = [u8; 6];

/// A namespace with two cables.
pub(crate) struct Bed {
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// The side of the machines.
    pub(crate) left: Cable,
    /// The side of the underlay.
    pub(crate) right: Cable,
}

/// A veth pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cable {
    /// The end that is under test.
    pub(crate) near: Device,
    /// The other end.
    pub(crate) far: Device,
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its interface index.
    pub(crate) index: u32,
    /// Its layer-2 address.
    pub(crate) mac: Mac,
}

/// Bytes of the greatest IP packet on the cables.
pub(crate) const MTU: u16 = 1500;

impl Bed {
    /// Creates the devices in a namespace of their own and enters it. Each CPU sends to a receive queue of its own, as far
    /// as there are.
    pub(crate) fn new(queues: u16) -> Result<Self> {
        let namespace = Namespace::new()?;
        run("ip link set dev lo up")?;
        Ok(Self {
            namespace,
            left: Cable::new("left", "left-far", 0, queues)?,
            right: Cable::new("right", "right-far", 2, queues)?,
        })
    }

    /// Where frames that leave one of the far ends come in.
    pub(crate) const fn near_end(&self, far: Device) -> Device {
        if far.index == self.left.far.index {
            self.left.near
        } else {
            self.right.near
        }
    }
}

impl Cable {
    fn new(near: &'static str, far: &'static str, number: u8, queues: u16) -> Result<Self> {
        let (near_mac, far_mac) = (mac(number), mac(number + 1));
        run(&format!(
            "ip link add {near} address {} mtu {MTU} {queues} type veth peer name {far} address {} mtu {MTU} {queues}",
            display(near_mac),
            display(far_mac),
            queues = format_args!("numtxqueues {queues} numrxqueues {queues}"),
        ))?;
        for device in [near, far] {
            run(&format!("ip link set dev {device} up"))?;
        }
        Ok(Self {
            near: Device::new(near, near_mac)?,
            far: Device::new(far, far_mac)?,
        })
    }
}

impl Device {
    fn new(name: &'static str, mac: Mac) -> Result<Self> {
        Ok(Self {
            name,
            index: index(name)?,
            mac,
        })
    }
}

/// A locally administered address.
pub(crate) const fn mac(number: u8) -> Mac {
    [0x02, 0, 0, 0, 0, number + 1]
}

/// An address in the usual notation.
pub(crate) fn display(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
