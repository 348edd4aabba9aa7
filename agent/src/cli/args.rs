//! The command line, as clap sees it. Every flag of a daemon is also an environment variable `MARGAY_*`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where the sockets of a node's daemon are.
pub const DEFAULT_RUN_DIR: &str = "/run/margay";
/// What a node's daemon remembers across restarts.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/margay";

/// Pod networking by plain IP routing.
#[derive(Debug, Parser)]
#[command(name = "margay", version, about, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon of a node: addresses, routes, tunnels and BGP.
    Agent(AgentArgs),
    /// The BGP speaker alone, from a YAML file: a route reflector or a router of a lab.
    Speaker(SpeakerArgs),
    /// What a node would do with the objects in the datastore; needs no running daemon.
    Config {
        /// What to do with the configuration.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Is this node well, and if not, why?
    Status(AskArgs),
    /// BGP peers: sessions, what they sent, what they were sent.
    Peers(PeersArgs),
    /// What happened to BGP peers: every change of state with its reason, and messages that were wrong.
    Events(EventsArgs),
    /// BGP routes: every path, the best one, and the step of the decision that chose it.
    Routes(RoutesArgs),
    /// Pools and blocks, and how full they are.
    Ipam(IpamArgs),
    /// Why an address is, or is not, routed.
    Explain(ExplainArgs),
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    #[default]
    Table,
    /// A table with every column.
    Wide,
    /// One JSON document; the names in it are stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Flags of `margay agent`. Where a flag is absent the file of `--config` speaks, then the default.
#[derive(Args, Clone, Debug, Default)]
pub struct AgentArgs {
    /// Where the cluster's objects are: `directory:PATH` or `kubernetes`.
    #[arg(long, env = "MARGAY_DATASTORE")]
    pub datastore: Option<String>,
    /// Name of this node's Node object [default: the host's name in lower case]
    #[arg(long, env = "MARGAY_NODE_NAME")]
    pub node_name: Option<String>,
    /// YAML file with the same settings in camelCase (`nodeName: n1`).
    #[arg(long, env = "MARGAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the sockets are [default: /run/margay]
    #[arg(long, env = "MARGAY_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    /// What outlives a restart [default: /var/lib/margay]
    #[arg(long, env = "MARGAY_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Protocol number that marks margay's routes in the kernel [default: 109]
    #[arg(long, env = "MARGAY_ROUTE_PROTOCOL")]
    pub route_protocol: Option<u8>,
    /// Where metrics are served, or `off`; overrides FelixConfiguration (default: `[::]:9091`)
    #[arg(long, env = "MARGAY_METRICS_LISTEN")]
    pub metrics_listen: Option<Listen>,
    /// Where /livez and /readyz are served, or `off`; overrides FelixConfiguration [default: 127.0.0.1:9099]
    #[arg(long, env = "MARGAY_HEALTH_LISTEN")]
    pub health_listen: Option<Listen>,
    /// What is logged, in the syntax of tracing's EnvFilter [default: info]
    #[arg(long, env = "MARGAY_LOG")]
    pub log: Option<String>,
    /// Write the log as JSON, one object a line.
    #[arg(long, env = "MARGAY_LOG_JSON")]
    pub log_json: bool,
}

/// Flags of `margay speaker`.
#[derive(Args, Clone, Debug)]
pub struct SpeakerArgs {
    /// The speaker's YAML file. It is read again on SIGHUP.
    #[arg(long, env = "MARGAY_SPEAKER_CONFIG")]
    pub config: PathBuf,
    /// Parse the file, print what it means, and exit.
    #[arg(long)]
    pub check: bool,
    /// Serve `margay peers` and `margay routes` on control.sock in this directory.
    #[arg(long, env = "MARGAY_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where metrics are served: `ADDRESS:PORT`, or `off`.
    #[arg(long, env = "MARGAY_METRICS_LISTEN", default_value = "off")]
    pub metrics_listen: Listen,
    /// What is logged, in the syntax of tracing's EnvFilter.
    #[arg(long, env = "MARGAY_LOG", default_value = "info")]
    pub log: String,
}

/// Subcommands of `margay config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Sessions, originated prefixes and pools of any node, computed from the datastore alone.
    Show(ConfigShowArgs),
}

/// Flags of `margay config show`.
#[derive(Args, Clone, Debug)]
pub struct ConfigShowArgs {
    /// Where the cluster's objects are: `directory:PATH` or `kubernetes`.
    #[arg(long, env = "MARGAY_DATASTORE")]
    pub datastore: String,
    /// The node in question.
    #[arg(long, env = "MARGAY_NODE_NAME")]
    pub node_name: String,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of every command that asks a running daemon.
#[derive(Args, Clone, Debug)]
pub struct AskArgs {
    /// Where the daemon's sockets are.
    #[arg(long, env = "MARGAY_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `margay peers`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PeersArgs {
    /// Flags shared by all questions.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Only this peer.
    pub name: Option<String>,
    /// Do something to a session instead of showing it.
    #[command(subcommand)]
    pub action: Option<PeerAction>,
}

/// `margay ipam`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct IpamArgs {
    /// Flags shared by all questions.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Something else than how full the pools are.
    #[command(subcommand)]
    pub action: Option<IpamAction>,
}

