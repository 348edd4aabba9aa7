//! What the daemon was told on its command line, in its environment and in its file.
//!
//! Precedence, highest first: flag, environment, file of `--config`, default. What the cluster says (FelixConfiguration,
//! BGPConfiguration) is not here: it changes while the daemon runs and comes through `model`. Where a flag and FelixConfiguration
//! speak of the same thing, the flag wins, as Calico's own environment variables do.

pub mod annotations;
mod contradiction;
#[cfg(test)]
mod mistakes;
mod policy;
mod scalar;
pub mod speaker;
mod yaml;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::scalar::{FromText, Text};
use crate::cli::args::{AgentArgs, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Listen};

/// Marks margay's routes in the kernel: `ip route show proto 109`.
pub const ROUTE_PROTOCOL: u8 = 109;

/// A protocol number that may mark our routes. With one of the kernel's (0 to 4, 9), of DHCP clients (16) or of Calico's daemons
/// (12, 80) we would take theirs for our own, and delete them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteProtocol(u8);

impl RouteProtocol {
    /// Completes "expected …".
    pub const WANTED: &'static str =
        "a number from 5 to 255 that nobody else marks routes with (not 9, 12, 16 or 80)";

    /// The number, if it may be ours.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match number {
            0..=4 | 9 | 12 | 16 | 80 => None,
            number => Some(Self(number)),
        }
    }

    /// The number itself.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Default for RouteProtocol {
    fn default() -> Self {
        Self(ROUTE_PROTOCOL)
    }
}

/// Where metrics are unless somebody says otherwise: Felix's port, every address.
pub const METRICS_PORT: u16 = 9091;
/// Where health is unless somebody says otherwise: Felix's port, this host only.
pub const HEALTH_PORT: u16 = 9099;

/// Everything `margay agent` needs to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the cluster's objects are.
    pub datastore: DatastoreKind,
    /// Name of this node's Node object.
    pub node_name: String,
    /// Directory of the sockets.
    pub run_dir: PathBuf,
    /// Directory of what outlives a restart.
    pub state_dir: PathBuf,
    /// Protocol number of our routes.
    pub route_protocol: u8,
    /// Where metrics are served; `None` leaves it to FelixConfiguration.
    pub metrics_listen: Option<Listen>,
    /// Where health is served; `None` leaves it to FelixConfiguration.
    pub health_listen: Option<Listen>,
    /// Filter of the log.
    pub log: String,
    /// Whether the log is JSON.
    pub log_json: bool,
}

/// Which of the two datastores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatastoreKind {
    /// Objects as files below this directory.
    Directory(PathBuf),
    /// The API server of the cluster this process runs in.
    Kubernetes,
}

/// Why the daemon's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something in the file is not what it should be.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// A setting that has no default is absent.
    #[error("{0} is not set: give {1}")]
    Missing(&'static str, &'static str),
    /// A setting has a value it cannot have.
    #[error("{setting}: expected {expected}, found {found:?}")]
    Value {
        /// Which setting.
        setting: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

/// Something in a file is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// From the root to the field: `peers[1].holdTime`, positions from 0. Empty for the file as a whole.
    pub field: String,
    /// What is there and what would be right.
    pub reason: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: ", self.path.display(), self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "field `{}`: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Everything found wrong with a file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, mistake) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    datastore: Option<Text<DatastoreKind>>,
    node_name: Option<Text<NodeName>>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    route_protocol: Option<Text<RouteProtocol>>,
    metrics_listen: Option<Text<Listen>>,
    health_listen: Option<Text<Listen>>,
    log: Option<String>,
    log_json: Option<bool>,
}

impl Config {
    /// Joins flags, environment (clap has merged those two) and the file.
    ///
    /// # Errors
    /// The file cannot be read or parsed, or a setting without default is absent.
    pub fn load(args: AgentArgs) -> Result<Self, ConfigError> {
        let file: File = match &args.config {
            Some(path) => read_yaml(path)?,
            None => File::default(),
        };
        let datastore = match (args.datastore, file.datastore) {
            (Some(flag), _) => flag.parse()?,
            (None, Some(Text(kind))) => kind,
            (None, None) => {
                return Err(ConfigError::Missing(
                    "datastore",
                    "--datastore directory:PATH or --datastore kubernetes",
                ));
            }
        };
        let node_name = match (args.node_name, file.node_name) {
            (Some(name), _) => {
                NodeName::from_text(&name)
                    .ok_or(ConfigError::Value {
                        setting: "node name",
                        expected: NodeName::WANTED,
                        found: name,
                    })?
                    .0
            }
            (None, Some(Text(NodeName(name)))) => name,
            (None, None) => {
                host_name().ok_or(ConfigError::Missing("node name", "--node-name NAME"))?
            }
        };
        let route_protocol = match (args.route_protocol, file.route_protocol) {
            (Some(flag), _) => checked_protocol(flag)?,
            (None, of_file) => of_file.map(|text| text.0).unwrap_or_default(),
        };
        Ok(Self {
            datastore,
            node_name,
            run_dir: args
                .run_dir
                .or(file.run_dir)
                .unwrap_or_else(|| DEFAULT_RUN_DIR.into()),
            state_dir: args
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            route_protocol: route_protocol.number(),
            metrics_listen: args
                .metrics_listen
                .or_else(|| file.metrics_listen.map(|text| text.0)),
            health_listen: args
                .health_listen
                .or_else(|| file.health_listen.map(|text| text.0)),
            log: args.log.or(file.log).unwrap_or_else(|| "info".into()),
            log_json: args.log_json || file.log_json.unwrap_or(false),
        })
    }

    /// The socket the CNI plugin calls.
    #[must_use]
    pub fn cni_socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }

    /// The socket the command line calls.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }
}

