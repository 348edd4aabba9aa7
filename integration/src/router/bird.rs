//! BIRD 2 from the distribution, and BIRD 1.6, the version Calico ships, and BIRD 3 unpacked beside it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{LearnedRoute, Router};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::{exec, pace, workdir};

/// Which BIRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// BIRD 1.6, IPv4 process.
    One,
    /// BIRD 1.6, IPv6 process.
    OneV6,
    /// BIRD 2.
    Two,
    /// BIRD 3, which knows TCP-AO.
    Three,
}

impl Version {
    /// Daemon and client; `None` where this machine has no such version.
    #[must_use]
    pub fn programs(self) -> Option<(PathBuf, PathBuf)> {
        let cache = workdir::checkout().join("integration/cache");
        let unpacked = cache.join("bird1/usr/sbin");
        let newer = cache.join("newer/bird3");
        let (daemon, client) = match self {
            Self::One => (unpacked.join("bird"), unpacked.join("birdc")),
            Self::OneV6 => (unpacked.join("bird6"), unpacked.join("birdc6")),
            Self::Two => (
                PathBuf::from("/usr/sbin/bird"),
                PathBuf::from("/usr/sbin/birdc"),
            ),
            Self::Three => (newer.join("bird"), newer.join("birdc")),
        };
        (daemon.exists() && client.exists()).then_some((daemon, client))
    }
}

/// A running BIRD.
#[derive(Debug)]
pub struct Bird {
    daemon: Daemon,
    client: PathBuf,
    socket: PathBuf,
    config: PathBuf,
}

impl Bird {
    /// Starts BIRD in a namespace with this configuration and waits until it answers.
    ///
    /// # Errors
    /// When the version is not on this machine or BIRD does not accept the configuration.
    pub fn start(version: Version, netns: &Netns, config: &str, folder: &Path) -> Result<Self> {
        Self::start_with(version, netns, config, folder, &[])
    }

    /// As [`Bird::start`], with more arguments: `-R` for one that was there before and kept its forwarding state.
    ///
    /// # Errors
    /// As [`Bird::start`].
    pub fn start_with(
        version: Version,
        netns: &Netns,
        config: &str,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let (program, client) = version
            .programs()
            .with_context(|| format!("{version:?}: no such BIRD here"))?;
        let family = if version == Version::OneV6 { "6" } else { "" };
        let stem = format!("bird{family}-{}", netns.name());
        let config_file = folder.join(format!("{stem}.conf"));
        fs::write(&config_file, config)?;
        // In the lab's own /run: a socket's path must be short, a checkout's may be long.
        let socket = PathBuf::from(format!("/run/{stem}.ctl"));
        let mut command = netns.isolated_command(&program.display().to_string());
        command
            .arg("-f")
            .arg("-c")
            .arg(&config_file)
            .arg("-s")
            .arg(&socket)
            .args(["-P", &format!("/run/{stem}.pid")])
            .args(arguments);
        let daemon = Daemon::start(&stem, &mut command, &folder.join(format!("{stem}.log")))?;
        let bird = Self {
            daemon,
            client,
            socket,
            config: config_file,
        };
        eventually(format!("{stem} answers"), pace::seconds(10), || {
            bird.ask("show status")
        })
        .with_context(|| bird.daemon.log_tail(2_000))?;
        Ok(bird)
    }

    /// Sends one command to BIRD.
    ///
    /// # Errors
    /// When BIRD does not answer.
    pub fn ask(&self, question: &str) -> Result<String> {
        exec::check(
            Command::new(&self.client)
                .arg("-s")
                .arg(&self.socket)
                .args(question.split_whitespace()),
        )
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(self) -> Result<()> {
        self.daemon.kill()?;
        let _ = fs::remove_file(self.socket);
        Ok(())
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log_tail(usize::MAX)
    }

    /// Replaces the configuration of the running daemon.
    ///
    /// # Errors
    /// When BIRD does not accept it.
    pub fn reconfigure(&self, config: &str) -> Result<()> {
        fs::write(&self.config, config)?;
        let answer = self.ask("configure")?;
        if !answer.contains("Reconfigur") {
            bail!("{answer}");
        }
        Ok(())
    }

    /// Each BGP protocol's name and neighbour.
    fn neighbors(&self) -> Result<BTreeMap<IpAddr, (String, bool)>> {
        Ok(parse_protocols(&self.ask("show protocols all")?))
    }

    fn name_of(&self, neighbor: IpAddr) -> Result<String> {
        let (name, _) = self
            .neighbors()?
            .remove(&neighbor)
            .with_context(|| format!("no session with {neighbor}"))?;
        Ok(name)
    }
}

impl Router for Bird {
    fn sessions(&self) -> Result<BTreeMap<IpAddr, bool>> {
        Ok(self
            .neighbors()?
            .into_iter()
            .map(|(address, (_, up))| (address, up))
            .collect())
    }

    fn routes(&self, family: u8) -> Result<Vec<LearnedRoute>> {
        let all = parse_routes(&self.ask("show route all")?);
        Ok(all
            .into_iter()
            .filter(|route| route.prefix.contains(':') == (family == 6))
            .collect())
    }