/// What else can be asked of IPAM.
#[derive(Clone, Debug, Subcommand)]
pub enum IpamAction {
    /// Whether the records hold together. Pods are known of this node alone, tunnels of all. Exits with 1 if something is wrong.
    Check(AskArgs),
}

/// What an operator may do to a session. None of it is remembered across a restart of the daemon.
#[derive(Clone, Debug, Subcommand)]
pub enum PeerAction {
    /// Ask for routes again, send ours again, or (without a flag) restart the session.
    Clear {
        /// Flags shared by all questions.
        #[command(flatten)]
        ask: AskArgs,
        /// The peer, as `margay peers` names it.
        name: String,
        /// Ask the peer for its routes again, and apply the import rules anew.
        #[arg(long)]
        soft_in: bool,
        /// Send our routes again.
        #[arg(long)]
        soft_out: bool,
        /// Said to the peer where the session is restarted (RFC 9003).
        #[arg(long, conflicts_with_all = ["soft_in", "soft_out"])]
        message: Option<String>,
    },
    /// Close the session and keep it closed; its routes go.
    Disable {
        /// Flags shared by all questions.
        #[command(flatten)]
        ask: AskArgs,
        /// The peer, as `margay peers` names it.
        name: String,
        /// Said to the peer (RFC 9003).
        #[arg(long)]
        message: Option<String>,
    },
    /// Have everything carried over a session, or over all, used last by both sides (RFC 8326), so that traffic moves away before
    /// the session is closed.
    Drain {
        /// Flags shared by all questions.
        #[command(flatten)]
        ask: AskArgs,
        /// The peer, as `margay peers` names it; every peer where absent.
        name: Option<String>,
        /// Drained no more.
        #[arg(long)]
        off: bool,
    },
    /// Undo `disable`.
    Enable {
        /// Flags shared by all questions.
        #[command(flatten)]
        ask: AskArgs,
        /// The peer, as `margay peers` names it.
        name: String,
    },
}

/// Flags of `margay events`.
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// Flags shared by all questions. With `--follow`, `-o json` writes one object a line.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Only of this peer.
    pub name: Option<String>,
    /// Stay and tell what happens.
    #[arg(short, long)]
    pub follow: bool,
    /// Only events behind this number.
    #[arg(long, default_value_t = 0)]
    pub after: u64,
}

/// Flags of `margay routes`.
#[derive(Args, Clone, Debug)]
pub struct RoutesArgs {
    /// Flags shared by all questions.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Only this prefix, or the routes that cover this address.
    pub prefix: Option<String>,
    /// Only paths learned from this peer.
    #[arg(long)]
    pub peer: Option<String>,
}

/// Flags of `margay explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// Flags shared by all questions.
    #[command(flatten)]
    pub ask: AskArgs,
    /// The address in question.
    pub address: IpAddr,
}

/// An HTTP listener: somewhere, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Do not listen.
    Off,
    /// Listen here.
    On(SocketAddr),
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::On)
                .map_err(|_| format!("expected ADDRESS:PORT or off, found {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_documented_form_is_understood() {
        for words in [
            "margay agent --datastore directory:/x --node-name n1",
            "margay speaker --config /x",
            "margay speaker --config /x --metrics-listen 127.0.0.1:9091",
            "margay config show --datastore kubernetes --node-name n1 -o json",
            "margay status",
            "margay peers -o json --run-dir /run/n1",
            "margay peers 10.0.0.1 -o wide",
            "margay peers disable 10.0.0.1 -o json --run-dir /run/n1",
            "margay peers clear --soft-in 10.0.0.1",
            "margay peers clear 10.0.0.1 --message new-keys",
            "margay routes 10.65.0.0/26 --peer 10.0.0.1 -o yaml",
            "margay explain 10.65.3.7",
            "margay events --follow -o json --after 7 10.0.0.1",
        ] {
            assert!(parse(words).is_ok(), "{words}");
        }
    }

    #[test]
    fn a_wrong_word_is_a_usage_error() {
        let error = parse("margay explain nowhere").expect_err("no address");
        assert_eq!(error.exit_code(), 2);
        // Nobody would read it.
        let error = parse("margay peers clear 10.0.0.1 --soft-in --message x");
        assert_eq!(error.expect_err("no session ends").exit_code(), 2);
    }
}
