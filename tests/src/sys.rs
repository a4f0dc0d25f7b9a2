//! The system calls that neither `std` nor `nix` wraps: packet sockets with batches, TUN devices, `bpf(2)`.
//!
//! Every `unsafe` block of this crate is here (`kernel_gateway` has an `unsafe impl`). Called by `netns`, `bpf`,
//! `gre_peer` and `wire`; sockets and devices belong to the network namespace of the calling thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// Packets handed to the kernel, or fetched from it, in one call at most.
pub const BATCH: usize = 64;

/// `ETH_P_8021Q`: the EtherType of an IEEE 802.1Q tag.
const ETHERTYPE_VLAN: u16 = 0x8100;
/// `TP_STATUS_VLAN_VALID` and `TP_STATUS_VLAN_TPID_VALID` of `linux/if_packet.h`.
const STATUS_VLAN_VALID: u32 = 1 << 4;
const STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// A socket that sends and receives whole Ethernet frames on one device (packet(7)); it does not see what its own
/// namespace sends.
pub struct PacketSocket {
    file: File,
}

impl PacketSocket {
    /// Opens the socket on the device with this index; `receive_buffer` is in bytes and may exceed `rmem_max`.
    ///
    /// # Errors
    /// What the kernel reports; `EPERM` without CAP_NET_RAW.
    pub fn open(interface_index: u32, receive_buffer: usize) -> io::Result<Self> {
        // Protocol 0 receives nothing until the socket is bound, so no frame of another device slips in.
        let fd = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)?;
        set_option(
            &fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            clamp(receive_buffer),
        )?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20)?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        // SAFETY: sockaddr_ll is plain data; all zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        address.sll_ifindex = i32::try_from(interface_index).unwrap_or_default();
        // SAFETY: the address lives through the call and its length is given exactly.
        check(unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                length_of::<libc::sockaddr_ll>(),
            )
        })?;
        Ok(Self {
            file: File::from(fd),
        })
    }

    /// The descriptor, for `poll`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Sends up to [`BATCH`] frames and returns how many the kernel took.
    ///
    /// # Errors
    /// The error of the first frame; errors of later ones shorten the count.
    pub fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        // SAFETY: iovec is plain data; all zero is valid.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: mmsghdr is plain data; all zero is valid (no address, no control data).
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let count = frames.len().min(BATCH);
        for index in 0..count {
            parts[index].iov_base = frames[index].as_ptr().cast_mut().cast();
            parts[index].iov_len = frames[index].len();
            messages[index].msg_hdr.msg_iov = &raw mut parts[index];
            messages[index].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `messages` and `parts` outlive the call; the kernel only reads the frames.
        let sent = unsafe {
            libc::sendmmsg(
                self.file.as_raw_fd(),
                messages.as_mut_ptr(),
                u32::try_from(count).unwrap_or_default(),
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Frames that the kernel could not queue on this socket since the last call.
    ///
    /// # Errors
    /// What getsockopt(2) reports.
    pub fn overruns(&self) -> io::Result<u32> {
        // SAFETY: tpacket_stats is plain data; all zero is valid.
        let mut statistics: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = length_of::<libc::tpacket_stats>();
        // SAFETY: the kernel writes at most `length` bytes, the size of `statistics`.
        check(unsafe {
            libc::getsockopt(
                self.file.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(statistics.tp_drops)
    }
}

/// Buffers into which a [`PacketSocket`] receives a batch of frames.
pub struct ReceiveBatch {
    frames: Vec<Vec<u8>>,
    controls: Vec<[u64; 8]>,
}

impl ReceiveBatch {
    /// Buffers for [`BATCH`] frames of up to `frame_size` bytes.
    pub fn new(frame_size: usize) -> Self {
        Self {
            frames: vec![vec![0; frame_size]; BATCH],
            controls: vec![[0; 8]; BATCH],
        }
    }

    /// Fetches what is queued, without waiting, and gives each frame to `each` as (frame, VLAN tag that the kernel had
    /// taken out of it as (TPID, TCI)). Returns the number of frames.
    ///
    /// # Errors
    /// What recvmmsg(2) reports, but for `EAGAIN`, which is `Ok(0)`.
    pub fn receive(
        &mut self,
        socket: &PacketSocket,
        mut each: impl FnMut(&[u8], Option<(u16, u16)>),
    ) -> io::Result<usize> {
        // SAFETY: iovec is plain data; all zero is valid.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: mmsghdr is plain data; all zero is valid.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for index in 0..BATCH {
            parts[index].iov_base = self.frames[index].as_mut_ptr().cast();
            parts[index].iov_len = self.frames[index].len();
            let header = &mut messages[index].msg_hdr;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; 8]>();
        }
        let count = u32::try_from(BATCH).unwrap_or_default();
        // SAFETY: all buffers outlive the call and have the lengths stated in their headers; no timeout is passed.
        let received = unsafe {
            libc::recvmmsg(
                socket.file.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock {
                Ok(0)
            } else {
                Err(error)
            };
        };
        for (index, message) in messages.iter().enumerate().take(received) {
            let length = usize::try_from(message.msg_len).unwrap_or_default();
            let tag = stripped_tag(&message.msg_hdr);
            each(
                &self.frames[index][..length.min(self.frames[index].len())],
                tag,
            );
        }
        Ok(received)
    }
}

/// A socket that sends whole IP packets, header included, through the routing and neighbour tables of the namespace
/// (raw(7), `IPPROTO_RAW`), connected to one destination.
///
/// # Errors
/// What the kernel reports; without a route to `remote`, `ENETUNREACH`.
pub fn raw_ip_sender(remote: std::net::IpAddr) -> io::Result<File> {
    let family = if remote.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = socket(
        family,
        libc::SOCK_RAW | libc::SOCK_CLOEXEC,
        libc::IPPROTO_RAW,
    )?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20)?;
    let address = nix::sys::socket::SockaddrStorage::from(std::net::SocketAddr::new(remote, 0));
    nix::sys::socket::connect(fd.as_raw_fd(), &address)?;
    Ok(File::from(fd))
}

/// A socket that claims IP protocol 47 and throws away what arrives, so that the kernel does not answer GRE with ICMP
/// "protocol unreachable". It must stay open as long as that is wanted.
///
/// # Errors
/// What the kernel reports.
pub fn gre_claim(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let fd = socket(
        family,
        libc::SOCK_RAW | libc::SOCK_CLOEXEC,
        libc::IPPROTO_GRE,
    )?;
    // A classic filter of the single instruction "accept 0 bytes".
    let mut instruction = libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let filter = libc::sock_fprog {
        len: 1,
        filter: &raw mut instruction,
    };
    // SAFETY: the program and its one instruction live through the call; the kernel copies both.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            length_of::<libc::sock_fprog>(),
        )
    })?;
    Ok(fd)
}

