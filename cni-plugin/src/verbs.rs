//! One function a verb: from a parsed request to a result or an error of the specification.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Tombstone, not_reachable, refusal};
use crate::netns::NamespaceError;
use crate::plumb::Place;
use crate::protocol::{AddRequest, Assigned, AttachmentId, Reply, Request};
use crate::spec::{
    CniArgs, CniError, NetConf, SUPPORTED_VERSIONS, check_identifier, check_ifname, code,
};

/// The environment of a call, as the specification names it.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn read() -> Self {
        let get = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
        }
    }

    fn attachment(&self) -> Result<AttachmentId, CniError> {
        check_identifier("CNI_CONTAINERID", &self.container_id)?;
        check_ifname(&self.ifname)?;
        Ok(AttachmentId {
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        })
    }
}

/// Answers one call.
///
/// Returns what belongs on standard output, `None` for nothing.
///
/// # Errors
/// The specification's error object.
pub fn run(environment: &Environment, stdin: &[u8]) -> Result<Option<Value>, CniError> {
    if environment.command == "VERSION" {
        return Ok(Some(version(stdin)));
    }
    let conf = NetConf::parse(stdin)?;
    match environment.command.as_str() {
        "ADD" => add(environment, &conf).map(Some),
        "DEL" => del(environment, &conf).map(|()| None),
        "CHECK" => check(environment, &conf).map(|()| None),
        "GC" => gc(&conf).map(|()| None),
        "STATUS" => status(&conf).map(|()| None),
        other => Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("CNI_COMMAND {other:?} is unknown"),
            "expected ADD, DEL, CHECK, GC, STATUS or VERSION",
        )),
    }
}

fn version(stdin: &[u8]) -> Value {
    // The reply carries the version that was asked in, where there was one that could be read.
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked
        .as_ref()
        .and_then(|v| v.get("cniVersion"))
        .and_then(Value::as_str);
    let latest = SUPPORTED_VERSIONS.last().copied().unwrap_or_default();
    json!({ "cniVersion": asked.unwrap_or(latest), "supportedVersions": SUPPORTED_VERSIONS })
}

fn namespace_error(error: &NamespaceError) -> CniError {
    CniError::new(code::NO_NAMESPACE, "CNI_NETNS is not usable", error)
}

fn add(environment: &Environment, conf: &NetConf) -> Result<Value, CniError> {
    let attachment = environment.attachment()?;
    let args = CniArgs::parse(&environment.args)?;
    let mac = conf
        .runtime_config
        .mac
        .as_deref()
        .map(parse_mac)
        .transpose()?;
    let mut requested = args.requested;
    requested.extend(conf.requested_addresses()?);
    if environment.netns.is_empty() {
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            "CNI_NETNS is missing",
            "ADD needs the path of the container's namespace",
        ));
    }

    // Everything that can be wrong without the daemon is found before it is asked, so that a refusal leaves nothing.
    let mut place = Place::open(&environment.netns).map_err(|e| namespace_error(&e))?;
    if place.container_link(&attachment.ifname)?.is_some() {
        return Err(CniError::new(
            code::INTERFACE_EXISTS,
            format!(
                "interface {} exists in {}",
                attachment.ifname, environment.netns
            ),
            "CNI_IFNAME must be a name that the container does not have yet",
        ));
    }

    let mut daemon = Daemon::connect(&conf.run_dir)
        .map_err(|e| not_reachable(&conf.run_dir, code::TRY_AGAIN_LATER, &e))?;
    let request = Request::Add(Box::new(AddRequest {
        attachment: attachment.clone(),
        network: conf.name.clone(),
        netns: environment.netns.clone(),
        pod_namespace: args.pod_namespace,
        pod_name: args.pod_name,
        pod_uid: args.pod_uid,
        assign_ipv4: conf.ipam.assign_ipv4(),
        assign_ipv6: conf.ipam.assign_ipv6(),
        ipv4_pools: conf.ipam.ipv4_pools.clone(),
        ipv6_pools: conf.ipam.ipv6_pools.clone(),
        requested,
        mtu: (conf.mtu != 0).then_some(conf.mtu),
    }));
    let undo = |daemon: &mut Daemon| release(daemon, conf, &attachment);
    let mut assigned: Assigned = match daemon.ask(&request) {
        Ok(Reply::Assigned(assigned)) => assigned,
        Ok(other) => return Err(refusal(other)),
        Err(e) => {
            // The request may have been carried out before the connection broke.
            undo(&mut daemon);
            return Err(not_reachable(&conf.run_dir, code::TRY_AGAIN_LATER, &e));
        }
    };
    assigned.allow_ip_forwarding |= conf.container_settings.allow_ip_forwarding;

    let added = match place.plumb(&attachment.ifname, &assigned, mac) {
        Ok(added) => added,
        Err(e) => {
            undo(&mut daemon);
            return Err(e);
        }
    };
    let confirmed = match daemon.ask(&Request::Confirm {
        attachment: attachment.clone(),
    }) {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(refusal(other)),
        Err(e) => Err(not_reachable(&conf.run_dir, code::TRY_AGAIN_LATER, &e)),
    };
    if let Err(e) = confirmed {
        // The datapath goes first, the address last: it must not be given away while a veth still carries it.
        let _first_error_wins = place.unplumb(&attachment.ifname);
        undo(&mut daemon);
        return Err(e);
    }
    Ok(added.to_json(&conf.cni_version, conf.dns.as_ref()))
}

