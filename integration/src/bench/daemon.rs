//! The daemons under test, each as a route reflector for dynamic neighbours that neither reads nor writes kernel
//! routes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};

use super::shape::{ASN, CLIENT_RANGE, SERVER, Shape};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::node::programs;
use crate::pace;
use crate::process::Daemon;
use crate::router::bird::Version;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Contender {
    /// `margay speaker`.
    Margay,
    /// BIRD 2 of the distribution.
    Bird2,
    /// BIRD 3, as `integration/setup --tests` unpacks it.
    Bird3,
    /// BIRD 1.6, Calico's line.
    Bird1,
    /// FRR's bgpd.
    Frr,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
}

impl Contender {
    /// As printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Margay => "margay",
            Self::Bird2 => "BIRD 2",
            Self::Bird3 => "BIRD 3",
            Self::Bird1 => "BIRD 1.6",
            Self::Frr => "FRR",
            Self::Gobgp => "GoBGP",
            Self::Openbgpd => "OpenBGPD",
        }
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(self, daemon: Daemon) -> Result<()> {
        if self == Self::Openbgpd {
            // Its workers would miss their parent only after a while, and hold the port until then.
            killpg(daemon.pid(), Signal::SIGKILL)?;
        }
        daemon.kill().map(drop)
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it is not on this machine or does not start.
    pub fn start(self, shape: &Shape, netns: &Netns, folder: &Path) -> Result<Daemon> {
        let stem = format!("{self:?}").to_lowercase();
        let config = folder.join(format!("{stem}.conf"));
        let log = folder.join(format!("{stem}.log"));
        fs::write(&config, self.config(shape))?;
        let program = match self {
            Self::Margay => programs()?.join("margay"),
            Self::Bird2 => Version::Two.programs().context("no BIRD 2 here")?.0,
            Self::Bird3 => {
                let programs = Version::Three.programs();
                programs
                    .context("no BIRD 3 here: run integration/setup --tests")?
                    .0
            }
            Self::Bird1 => Version::One.programs().context("no BIRD 1.6 here")?.0,
            Self::Frr => "/usr/lib/frr/bgpd".into(),
            Self::Gobgp => "/usr/bin/gobgpd".into(),
            Self::Openbgpd => "/usr/sbin/bgpd".into(),
        };
        let mut command = netns.command(&program.display().to_string());
        match self {
            Self::Margay => command.arg("speaker").arg("--config").arg(&config),
            Self::Bird2 | Self::Bird3 | Self::Bird1 => command
                .args(["-f", "-c"])
                .arg(&config)
                .args(["-s", "/run/bench.ctl", "-P", "/run/bench.pid"]),
            Self::Frr => command.args(["-n", "-Z", "-S", "-f"]).arg(&config).args([
                "-i",
                "/run/bench.pid",
                "-A",
                "127.0.0.1",
                "--vty_socket",
                "/run",
            ]),
            Self::Gobgp => command
                .args([
                    "--pprof-disable",
                    "-l",
                    "warn",
                    "--api-hosts",
                    "127.0.0.1:50051",
                    "-f",
                ])
                .arg(&config),
            Self::Openbgpd => {
                // It refuses a configuration that others may read, and confines its workers to a folder the package's service
                // would make.
                fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
                fs::create_dir_all("/run/openbgpd")?;
                command.process_group(0).args(["-d", "-f"]).arg(&config)
            }
        };
        let mut daemon = Daemon::start(self.name(), &mut command, &log)?;
        eventually(
            format!("{} listens", self.name()),
            pace::seconds(10),
            || {
                if let Some(status) = daemon.ended() {
                    return Err(format!("it ended with {status}: {}", daemon.log_tail(800)));
                }
                let listening =
                    crate::exec::check(netns.command("ss").args(["-Hltn", "sport", "=", ":179"]))
                        .map_err(|e| e.to_string())?;
                if listening.contains(":179") {
                    Ok(())
                } else {
                    Err("nothing listens on port 179".to_owned())
                }
            },
        )?;
        Ok(daemon)
    }

    fn config(self, shape: &Shape) -> String {
        match self {
            Self::Margay => format!(
                "asn: {ASN}\nrouterId: {SERVER}\nlisten: [\"{SERVER}:179\"]\nclusterId: {SERVER}\nkernel: {{ install: false }}\n\
                 families: [ipv4-unicast]\npeers:\n  - name: clients\n    range: {CLIENT_RANGE}\n    asn: {ASN}\n    \
                 routeReflectorClient: true\n    passive: true\n"
            ),
            Self::Bird2 | Self::Bird3 => format!(
                "router id {SERVER};\nprotocol device {{ }}\nprotocol direct {{ ipv4; }}\n\
                 protocol bgp clients {{\n  local {SERVER} as {ASN};\n  neighbor range {CLIENT_RANGE} internal;\n  \
                 dynamic name \"c\"; direct; passive; rr client; hold time 240;\n  ipv4 {{ import all; export where source = RTS_BGP; }};\n}}\n"
            ),
            // BIRD 1.6 knows no dynamic neighbours: one protocol a client.
            Self::Bird1 => {
                let mut text =
                    format!("router id {SERVER};\nprotocol device {{ }}\nprotocol direct {{ }}\n");
                for client in 0..=shape.clients {
                    let address = Shape::client_address(client);
                    text.push_str(&format!(
                        "protocol bgp c{client} {{ local {SERVER} as {ASN}; neighbor {address} as {ASN}; direct; passive; rr client; \
                         hold time 240; error wait time 1, 1; import all; export where source = RTS_BGP; }}\n"
                    ));
                }
                text
            }
            Self::Frr => format!(
                "frr defaults traditional\nrouter bgp {ASN}\n bgp router-id {SERVER}\n no bgp default ipv4-unicast\n \
                 timers bgp 80 240\n neighbor C peer-group\n neighbor C remote-as internal\n neighbor C passive\n \
                 bgp listen range {CLIENT_RANGE} peer-group C\n bgp listen limit 5000\n address-family ipv4 unicast\n  \
                 neighbor C activate\n  neighbor C route-reflector-client\n exit-address-family\n"
            ),
            Self::Gobgp => format!(
                "[global.config]\n  as = {ASN}\n  router-id = \"{SERVER}\"\n  local-address-list = [\"{SERVER}\"]\n\
                 [[peer-groups]]\n  [peer-groups.config]\n    peer-group-name = \"c\"\n    peer-as = {ASN}\n  \
                 [peer-groups.timers.config]\n    hold-time = 240\n  \
                 [peer-groups.route-reflector.config]\n    route-reflector-client = true\n    \
                 route-reflector-cluster-id = \"{SERVER}\"\n  \
                 [[peer-groups.afi-safis]]\n    [peer-groups.afi-safis.config]\n      afi-safi-name = \"ipv4-unicast\"\n\
                 [[dynamic-neighbors]]\n  [dynamic-neighbors.config]\n    prefix = \"{CLIENT_RANGE}\"\n    peer-group = \"c\"\n"
            ),
            Self::Openbgpd => format!(
                "socket \"/run/bench.sock\"\nAS {ASN}\nrouter-id {SERVER}\nfib-update no\nholdtime 240\nlisten on {SERVER}\n\
                 neighbor {CLIENT_RANGE} {{\n  remote-as {ASN}\n  passive\n  route-reflector {SERVER}\n  \
                 announce IPv4 unicast\n}}\nallow from any\nallow to any\n"
            ),
        }
    }
}
