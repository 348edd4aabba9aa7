//! Runs a lab inside Debian's own kernel under QEMU's software emulation, on this machine's file system.
//!
//! Some kernels lack what a lab needs, IP-in-IP above all, and no machine wants its clock set. `integration/setup` unpacks the
//! distribution's kernel into `integration/cache/vm`, and for the tests a newer one, which has TCP-AO, into
//! `integration/cache/newer/vm`; this module boots one with the host's root as its root file system (9p), runs this very
//! program there and takes the verdict from a file the guest writes. QEMU's own exit status says nothing, and a missing
//! file is a failure. The guest works in memory; its logs are copied to the lab's folder at the end.
//!
//! It has one processor: the kernel rewrites its own code while it runs, with a breakpoint in place of it meanwhile, and an
//! emulated second processor may run into the breakpoint after it was taken away. Of some forty boots of Linux 7.3 one died so.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Seek, SeekFrom, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::eventually::{eventually, idle};
use crate::pace::{self, PACE_VARIABLE};
use crate::report::say;
use crate::workdir::{self, LABS_VARIABLE};
use crate::{netns::Netns, process::Daemon, speaker};

/// How much slower than a real machine the guest may be.
const GUEST_PACE: u32 = 6;

/// A lab in the guest that takes longer has failed.
pub const LIMIT: Duration = Duration::from_secs(1_000);

/// A guest boots in seconds; one that has not begun with its script by then never will.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// Environment variable that tells a lab it runs in the guest.
pub const GUEST_VARIABLE: &str = "MARGAY_LAB_GUEST";

/// Whether this process runs in the emulated machine.
#[must_use]
pub fn is_guest() -> bool {
    std::env::var_os(GUEST_VARIABLE).is_some()
}

/// What some kernels lack, or do not let a lab have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// A tunnel of IP in IP.
    Ipip,
    /// A table of routes with devices of its own.
    Vrf,
    /// A clock on the wall that may be set, and control groups that are the lab's own: only in the emulated machine.
    Clock,
    /// TCP-AO (RFC 5925): Linux 6.7 where it was built with it.
    TcpAo,
}

impl Feature {
    /// Where its kernel was unpacked, below `integration/cache`.
    const fn machine(self) -> &'static str {
        match self {
            Self::Ipip | Self::Vrf | Self::Clock => "vm",
            Self::TcpAo => "newer/vm",
        }
    }
}

/// Whether the running kernel has it for the lab; devices are tried in a namespace of the lab.
///
/// # Errors
/// When not even a namespace can be made.
pub fn kernel_has(feature: Feature) -> Result<bool> {
    let kind = match feature {
        Feature::Ipip => "ipip local 192.0.2.1 remote 192.0.2.2",
        Feature::Vrf => "vrf table 100",
        Feature::Clock => return Ok(is_guest()),
        Feature::TcpAo => return speaker::takes_tcp_ao(),
    };
    let probe = Netns::create("probe")?;
    let made = probe
        .ip(&format!("link add name probe0 type {kind}"))
        .is_ok();
    probe.delete()?;
    Ok(made)
}

/// A kernel that `integration/setup` unpacked.
struct Kernel {
    folder: PathBuf,
    release: String,
}

impl Kernel {
    fn find(feature: Feature) -> Result<Self> {
        let folder = workdir::checkout()
            .join("integration/cache")
            .join(feature.machine());
        let release = fs::read_to_string(folder.join("ready")).with_context(|| {
            format!(
                "no kernel in {}: run integration/setup --tests",
                folder.display()
            )
        })?;
        let release = release.trim().to_owned();
        Ok(Self { folder, release })
    }