/// Tells the daemon that an attachment is gone, or leaves a tombstone where it cannot be told.
fn release(daemon: &mut Daemon, conf: &NetConf, attachment: &AttachmentId) {
    let request = Request::Del {
        attachment: attachment.clone(),
        network: conf.name.clone(),
    };
    let told = matches!(daemon.ask(&request), Ok(Reply::Done));
    if !told {
        // The runtime calls DEL after a failed ADD, which tries again; there is nothing better to do with a failure.
        let _best_effort = tombstone(conf, attachment).leave(Path::new(&conf.state_dir));
    }
}

fn tombstone(conf: &NetConf, attachment: &AttachmentId) -> Tombstone {
    Tombstone {
        attachment: attachment.clone(),
        network: conf.name.clone(),
    }
}

fn del(environment: &Environment, conf: &NetConf) -> Result<(), CniError> {
    let attachment = environment.attachment()?;
    if !environment.netns.is_empty() {
        match Place::open(&environment.netns) {
            Ok(mut place) => place.unplumb(&attachment.ifname)?,
            // A namespace that is gone took its interfaces along.
            Err(NamespaceError::Missing(_) | NamespaceError::NotANamespace(_)) => {}
            Err(e @ (NamespaceError::Host(_) | NamespaceError::Io { .. })) => {
                return Err(namespace_error(&e));
            }
        }
    }
    let request = Request::Del {
        attachment: attachment.clone(),
        network: conf.name.clone(),
    };
    match Daemon::connect(&conf.run_dir).and_then(|mut daemon| daemon.ask(&request)) {
        Ok(Reply::Done) => Ok(()),
        Ok(refused) => Err(refusal(refused)),
        Err(_) => tombstone(conf, &attachment)
            .leave(Path::new(&conf.state_dir))
            .map_err(|e| {
                CniError::new(
                    code::IO_FAILURE,
                    "the margay agent does not answer and no tombstone can be left for it",
                    format!("{}: {e}", conf.state_dir),
                )
            }),
    }
}

