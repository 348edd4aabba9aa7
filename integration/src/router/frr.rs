//! FRR from the distribution: zebra and bgpd of one router, beside any number of others.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{LearnedRoute, Router};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::{exec, pace};

/// A running zebra and bgpd.
#[derive(Debug)]
pub struct Frr {
    _zebra: Daemon,
    bgpd: Option<Daemon>,
    bfdd: Option<Daemon>,
    netns: Netns,
    folder: PathBuf,
    sockets: PathBuf,
    asn: u32,
}

impl Frr {
    /// Starts both daemons in a namespace with bgpd's configuration and waits until bgpd answers.
    ///
    /// # Errors
    /// When FRR does not start.
    pub fn start(netns: &Netns, asn: u32, config: &str, folder: &Path) -> Result<Self> {
        let name = netns.name();
        // FRR keeps its sockets under /run, which is the lab's own; each router gets a folder there.
        let sockets = PathBuf::from(format!("/run/frr-{name}"));
        fs::create_dir_all(&sockets)?;
        let zebra_config = sockets.join("zebra.conf");
        fs::write(&zebra_config, format!("hostname {name}\n"))?;
        own(&sockets)?;
        let zebra = start(netns, &sockets, folder, "zebra", &zebra_config)?;
        eventually("zebra listens", pace::seconds(20), || {
            if sockets.join("zserv.api").exists() {
                Ok(())
            } else {
                Err(zebra.log_tail(400))
            }
        })?;
        let mut frr = Self {
            _zebra: zebra,
            bgpd: None,
            bfdd: None,
            netns: netns.clone(),
            folder: folder.to_path_buf(),
            sockets,
            asn,
        };
        frr.start_bgpd(asn, config)?;
        Ok(frr)
    }

    /// Starts bgpd again after [`Frr::kill_bgpd`], with another configuration, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_bgpd(&mut self, asn: u32, config: &str) -> Result<()> {
        let name = self.netns.name();
        let file = self.sockets.join("bgpd.conf");
        fs::write(&file, format!("hostname {name}\n{config}"))?;
        fs::copy(&file, self.folder.join(format!("bgpd-{name}.conf")))?;
        own(&self.sockets)?;
        self.asn = asn;
        self.bgpd = Some(start(
            &self.netns,
            &self.sockets,
            &self.folder,
            "bgpd",
            &file,
        )?);
        eventually("bgpd answers", pace::seconds(20), || {
            self.ask("show bgp summary json")
        })
        .map(drop)
        .with_context(|| self.log())
    }

    /// Starts bfdd, which has no sessions but those bgpd asks for.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_bfdd(&mut self) -> Result<()> {
        let file = self.sockets.join("bfdd.conf");
        fs::write(&file, format!("hostname {}\n", self.netns.name()))?;
        own(&self.sockets)?;
        let control = self.sockets.join("bfdd.sock").display().to_string();
        let bfdd = start_with(
            &self.netns,
            &self.sockets,
            &self.folder,
            "bfdd",
            &file,
            &["--bfdctl", &control],
        )?;
        eventually("bfdd answers", pace::seconds(20), || {
            self.vtysh(&["show bfd peers json"])
        })
        .with_context(|| bfdd.log_tail(1_000))?;
        self.bfdd = Some(bfdd);
        Ok(())
    }

    /// Kills bgpd with SIGKILL; zebra stays.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_bgpd(&mut self) -> Result<()> {
        self.bgpd.take().context("no bgpd runs")?.kill()
    }

    /// Its AS.
    #[must_use]
    pub fn asn(&self) -> u32 {
        self.asn
    }

    /// What bgpd logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.bgpd
            .as_ref()
            .map_or_else(String::new, |bgpd| bgpd.log_tail(usize::MAX))
    }

    /// Sends one command to the daemons.
    ///
    /// # Errors
    /// When they do not answer.
    pub fn ask(&self, question: &str) -> Result<String> {
        self.vtysh(&[question])
    }

    /// Gives lines of configuration to the running bgpd.
    ///
    /// # Errors
    /// When it refuses one.
    pub fn configure(&self, lines: &[&str]) -> Result<()> {
        let mut commands = vec!["configure terminal"];
        commands.extend(lines);
        let answer = self.vtysh(&commands)?;
        if answer.contains('%') {
            bail!("{answer}");
        }
        Ok(())
    }

    fn vtysh(&self, commands: &[&str]) -> Result<String> {
        let mut vtysh = Command::new("vtysh");
        vtysh
            .env("VTYSH_HISTFILE", "/dev/null")
            .arg("--vty_socket")
            .arg(&self.sockets);
        for command in commands {
            vtysh.args(["-c", command]);
        }
        exec::check(&mut vtysh)
    }

    fn json(&self, question: &str) -> Result<Value> {
        let text = self.ask(question)?;
        serde_json::from_str(&text).with_context(|| format!("{question}: {text}"))
    }
}

