//! TCP transfers between namespaces whose content is checked byte by byte.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect as connect_to,
    listen as listen_on, setsockopt, socket as new_socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use crate::netns::{Handle, Namespace};
use crate::wait::{self, PATIENCE};

const CHUNK: usize = 16 << 10;
/// Bytes that a receiver takes before it has to read: so few that all packets under way find room in the ring of a link,
/// and none gets lost however busy the machine is.
const RECEIVE_BUFFER: usize = 32 << 10;

/// Where one end of a transfer is: in a namespace, and there at one device if its routes do not decide.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    namespace: &'a Handle,
    device: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// In a VRF of a namespace.
    pub fn in_vrf(namespace: &'a Handle, device: &'a str) -> Self {
        Self {
            namespace,
            device: Some(device),
        }
    }
}

impl<'a> From<&'a Handle> for Place<'a> {
    fn from(namespace: &'a Handle) -> Self {
        Self {
            namespace,
            device: None,
        }
    }
}

impl<'a> From<&'a Namespace> for Place<'a> {
    fn from(namespace: &'a Namespace) -> Self {
        Self::from(&**namespace)
    }
}

/// Sends `length` bytes from `client` to the address `address` of `server`. The bytes follow from `seed`, so that bytes
/// of another transfer are noticed; the server checks them and says how many were right.
///
/// # Errors
/// What the sockets report, or which byte was wrong.
///
/// # Panics
/// If the server cannot listen.
pub fn tcp<'a>(
    client: impl Into<Place<'a>>,
    server: impl Into<Place<'a>>,
    address: IpAddr,
    length: usize,
    seed: u64,
) -> io::Result<()> {
    let (client, server) = (client.into(), server.into());
    let listener = listen(server, address).unwrap_or_else(|error| {
        panic!(
            "listening on {address} in {}: {error}",
            server.namespace.name()
        )
    });
    let target = listener.local_addr()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let stream = connect(client, target)?;
            send(stream, length, seed)
        });
        let receiver = scope.spawn(move || receive(&accept(&listener)?, length, seed));
        let received = receiver
            .join()
            .expect("the receiving thread does not panic");
        sender.join().expect("the sending thread does not panic")?;
        received
    })
}

fn listen(place: Place<'_>, address: IpAddr) -> io::Result<TcpListener> {
    place.namespace.run(|| {
        let socket = socket(place, address)?;
        bind(
            socket.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(address, 0)),
        )?;
        listen_on(&socket, Backlog::new(1)?)?;
        Ok(TcpListener::from(socket))
    })
}

fn connect(place: Place<'_>, target: SocketAddr) -> io::Result<TcpStream> {
    place.namespace.run(|| {
        let socket = socket(place, target.ip())?;
        // The limit of connect(2) as well.
        let limit = TimeVal::seconds(PATIENCE.as_secs() as i64);
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        connect_to(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
        Ok(TcpStream::from(socket))
    })
}

/// A TCP socket of the calling thread's namespace, bound to the place's device.
fn socket(place: Place<'_>, address: IpAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = new_socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    if let Some(device) = place.device {
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device))?;
    }
    Ok(socket)
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let mut accepted = Err(io::ErrorKind::TimedOut.into());
    wait::until(|| {
        accepted = listener.accept();
        !matches!(&accepted, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    });
    let (stream, _) = accepted?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn send(mut stream: TcpStream, length: usize, seed: u64) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut content = Content::new(length, seed);
    while let Some(chunk) = content.next_chunk() {
        stream.write_all(chunk)?;
    }
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    let correct = u64::from_be_bytes(answer);
    if correct == length as u64 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the server found only {correct} of {length} bytes right"
    )))
}

fn receive(mut stream: &TcpStream, length: usize, seed: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut content = Content::new(length, seed);
    let mut buffer = [0; CHUNK];
    let mut correct = 0_u64;
    while let Some(chunk) = content.next_chunk() {
        let received = &mut buffer[..chunk.len()];
        stream.read_exact(received)?;
        if received != chunk {
            return Err(io::Error::other(format!(
                "wrong bytes behind byte {correct}"
            )));
        }
        correct += chunk.len() as u64;
    }
    stream.write_all(&correct.to_be_bytes())
}

/// Pseudo-random bytes that follow from a seed.
struct Content {
    generator: SmallRng,
    left: usize,
    chunk: Vec<u8>,
}

impl Content {
    fn new(length: usize, seed: u64) -> Self {
        Self {
            generator: SmallRng::seed_from_u64(seed),
            left: length,
            chunk: vec![0; CHUNK],
        }
    }

    fn next_chunk(&mut self) -> Option<&[u8]> {
        let length = self.left.min(CHUNK);
        self.left -= length;
        let chunk = &mut self.chunk[..length];
        self.generator.fill_bytes(chunk);
        (length > 0).then_some(chunk)
    }
}