/// Creates a TUN device without packet information: each `read` is one IP packet, each `write` must be one. The device
/// goes away with the last descriptor. Reads do not block.
///
/// # Errors
/// What the kernel reports; `EBUSY` if the name is taken.
pub fn tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data; all zero is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("device name {name:?} is longer than 15 bytes"),
        ));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// Makes `command` start in the network namespace that `namespace` is open on, and be killed when the thread that
/// started it ends, so that nothing outlives a test.
pub fn run_in_namespace(command: &mut Command, namespace: Arc<File>) {
    let parent = std::process::id();
    let prepare = move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(parent) {
            return Err(io::Error::other(
                "the process that started this command has ended",
            ));
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls that are safe between fork and exec, and allocates nothing unless it
    // fails.
    unsafe { command.pre_exec(prepare) };
}

/// One call of bpf(2) that returns a descriptor. `attributes` is the `union bpf_attr` of the command as bytes.
///
/// # Errors
/// What the kernel reports.
pub fn bpf(command: libc::c_long, attributes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes.len()` bytes; addresses in them are the caller's, alive through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    let fd = RawFd::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps the calling thread on one processor, and before all ordinary threads there.
///
/// # Errors
/// `EINVAL` if the machine has no such processor; `EACCES` without CAP_SYS_NICE.
pub fn favour_thread(processor: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(processor)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    // A nice value would count only among threads of the same session (autogroups).
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) })
}

/// The VLAN tag that the kernel had removed from a received frame, from its auxiliary data (packet(7),
/// `PACKET_AUXDATA`), as (TPID, TCI) in host order.
fn stripped_tag(header: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the header was filled by recvmmsg and its control buffer is alive.
    let control = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: CMSG_FIRSTHDR returns null or a header inside the control buffer.
    let description = unsafe { control.as_ref() }?;
    if description.cmsg_level != libc::SOL_PACKET || description.cmsg_type != libc::PACKET_AUXDATA {
        return None;
    }
    // SAFETY: the message is PACKET_AUXDATA, whose data begin right after its header, inside the control buffer.
    let data = unsafe { libc::CMSG_DATA(control) };
    // SAFETY: PACKET_AUXDATA carries one tpacket_auxdata, which may be read from any alignment.
    let auxiliary: libc::tpacket_auxdata = unsafe { std::ptr::read_unaligned(data.cast()) };
    if auxiliary.tp_status & STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if auxiliary.tp_status & STATUS_VLAN_TPID_VALID != 0 {
        auxiliary.tp_vlan_tpid
    } else {
        ETHERTYPE_VLAN
    };
    Some((tpid, auxiliary.tp_vlan_tci))
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes three numbers.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    check(fd)?;
    // SAFETY: the call has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value lives through the call and its length is given exactly.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length_of::<i32>(),
        )
    })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

fn clamp(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