    /// QEMU, to be started by `command`, with this kernel, a script for the guest and `more`.
    fn boot(
        &self,
        mut command: Command,
        script: &Path,
        folder: &Path,
        more: &[&str],
    ) -> Result<Daemon> {
        command.args([
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-smp",
            "1",
            "-cpu",
            "max",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
        ]);
        command.arg(self.folder.join("vmlinuz"));
        command
            .arg("-initrd")
            .arg(self.folder.join("initrd.gz"))
            .arg("-append");
        command.arg(format!(
            "console=ttyS0 quiet oops=panic panic=1 lab.script={}",
            script.display()
        ));
        command
            .arg("-serial")
            .arg(format!("file:{}", folder.join("serial.log").display()));
        command
            .args([
                "-virtfs",
                "local,path=/,mount_tag=root,security_model=passthrough,multidevs=remap",
            ])
            .args(more);
        say(format_args!("booting Linux {} under QEMU", self.release));
        Daemon::start("qemu", &mut command, &folder.join("qemu.log"))
    }

    /// What every guest does first.
    fn beginning(&self) -> String {
        let modules = self.folder.join("root");
        let modules = modules.display();
        // The kernel asks /proc/sys/kernel/modprobe for whatever a netlink request needs: ipip, vxlan, nf_tables …
        format!(
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs lab /mnt
printf '#!/bin/sh\\nexec /sbin/modprobe -d {modules} \"$@\"\\n' > /mnt/modprobe
chmod 755 /mnt/modprobe
echo /mnt/modprobe > /proc/sys/kernel/modprobe
"
        )
    }
}

/// What every guest does last.
const END: &str = "echo o > /proc/sysrq-trigger
while :; do read -r _ < /dev/console; done
";

/// Runs `lab <arguments>` in a guest that has `feature`, prints what it prints, and returns its exit status.
///
/// # Errors
/// When the kernel was not unpacked, the guest does not boot or gives no verdict within [`LIMIT`].
pub fn run(feature: Feature, arguments: &[&str], folder: &Path) -> Result<i32> {
    let kernel = Kernel::find(feature)?;
    let script = folder.join("guest.sh");
    let (console, begun) = (folder.join("output.txt"), folder.join("begun"));
    let (verdict, serial) = (folder.join("verdict"), folder.join("serial.log"));
    File::create(&console)?;
    fs::write(&script, guest_script(&kernel, arguments, folder)?)?;
    let command = Command::new("setpriv");
    let more = ["-m", "2G", "-nic", "none"];
    let mut machine = kernel.boot(command, &script, folder, &more)?;
    let mut tail = Tail {
        file: File::open(&console)?,
        rest: Vec::new(),
    };
    let start = Instant::now();
    while machine.ended().is_none() {
        tail.print()?;
        let waited = start.elapsed();
        let begun = begun.exists();
        if waited > LIMIT || (waited > BOOT_LIMIT && !begun) {
            let what = if begun {
                "given no verdict"
            } else {
                "not begun with its script"
            };
            say(last(&serial));
            bail!(
                "the guest had {what} after {waited:.0?}; what there is of its logs is in {}",
                folder.display()
            );
        }
        idle(Duration::from_millis(100));
    }
    tail.print()?;
    let verdict = fs::read_to_string(&verdict).with_context(|| {
        say(last(&serial));
        format!(
            "the guest ended without a verdict; what there is of its logs is in {}",
            folder.display()
        )
    })?;
    verdict
        .trim()
        .parse()
        .with_context(|| format!("verdict {verdict:?}"))
}

fn guest_script(kernel: &Kernel, arguments: &[&str], folder: &Path) -> Result<String> {
    let program = std::env::current_exe()?;
    let (program, folder) = (program.display(), folder.display());
    let (beginning, arguments) = (kernel.beginning(), arguments.join(" "));
    Ok(format!(
        "{beginning}: > '{folder}/begun'
/mnt/modprobe -a ipip vxlan veth bridge nf_tables nft_chain_nat nft_masq
{GUEST_VARIABLE}=1 {PACE_VARIABLE}={GUEST_PACE} {LABS_VARIABLE}=/mnt/labs {program} {arguments} > '{folder}/output.txt' 2>&1
status=$?
[ ! -d /mnt/labs ] || cp -r /mnt/labs '{folder}/guest' 2>/dev/null
echo $status > '{folder}/verdict.part'
sync
mv '{folder}/verdict.part' '{folder}/verdict'
sync
{END}"
    ))
}