fn check(environment: &Environment, conf: &NetConf) -> Result<(), CniError> {
    let attachment = environment.attachment()?;
    let Some(previous) = &conf.prev_result else {
        return Err(CniError::new(
            code::INVALID_CONFIG,
            "prevResult is missing",
            "CHECK compares with the result of ADD",
        ));
    };
    let previous = Previous::read(previous, &attachment.ifname)?;
    let mut place = Place::open(&environment.netns).map_err(|e| namespace_error(&e))?;
    place.check(
        &attachment.ifname,
        previous.host_interface.as_deref(),
        &previous.addresses,
    )?;
    let request = Request::Check {
        attachment,
        addresses: previous.addresses,
    };
    match Daemon::connect(&conf.run_dir).and_then(|mut daemon| daemon.ask(&request)) {
        // A pod whose network works is not broken because the daemon is being upgraded.
        Ok(Reply::Done) | Err(_) => Ok(()),
        Ok(refused) => Err(refusal(refused)),
    }
}

fn gc(conf: &NetConf) -> Result<(), CniError> {
    let Some(valid) = conf.valid_attachments.clone() else {
        return Err(CniError::new(
            code::INVALID_CONFIG,
            "cni.dev/valid-attachments is missing",
            "without the list of what lives GC would release everything",
        ));
    };
    let request = Request::Gc {
        network: conf.name.clone(),
        valid: valid.into_iter().map(Into::into).collect(),
    };
    match Daemon::connect(&conf.run_dir).and_then(|mut daemon| daemon.ask(&request)) {
        Ok(Reply::Collected { .. }) => Ok(()),
        Ok(refused) => Err(refusal(refused)),
        Err(e) => Err(not_reachable(&conf.run_dir, code::TRY_AGAIN_LATER, &e)),
    }
}

