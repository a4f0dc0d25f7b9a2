//! One run of a guest: a PC in QEMU, by software emulation, whose process 1 reports over a serial port.
//!
//! Its two cards are on one Ethernet segment in a network namespace that lives as long as QEMU does.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// Memory of a guest: its file system, and two data planes.
const MEGABYTES: &str = "2048";
/// Nothing that a guest does takes that long: it hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// Cards with two queues each, on a bridge; without IPv6, so that the host says nothing there.
const SEGMENT: &str = "\
set -e
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add segment up type bridge
for card in card0 card1; do
    ip tuntap add $card mode tap multi_queue
    ip link set $card master segment up
done
exec \"$@\"
";

/// Frames as they are on a wire: no checksums left to hardware, none larger than the MTU.
const CARD: &str = "virtio-net-pci,mq=on,vectors=6,csum=off,gso=off,host_tso4=off,host_tso6=off,host_ecn=off,\
    host_ufo=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off";

/// Boots `kernel` with the file system `image` and hands each line of the report to `line`, until the guest has switched
/// itself off.
///
/// # Errors
/// If QEMU cannot be run, fails, or does not end in time; what the guest printed on its console is in the message.
pub(super) fn run(
    kernel: &Path,
    image: &Path,
    console: &Path,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let mut qemu = command::command("unshare");
    qemu.args([
        "--net",
        "sh",
        "-c",
        SEGMENT,
        "segment",
        "qemu-system-x86_64",
    ]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEGABYTES]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    qemu.args([
        "-append",
        "console=ttyS0 panic=-1 mitigations=off net.ifnames=0 fb_tunnels=none",
    ]);
    qemu.arg("-serial")
        .arg(format!("file:{}", console.display()));
    qemu.args([
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "file,id=report,path=/dev/stdout",
    ]);
    qemu.args(["-device", "virtserialport,chardev=report,name=report"]);
    for (number, card) in ["card0", "card1"].into_iter().enumerate() {
        qemu.arg("-netdev").arg(format!(
            "tap,id={card},ifname={card},queues=2,script=no,downscript=no"
        ));
        qemu.arg("-device")
            .arg(format!("{CARD},netdev={card},mac=02:67:72:ff:00:0{number}"));
    }
    let mut child = qemu
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run QEMU")?;
    let report = child.stdout.take().context("the report is not piped")?;
    let watch = Watch::over(child);
    for text in BufReader::new(report).split(b'\n') {
        let text = text.context("cannot read the guest's report")?;
        line(String::from_utf8_lossy(&text).trim_end_matches('\r'));
    }
    let printed = || std::fs::read_to_string(console).unwrap_or_default();
    match watch.end()? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!(
            "QEMU ended with {status}; the guest's console:\n{}",
            printed()
        ),
        None => bail!(
            "the guest did not end within {} s; its console:\n{}",
            LIMIT.as_secs(),
            printed()
        ),
    }
}

/// Ends QEMU once it has run for too long.
struct Watch {
    ended: mpsc::Sender<()>,
    was_killed: Arc<AtomicBool>,
    thread: thread::JoinHandle<std::io::Result<std::process::ExitStatus>>,
}

impl Watch {
    fn over(mut child: Child) -> Self {
        let (ended, wait) = mpsc::channel();
        let was_killed = Arc::new(AtomicBool::new(false));
        let killed = Arc::clone(&was_killed);
        let thread = thread::spawn(move || {
            if wait.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                killed.store(true, Ordering::Relaxed);
                child.kill()?;
            }
            child.wait()
        });
        Self {
            ended,
            was_killed,
            thread,
        }
    }

    /// How QEMU ended, which has closed its output; `None`: by force.
    fn end(self) -> Result<Option<std::process::ExitStatus>> {
        // The thread has ended already where QEMU was killed.
        let _ = self.ended.send(());
        let status = self
            .thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let status = status.context("cannot wait for QEMU")?;
        Ok((!self.was_killed.load(Ordering::Relaxed)).then_some(status))
    }
}