/// What a console showed last: of a kernel that died, its farewell.
fn last(serial: &Path) -> String {
    let text = fs::read(serial).unwrap_or_default();
    let last = text.get(text.len().saturating_sub(3_000)..);
    String::from_utf8_lossy(last.unwrap_or_default())
        .trim()
        .to_owned()
}

/// Prints a growing file line by line.
struct Tail {
    file: File,
    rest: Vec<u8>,
}

impl Tail {
    fn print(&mut self) -> Result<()> {
        let position = self.file.stream_position()?;
        self.file.seek(SeekFrom::Start(position))?;
        self.file.read_to_end(&mut self.rest)?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            say(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }
}

/// Where the guest's logs are after [`run`].
#[must_use]
pub fn guest_logs(folder: &Path) -> PathBuf {
    folder.join("guest")
}

/// A machine that is plugged into a switch of the lab and may be stopped as a whole: its processes, its kernel and its clock.
#[derive(Debug)]
pub struct Guest {
    machine: Daemon,
    monitor: BufReader<UnixStream>,
    serial: PathBuf,
}

impl Guest {
    /// Whether this machine lets a lab plug one in.
    #[must_use]
    pub fn possible() -> bool {
        Path::new("/dev/net/tun").exists()
    }

    /// Boots one whose `eth0` is the tap device of that name in `netns`; it runs the lines of `script`, whose output is its console's.
    ///
    /// # Errors
    /// When the kernel was not unpacked, or QEMU does not start.
    pub fn boot(netns: &Netns, tap: &str, script: &str, folder: &Path) -> Result<Self> {
        let kernel = Kernel::find(Feature::Clock)?;
        let file = folder.join(format!("{tap}.sh"));
        let beginning = kernel.beginning();
        let text = format!(
            "{beginning}/mnt/modprobe -a virtio_net\nip link set lo up\nip link set eth0 up\n{{ {script}\n}} > /dev/console 2>&1\n{END}"
        );
        fs::write(&file, text)?;
        let socket = format!("/run/{tap}.qmp");
        let machine = kernel.boot(
            netns.command("setpriv"),
            &file,
            folder,
            &[
                "-m",
                "512M",
                "-netdev",
                &format!("tap,id=wire,ifname={tap},script=no,downscript=no"),
                "-device",
                "virtio-net-pci,netdev=wire,romfile=",
                "-qmp",
                &format!("unix:{socket},server=on,wait=off"),
            ],
        )?;
        let stream = eventually("QEMU's monitor", pace::seconds(10), || {
            UnixStream::connect(&socket)
        })
        .with_context(|| machine.log_tail(1_000))?;
        stream.set_read_timeout(Some(pace::seconds(10)))?;
        let mut guest = Self {
            machine,
            monitor: BufReader::new(stream),
            serial: folder.join("serial.log"),
        };
        guest.tell("qmp_capabilities")?;
        Ok(guest)
    }

    /// Stops the machine where it is.
    ///
    /// # Errors
    /// When QEMU does not say that it did.
    pub fn pause(&mut self) -> Result<()> {
        self.tell("stop")
    }

    /// Lets it go on, as if no time had passed.
    ///
    /// # Errors
    /// When QEMU does not say that it does.
    pub fn resume(&mut self) -> Result<()> {
        self.tell("cont")
    }

    /// What its console showed last.
    #[must_use]
    pub fn console(&self) -> String {
        last(&self.serial)
    }

    /// Pulls its plug.
    ///
    /// # Errors
    /// When QEMU cannot be waited for.
    pub fn kill(self) -> Result<()> {
        self.machine.kill()
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        let line = format!("{{\"execute\": \"{command}\"}}\n");
        self.monitor.get_mut().write_all(line.as_bytes())?;
        // Its greeting, and events, come in between.
        loop {
            let mut line = String::new();
            let length = self.monitor.read_line(&mut line)?;
            ensure!(length > 0, "QEMU's monitor closed at {command}");
            let answer: Value = serde_json::from_str(&line).context(line)?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            ensure!(answer.get("error").is_none(), "{command}: {answer}");
        }
    }
}