fn status(conf: &NetConf) -> Result<(), CniError> {
    let request = Request::Status {
        assign_ipv4: conf.ipam.assign_ipv4(),
        assign_ipv6: conf.ipam.assign_ipv6(),
    };
    match Daemon::connect(&conf.run_dir).and_then(|mut daemon| daemon.ask(&request)) {
        Ok(Reply::Done) => Ok(()),
        Ok(refused) => Err(refusal(refused)),
        Err(e) => Err(not_reachable(&conf.run_dir, code::NOT_AVAILABLE, &e)),
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], CniError> {
    let wrong = || {
        CniError::new(
            code::INVALID_CONFIG,
            format!("runtimeConfig.mac {text:?} is not a unicast MAC address"),
            "expected six octets like 02:00:00:00:00:01",
        )
    };
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
        *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() || mac.first().is_some_and(|o| o & 1 == 1) {
        return Err(wrong());
    }
    Ok(mac)
}

/// What CHECK needs of an earlier result, of any version.
#[derive(Debug, PartialEq, Eq)]
struct Previous {
    host_interface: Option<String>,
    addresses: Vec<IpAddr>,
}

impl Previous {
    fn read(result: &Value, ifname: &str) -> Result<Self, CniError> {
        let wrong =
            |what: &str| CniError::new(code::INVALID_CONFIG, "cannot read prevResult", what);
        let interfaces: &[Value] = result
            .get("interfaces")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice);
        let sandboxed = |i: &Value| {
            i.get("sandbox")
                .and_then(Value::as_str)
                .is_some_and(|s| !s.is_empty())
        };
        let name = |i: &Value| i.get("name").and_then(Value::as_str).map(str::to_owned);
        let own = interfaces
            .iter()
            .position(|i| sandboxed(i) && name(i).as_deref() == Some(ifname));
        let host_interface = interfaces
            .iter()
            .filter(|i| !sandboxed(i))
            .filter_map(name)
            .find(|n| n.starts_with("cali"));

        let mut addresses = Vec::new();
        let mut push = |text: Option<&str>| -> Result<(), CniError> {
            let text = text.ok_or_else(|| wrong("an address is missing"))?;
            let bare = text.split('/').next().unwrap_or(text);
            addresses.push(
                bare.parse()
                    .map_err(|_| wrong(&format!("{text:?} is not an address")))?,
            );
            Ok(())
        };
        for ip in result
            .get("ips")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
        {
            let of = ip
                .get("interface")
                .and_then(Value::as_u64)
                .and_then(|i| usize::try_from(i).ok());
            if of.is_none() || of == own {
                push(ip.get("address").and_then(Value::as_str))?;
            }
        }
        for key in ["ip4", "ip6"] {
            if let Some(ip) = result.get(key) {
                push(ip.get("ip").and_then(Value::as_str))?;
            }
        }
        Ok(Self {
            host_interface,
            addresses,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(command: &str) -> Environment {
        Environment {
            command: command.into(),
            container_id: "c1".into(),
            netns: "/nowhere/at/all".into(),
            ifname: "eth0".into(),
            args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web".into(),
        }
    }

    fn conf(run: &Path, state: &Path) -> Vec<u8> {
        json!({ "cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "margay-cni", "runDir": run, "stateDir": state })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn version_needs_neither_a_configuration_nor_a_daemon() {
        let reply = run(&environment("VERSION"), b"").unwrap().unwrap();
        assert_eq!(reply["cniVersion"], "1.1.0");
        let reply = run(&environment("VERSION"), br#"{"cniVersion":"0.4.0"}"#)
            .unwrap()
            .unwrap();
        assert_eq!(reply["cniVersion"], "0.4.0");
        assert!(
            reply["supportedVersions"]
                .as_array()
                .unwrap()
                .contains(&json!("1.1.0"))
        );
    }

    #[test]
    fn add_into_a_missing_namespace_names_it_before_the_daemon_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let e = run(&environment("ADD"), &conf(dir.path(), dir.path())).unwrap_err();
        assert_eq!(e.code, code::NO_NAMESPACE);
        assert!(
            e.to_string().contains("/nowhere/at/all does not exist"),
            "{e}"
        );
    }

    #[test]
    fn del_without_the_daemon_succeeds_and_leaves_a_tombstone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            run(&environment("DEL"), &conf(dir.path(), dir.path())).unwrap(),
            None
        );
        let left = std::fs::read_to_string(dir.path().join("tombstones/c1@eth0.json")).unwrap();
        let left: Tombstone = serde_json::from_str(&left).unwrap();
        assert_eq!(left.network, "k8s-pod-network");
    }

    #[test]
    fn status_and_gc_without_the_daemon_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let conf = conf(dir.path(), dir.path());
        assert_eq!(
            run(&environment("STATUS"), &conf).unwrap_err().code,
            code::NOT_AVAILABLE
        );
        assert_eq!(
            run(&environment("GC"), &conf).unwrap_err().code,
            code::INVALID_CONFIG,
            "no list of what lives"
        );
        assert_eq!(
            run(&environment("NONE"), &conf).unwrap_err().code,
            code::INVALID_ENVIRONMENT
        );
    }

    #[test]
    fn check_reads_the_results_of_every_version() {
        let latest = json!({
            "interfaces": [{ "name": "cali1" }, { "name": "eth0", "sandbox": "/n" }, { "name": "br0" }],
            "ips": [{ "address": "10.0.0.1/32", "interface": 1 }, { "address": "10.9.9.9/24", "interface": 2 }],
        });
        let read = Previous::read(&latest, "eth0").unwrap();
        assert_eq!(
            read,
            Previous {
                host_interface: Some("cali1".into()),
                addresses: vec!["10.0.0.1".parse().unwrap()]
            }
        );
        let old = Previous::read(&json!({ "ip4": { "ip": "10.0.0.1/32" } }), "eth0").unwrap();
        assert_eq!(old.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(Previous::read(&json!({ "ips": [{ "address": "x" }] }), "eth0").is_err());
    }

    #[test]
    fn a_mac_address_must_be_unicast() {
        assert_eq!(parse_mac("02:00:00:00:00:0a").unwrap(), [2, 0, 0, 0, 0, 10]);
        for bad in [
            "",
            "02:00:00:00:00",
            "03:00:00:00:00:01",
            "02:00:00:00:00:01:02",
            "xx:00:00:00:00:01",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