/// The daemons give up root for the user the package made, who could not read a checkout under /root.
fn own(sockets: &Path) -> Result<()> {
    exec::check(
        Command::new("chown")
            .args(["-R", "frr:frrvty"])
            .arg(sockets),
    )
    .map(drop)
}

fn start(
    netns: &Netns,
    sockets: &Path,
    folder: &Path,
    program: &str,
    config: &Path,
) -> Result<Daemon> {
    start_with(netns, sockets, folder, program, config, &[])
}

fn start_with(
    netns: &Netns,
    sockets: &Path,
    folder: &Path,
    program: &str,
    config: &Path,
    arguments: &[&str],
) -> Result<Daemon> {
    let mut command = netns.isolated_command(&format!("/usr/lib/frr/{program}"));
    command.args(["--log", "stdout", "-f"]).arg(config);
    command
        .arg("--vty_socket")
        .arg(sockets)
        .arg("-z")
        .arg(sockets.join("zserv.api"));
    command
        .arg("-i")
        .arg(sockets.join(format!("{program}.pid")))
        .args(arguments);
    let stem = format!("{program}-{}", netns.name());
    Daemon::start(&stem, &mut command, &folder.join(format!("{stem}.log")))
}

impl Router for Frr {
    fn sessions(&self) -> Result<BTreeMap<IpAddr, bool>> {
        let summary = self.json("show bgp summary json")?;
        let mut sessions = BTreeMap::new();
        for family in summary
            .as_object()
            .into_iter()
            .flat_map(|families| families.values())
        {
            for (address, peer) in family
                .get("peers")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let up = peer.get("state").and_then(Value::as_str) == Some("Established");
                sessions.insert(address.parse()?, up);
            }
        }
        Ok(sessions)
    }

    fn routes(&self, family: u8) -> Result<Vec<LearnedRoute>> {
        let table = self.json(&format!("show bgp ipv{family} unicast json"))?;
        let mut routes = Vec::new();
        for (prefix, paths) in table
            .get("routes")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            for path in paths.as_array().into_iter().flatten() {
                let text = |pointer: &str| {
                    path.pointer(pointer)
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                };
                // Its own networks have no peer.
                if matches!(text("/peerId"), "" | "(unspec)") {
                    continue;
                }
                routes.push(LearnedRoute {
                    prefix: prefix.clone(),
                    next_hop: text("/nexthops/0/ip").to_owned(),
                    as_path: text("/path")
                        .split_whitespace()
                        .filter_map(|word| word.parse().ok())
                        .collect(),
                    session: text("/peerId").to_owned(),
                    best: path
                        .get("bestpath")
                        .is_some_and(|best| best.as_bool() != Some(false)),
                });
            }
        }
        Ok(routes)
    }

    fn received(&self, neighbor: IpAddr, family: u8) -> Result<Vec<String>> {
        let table = self.json(&format!(
            "show bgp ipv{family} unicast neighbors {neighbor} received-routes json"
        ))?;
        let routes = table.get("receivedRoutes").and_then(Value::as_object);
        Ok(routes
            .into_iter()
            .flat_map(|routes| routes.keys().cloned())
            .collect())
    }

    fn close(&self, neighbor: IpAddr) -> Result<()> {
        self.configure(&[
            &format!("router bgp {}", self.asn),
            &format!("neighbor {neighbor} shutdown"),
        ])
    }

    fn open(&self, neighbor: IpAddr) -> Result<()> {
        self.configure(&[
            &format!("router bgp {}", self.asn),
            &format!("no neighbor {neighbor} shutdown"),
        ])
    }
}
