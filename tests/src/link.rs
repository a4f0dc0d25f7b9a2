//! Links between namespaces: a veth pair ([`Veth`]) and a plain switch ([`Switch`]).
//!
//! `topology` builds on them. Far ends of a gateway's devices get what XDP needs from them: a pass program, without
//! which they would not receive redirected frames, and no checksum offload, which would hand XDP half-made checksums.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bpf::Attachment;
use crate::netns::{Handle, Namespace};

/// A 48-bit Ethernet address.
pub type Mac = [u8; 6];

/// One end of a link.
#[derive(Clone)]
pub struct End {
    /// The namespace it is in.
    pub namespace: Handle,
    /// Its device name there.
    pub device: String,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl End {
    /// A device that exists already.
    ///
    /// # Errors
    /// If there is no such device, or it has no Ethernet address.
    pub fn existing(namespace: &Handle, device: &str) -> io::Result<Self> {
        let mac = namespace.run(|| -> io::Result<Option<Mac>> {
            let mut addresses =
                nix::ifaddrs::getifaddrs()?.filter(|address| address.interface_name == device);
            Ok(addresses.find_map(|address| address.address?.as_link_addr()?.addr()))
        })?;
        let mac = mac.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no Ethernet device of this name")
        })?;
        Ok(Self {
            namespace: namespace.clone(),
            device: device.to_owned(),
            mac,
        })
    }

    /// Gives the device an address with prefix length, e.g. `10.0.0.1/24`.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn add_address(&self, address: &str) {
        self.namespace.add_address(&self.device, address);
    }

    /// Sets the maximum transmission unit.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn set_mtu(&self, mtu: u16) {
        self.namespace
            .sh(&format!("ip link set dev {} mtu {mtu}", self.device));
    }

    /// Changes the Ethernet address.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn set_mac(&mut self, mac: Mac) {
        self.namespace.sh(&format!(
            "ip link set dev {} address {}",
            self.device,
            display_mac(mac)
        ));
        self.mac = mac;
    }

    /// Frames that the device was to send while the ring of a veth's other end, 256 frames, was full: lost at the link,
    /// since the device exists.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn overflowed(&self) -> u64 {
        let text = self
            .namespace
            .sh(&format!("ip -j -s link show dev {}", self.device));
        let links: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
        links[0]["stats64"]["tx"]["dropped"]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter of lost frames in {text}"))
    }

    /// Makes this end fit to face a gateway's device. The result must live as long as the link is used.
    ///
    /// # Panics
    /// If the program cannot be attached.
    pub fn face_gateway(&self) -> Attachment {
        self.namespace
            .sh(&format!("ethtool -K {} tx off", self.device));
        // A queue above the ring of 256 frames of a veth: the sender waits instead of losing frames.
        self.namespace.sh(&format!(
            "tc qdisc replace dev {} root pfifo limit 10000",
            self.device
        ));
        self.attach(Attachment::xdp_pass)
    }

    /// Puts the station at this end on a VLAN: everything it sends is tagged, and only frames with this tag reach it.
    /// That is done by a VLAN device of the kernel, which takes the name over, or by programs where the kernel has none.
    ///
    /// # Panics
    /// If the kernel refuses the device or the programs.
    pub fn join_vlan(&self, vlan: u16) -> Vec<Attachment> {
        let device = &self.device;
        self.namespace
            .sh(&format!("ethtool -K {device} txvlan off"));
        if !are_vlans_possible() {
            return vec![
                self.attach(|index| Attachment::vlan_push(index, vlan)),
                self.attach(|index| Attachment::vlan_pop(index, vlan)),
            ];
        }
        for step in [
            format!("set dev {device} down"),
            format!("set dev {device} name {device}-trunk"),
            format!("set dev {device}-trunk up"),
            format!("add link {device}-trunk name {device} type vlan id {vlan}"),
            format!("set dev {device} up"),
        ] {
            self.namespace.sh(&format!("ip link {step}"));
        }
        Vec::new()
    }

    fn attach(&self, program: impl FnOnce(u32) -> io::Result<Attachment> + Send) -> Attachment {
        let index = self.namespace.interface_index(&self.device);
        self.namespace
            .run(|| program(index))
            .unwrap_or_else(|error| {
                panic!(
                    "attaching a program to {} in {}: {error}",
                    self.device,
                    self.namespace.name()
                )
            })
    }
}

/// Whether the kernel has VLAN devices.
fn are_vlans_possible() -> bool {
    let namespace = Namespace::new("probe");
    namespace.sh("ip link add trunk type veth peer name other");
    namespace
        .try_sh("ip link add link trunk name vlan type vlan id 1")
        .status
        .success()
}

/// A veth pair between two namespaces, both ends up.
pub struct Veth {
    /// The first end.
    pub near: End,
    /// The second end.
    pub far: End,
}

impl Veth {
    /// Creates the pair.
    ///
    /// # Panics
    /// If a device name is taken.
    pub fn new(near: (&Handle, &str), far: (&Handle, &str)) -> Self {
        let ends = [near, far].map(|(namespace, device)| End {
            namespace: namespace.clone(),
            device: device.to_owned(),
            mac: next_mac(),
        });
        let [near, far] = ends;
        near.namespace.sh(&format!(
            "ip link add {} address {} type veth peer name {} address {} netns {}",
            near.device,
            display_mac(near.mac),
            far.device,
            display_mac(far.mac),
            far.namespace.name()
        ));
        for end in [&near, &far] {
            end.namespace
                .sh(&format!("ip link set dev {} up", end.device));
        }
        Self { near, far }
    }
}

/// An Ethernet switch in a namespace of its own, which carries tagged frames as they are.
pub struct Switch {
    namespace: Namespace,
    programs: Vec<Attachment>,
    ports: u32,
}

impl Switch {
    /// A switch without links.
    pub fn new(label: &str) -> Self {
        let namespace = Namespace::new(label);
        namespace.sh("ip link add switch type bridge");
        namespace.sh("ip link set switch up");
        Self {
            namespace,
            programs: Vec::new(),
            ports: 0,
        }
    }

    /// Links a device of `namespace` to the switch and returns it.
    pub fn connect(&mut self, namespace: &Handle, device: &str) -> End {
        let name = format!("port{}", self.ports);
        self.ports += 1;
        let link = Veth::new((namespace, device), (&self.namespace, &name));
        self.namespace.sh(&format!("ethtool -K {name} txvlan off"));
        self.programs.push(link.far.face_gateway());
        self.namespace
            .sh(&format!("ip link set dev {name} master switch"));
        link.near
    }
}

/// A MAC in the usual notation.
pub fn display_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A locally administered unicast MAC that no other link of this process has.
pub fn next_mac() -> Mac {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, high, middle, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    [0x02, 0x67, 0x72, high, middle, low]
}