impl std::str::FromStr for DatastoreKind {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("directory", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            _ => Err(ConfigError::Value {
                setting: "datastore",
                expected: "directory:PATH or kubernetes",
                found: text.into(),
            }),
        }
    }
}

/// Where to listen: the flag, else what FelixConfiguration says, else the default.
///
/// `host` follows Felix: empty means every address, `localhost` the loopback one.
#[must_use]
pub fn listen_address(
    flag: Option<Listen>,
    enabled: Option<bool>,
    host: Option<&str>,
    port: Option<u16>,
    default: SocketAddr,
) -> Listen {
    if let Some(listen) = flag {
        return listen;
    }
    if enabled == Some(false) {
        return Listen::Off;
    }
    let address = match host {
        None => default.ip(),
        Some("") => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(text) => text.parse().unwrap_or_else(|_| {
            tracing::warn!(
                host = text,
                "FelixConfiguration names a host that is not an address; using {}",
                default.ip()
            );
            default.ip()
        }),
    };
    Listen::On(SocketAddr::new(
        address,
        port.unwrap_or_else(|| default.port()),
    ))
}

/// Reads a YAML file whose mistakes are reported with file, line, field and what would be right, all of them at once.
///
/// # Errors
/// The file cannot be read, or its content is not what `T` wants.
pub fn read_yaml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    yaml::read_all(path, &text, |tree| T::deserialize(tree))
}

/// What of a flag or the environment may mark our routes.
fn checked_protocol(flag: u8) -> Result<RouteProtocol, ConfigError> {
    RouteProtocol::new(flag).ok_or_else(|| ConfigError::Value {
        setting: "route protocol",
        expected: RouteProtocol::WANTED,
        found: flag.to_string(),
    })
}

/// The name of a Node object.
struct NodeName(String);

impl FromText for NodeName {
    const WANTED: &'static str = "the name of a Node object";
    fn from_text(text: &str) -> Option<Self> {
        let no_name = text.is_empty() || text.contains(|c: char| c == '/' || c.is_whitespace());
        (!no_name).then(|| Self(text.to_owned()))
    }
}

fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname()
        .ok()?
        .into_string()
        .ok()?
        .to_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn load(text: &str, args: AgentArgs) -> Result<Config, ConfigError> {
        let file = file(text);
        Config::load(AgentArgs {
            config: Some(file.path().into()),
            ..args
        })
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let args = AgentArgs {
            node_name: Some("flag".into()),
            ..AgentArgs::default()
        };
        let config = load(
            "datastore: directory:/x\nnodeName: file\nrunDir: /run/x\nmetricsListen: off\n",
            args,
        )
        .expect("a configuration");
        assert_eq!(config.node_name, "flag");
        assert_eq!(config.datastore, DatastoreKind::Directory("/x".into()));
        assert_eq!(config.cni_socket(), Path::new("/run/x/cni.sock"));
        assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
        assert_eq!(config.metrics_listen, Some(Listen::Off));
        assert_eq!(config.route_protocol, ROUTE_PROTOCOL);
    }

    #[test]
    fn mistakes_say_where_and_what_would_be_right() {
        let text = load(
            "datastore: directory:/x\nnodname: n1\n",
            AgentArgs::default(),
        )
        .expect_err("a mistake")
        .to_string();
        assert!(
            text.ends_with(":2:1: field `nodname`: unknown field `nodname`, expected `nodeName`"),
            "{text}"
        );
        let text = load(
            "datastore: etcd\nnodeName: a b\nrouteProtocol: 2\nmetricsListen: here\nhealthListen: ~\n",
            AgentArgs::default(),
        )
        .expect_err("a mistake")
        .to_string();
        let said: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(_, said)| said)
            .collect();
        assert_eq!(
            said,
            [
                "1:12: field `datastore`: expected directory:PATH or kubernetes, found `etcd`",
                "2:11: field `nodeName`: expected the name of a Node object, found `a b`",
                "3:16: field `routeProtocol`: expected a number from 5 to 255 that nobody else marks routes with (not 9, 12, 16 or 80), found `2`",
                "4:16: field `metricsListen`: expected ADDRESS:PORT or off, found `here`",
                "5:15: field `healthListen`: expected ADDRESS:PORT or off, found nothing; without the field its default holds",
            ]
        );
        let text = Config::load(AgentArgs::default())
            .expect_err("a mistake")
            .to_string();
        assert!(
            text.starts_with("datastore is not set: give --datastore"),
            "{text}"
        );
    }

    #[test]
    fn protocols_of_the_kernel_and_of_calico_are_refused() {
        for protocol in [0, 2, 3, 9, 12, 16, 80] {
            let args = AgentArgs {
                datastore: Some("directory:/x".into()),
                node_name: Some("n1".into()),
                route_protocol: Some(protocol),
                ..AgentArgs::default()
            };
            assert!(matches!(
                Config::load(args),
                Err(ConfigError::Value {
                    setting: "route protocol",
                    ..
                })
            ));
        }
    }

    #[test]
    fn listeners_follow_felix_unless_a_flag_speaks() {
        let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9099);
        let on = |text: &str| Listen::On(text.parse().expect("an address"));
        assert_eq!(
            listen_address(None, None, None, None, default),
            on("127.0.0.1:9099")
        );
        assert_eq!(
            listen_address(None, Some(false), None, None, default),
            Listen::Off
        );
        assert_eq!(
            listen_address(None, Some(true), Some("10.0.0.1"), Some(1), default),
            on("10.0.0.1:1")
        );
        assert_eq!(
            listen_address(None, None, Some(""), None, default),
            on("[::]:9099")
        );
        assert_eq!(
            listen_address(Some(Listen::Off), Some(true), None, None, default),
            Listen::Off
        );
    }
}