    fn received(&self, neighbor: IpAddr, family: u8) -> Result<Vec<String>> {
        let name = self.name_of(neighbor)?;
        let mut prefixes = Vec::new();
        for question in [
            format!("show route all filtered protocol {name}"),
            format!("show route all protocol {name}"),
        ] {
            prefixes.extend(
                parse_routes(&self.ask(&question)?)
                    .into_iter()
                    .map(|route| route.prefix),
            );
        }
        prefixes.retain(|prefix| prefix.contains(':') == (family == 6));
        prefixes.sort();
        prefixes.dedup();
        Ok(prefixes)
    }

    fn close(&self, neighbor: IpAddr) -> Result<()> {
        self.ask(&format!("disable {}", self.name_of(neighbor)?))
            .map(drop)
    }

    fn open(&self, neighbor: IpAddr) -> Result<()> {
        self.ask(&format!("enable {}", self.name_of(neighbor)?))
            .map(drop)
    }
}

fn parse_protocols(text: &str) -> BTreeMap<IpAddr, (String, bool)> {
    let mut neighbors = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut up = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with(char::is_whitespace) && words.get(1) == Some(&"BGP") {
            current = words.first().map(|name| (*name).to_owned());
            up = words.last() == Some(&"Established");
        } else if !line.is_empty() && !line.starts_with(char::is_whitespace) {
            current = None;
        } else if let (Some(name), Some(&"Neighbor"), Some(&"address:")) =
            (&current, words.first(), words.get(1))
            && let Some(address) = words
                .get(2)
                .and_then(|word| word.split('%').next())
                .and_then(|word| word.parse().ok())
        {
            neighbors.insert(address, (name.clone(), up));
        }
    }
    neighbors
}

/// What stands behind an attribute's name, as BIRD 2 or as BIRD 3 calls it.
fn value_of<'a>(line: &'a str, old: &str, new: &str) -> Option<&'a str> {
    line.strip_prefix(old).or_else(|| line.strip_prefix(new))
}

fn parse_routes(text: &str) -> Vec<LearnedRoute> {
    let mut routes: Vec<LearnedRoute> = Vec::new();
    let mut prefix = String::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        // A route's first line names its protocol in brackets; further paths of a prefix leave the prefix out.
        if let Some(session) = trimmed
            .split_once('[')
            .filter(|_| !line.starts_with('\t'))
            .map(|(_, rest)| rest)
        {
            if !line.starts_with(' ') {
                prefix = line
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
            }
            let session = session
                .split([' ', ']'])
                .next()
                .unwrap_or_default()
                .to_owned();
            let best = trimmed.contains("] * (");
            let next_hop = String::new();
            routes.push(LearnedRoute {
                prefix: prefix.clone(),
                next_hop,
                as_path: Vec::new(),
                session,
                best,
            });
        } else if let (Some(value), Some(route)) = (
            value_of(trimmed, "BGP.as_path:", "bgp_path:"),
            routes.last_mut(),
        ) {
            route.as_path = value
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect();
        } else if let (Some(value), Some(route)) = (
            value_of(trimmed, "BGP.next_hop:", "bgp_next_hop:"),
            routes.last_mut(),
        ) {
            route.next_hop = value
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned();
        }
    }
    routes.retain(|route| !route.next_hop.is_empty());
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: &str = "BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     19:20:31.046  
n1         BGP        ---        up     19:20:36.120  Established   
  BGP state:          Established
    Neighbor address: 10.0.1.11
n2         BGP        ---        start  19:20:31.046  Active        Socket: Connection refused
  BGP state:          Active
    Neighbor address: 10.0.1.12
";

    const ROUTES: &str = "BIRD 2.0.12 ready.
Table master4:
10.0.1.0/24          unicast [racks 19:20:31.046] * (200)
\tdev br0
\tType: static univ
198.51.100.0/24      unicast [torb 19:20:36.120] * (100) [AS64602i]
\tvia 172.31.0.2 on up0
\tType: BGP univ
\tBGP.origin: IGP
\tBGP.as_path: 64602 64513
\tBGP.next_hop: 172.31.0.2
                     unicast [n1 19:20:37.120] (100) [AS64512i]
\tvia 10.0.1.11 on br0
\tType: BGP univ
\tBGP.as_path: 64512
\tBGP.next_hop: 10.0.1.11
";

    #[test]
    fn sessions_are_told_by_neighbour_and_state() {
        let neighbors = parse_protocols(PROTOCOLS);
        assert_eq!(
            neighbors.get(&IpAddr::from([10, 0, 1, 11])),
            Some(&("n1".to_owned(), true))
        );
        assert_eq!(
            neighbors.get(&IpAddr::from([10, 0, 1, 12])),
            Some(&("n2".to_owned(), false))
        );
    }

    #[test]
    fn each_path_of_a_prefix_is_a_route() {
        let newer = ROUTES
            .replace("BGP.as_path", "bgp_path")
            .replace("BGP.next_hop", "bgp_next_hop");
        assert_eq!(parse_routes(&newer), parse_routes(ROUTES));
        let routes = parse_routes(ROUTES);
        let seen: Vec<_> = routes
            .iter()
            .map(|route| (route.prefix.as_str(), route.next_hop.as_str(), route.best))
            .collect();
        assert_eq!(
            seen,
            [
                ("198.51.100.0/24", "172.31.0.2", true),
                ("198.51.100.0/24", "10.0.1.11", false)
            ]
        );
        assert_eq!(
            routes.first().map(|route| route.as_path.clone()),
            Some(vec![64602, 64513])
        );
    }
}
