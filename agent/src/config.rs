//! What the daemon was told on its command line, in its environment and in its file.
//!
//! Precedence, highest first: flag, environment, file of `--config`, default. What the cluster says (FelixConfiguration,
//! BGPConfiguration) is not here: it changes while the daemon runs and comes through `model`. Where a flag and FelixConfiguration
//! speak of the same thing, the flag wins, as Calico's own environment variables do.

pub mod annotations;
#[cfg(test)]
mod mistakes;
mod policy;
mod scalar;
pub mod speaker;
mod yaml;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::args::{AgentArgs, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Listen};

/// Marks margay's routes in the kernel: `ip route show proto 109`.
pub const ROUTE_PROTOCOL: u8 = 109;
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

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    datastore: Option<String>,
    node_name: Option<String>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    route_protocol: Option<u8>,
    metrics_listen: Option<String>,
    health_listen: Option<String>,
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
        let datastore = args
            .datastore
            .or(file.datastore)
            .ok_or(ConfigError::Missing(
                "datastore",
                "--datastore directory:PATH or --datastore kubernetes",
            ))?
            .parse()?;
        let node_name = match args.node_name.or(file.node_name) {
            Some(name) => name,
            None => host_name().ok_or(ConfigError::Missing("node name", "--node-name NAME"))?,
        };
        if node_name.is_empty() || node_name.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(ConfigError::Value {
                setting: "node name",
                expected: "the name of a Node object",
                found: node_name,
            });
        }
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
            route_protocol: checked_protocol(args.route_protocol.or(file.route_protocol))?,
            metrics_listen: listener("metricsListen", args.metrics_listen, file.metrics_listen)?,
            health_listen: listener("healthListen", args.health_listen, file.health_listen)?,
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

fn listener(
    setting: &'static str,
    flag: Option<Listen>,
    file: Option<String>,
) -> Result<Option<Listen>, ConfigError> {
    match (flag, file) {
        (Some(listen), _) => Ok(Some(listen)),
        (None, Some(text)) => text.parse().map(Some).map_err(|_| ConfigError::Value {
            setting,
            expected: "ADDRESS:PORT or off",
            found: text,
        }),
        (None, None) => Ok(None),
    }
}

/// The kernel, its tools and Calico's daemons use the numbers below; taking one of them would hand us their routes.
fn checked_protocol(protocol: Option<u8>) -> Result<u8, ConfigError> {
    match protocol {
        None => Ok(ROUTE_PROTOCOL),
        Some(number @ (0..=4 | 9 | 80)) => Err(ConfigError::Value {
            setting: "route protocol",
            expected: "a number that nobody else uses (not 0-4, 9 or 80)",
            found: number.to_string(),
        }),
        Some(number) => Ok(number),
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
        let text = load("datastore: etcd\n", AgentArgs::default())
            .expect_err("a mistake")
            .to_string();
        assert_eq!(
            text,
            "datastore: expected directory:PATH or kubernetes, found \"etcd\""
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
        for protocol in [2, 3, 80] {
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
