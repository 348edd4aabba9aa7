//! The plugin as kubelets use and abuse it: many at once, killed at every system call, without the agent, misconfigured.
//!
//! One node of the usual lab runs an agent; its runtime is this scenario. After every part the node must hold nothing
//! of the pods that are gone: no veth, no record on disk, no handle, no address in a block.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::cni::{Attachment, Chain, CniError};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::node::{Pod, programs, result_addresses};
use crate::ping::{self, Endpoint};
use crate::process::Daemon;
use crate::report::Report;
use crate::topology::{Lab, Plan};
use crate::{exec, pace};

/// Pods that are added at once.
const MANY: usize = 100;

/// A pool of four addresses, for the pod that gets none.
const TINY_POOL: (&str, &str) = ("tiny", "10.66.0.0/30");

/// Builds the lab and goes through the list.
///
/// # Errors
/// When the lab cannot be built.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let mut lab = Lab::build(
        Plan {
            block_size: 26,
            ..Plan::default()
        },
        folder,
    )?;
    lab.apply_pool(
        TINY_POOL.0,
        TINY_POOL.1,
        crate::topology::Encapsulation::None,
        30,
    )?;
    // Pods ask for the big pool by name, so that the tiny one stays for the one that asks for it.
    for node in &mut lab.nodes {
        if let Some(ipam) = node
            .chain
            .plugins
            .first_mut()
            .and_then(|plugin| plugin.get_mut("ipam"))
        {
            ipam["ipv4_pools"] = json!(["default-ipv4-ippool"]);
        }
    }
    let node = lab.node_mut("n1")?;
    node.start_agent()?;
    node.await_ready(pace::seconds(30))?;

    report.check(
        "100 ADDs at once give 100 addresses and working pods",
        || many(&lab),
    );
    report.check(
        "the chain with Debian's portmap at 1.0.0: a host port reaches the pod",
        || host_port(&lab, folder),
    );
    report.check(
        "CHECK is content with a pod, and names what is missing in a broken one",
        || check_verb(&lab),
    );
    report.check(
        "ADD and DEL killed at every system call leave nothing after the next DEL or GC",
        || killed(&lab, folder),
    );
    report.check(
        "GC releases what the runtime no longer knows, and nothing else",
        || collected(&lab),
    );
    report.check("a full pool, a bad configuration, a missing namespace, a taken name: clear errors, nothing left", || {
        refusals(&lab)
    });
    report.check(
        "DEL without the agent succeeds; the address comes back when the agent does",
        || without_agent(&mut lab),
    );
    Ok(Outcome::Passed)
}

/// One sandbox with its attachment, without having been added.
fn sandbox(name: &str) -> Result<(Netns, Attachment)> {
    let netns = Netns::create(name)?;
    let attachment = Attachment::of_pod(
        "default",
        name,
        &format!("{name}-sandbox"),
        &netns.path().display().to_string(),
    );
    Ok((netns, attachment))
}

fn add(lab: &Lab, name: &str) -> Result<Pod> {
    let node = lab.node("n1")?;
    let (netns, attachment) = sandbox(name)?;
    let result = node.chain.add(&node.netns, &attachment)?;
    Ok(Pod {
        name: name.to_owned(),
        netns,
        addresses: result_addresses(&result)?,
        attachment,
        result,
    })
}

fn del(lab: &Lab, pod: &Pod) -> Result<()> {
    let node = lab.node("n1")?;
    node.chain
        .del(&node.netns, &pod.attachment, Some(&pod.result))?;
    ensure!(
        container_links(&pod.netns)?.is_empty(),
        "DEL left an interface in {}",
        pod.name
    );
    pod.netns.delete()
}

fn container_links(netns: &Netns) -> Result<Vec<String>> {
    let links = netns.ip_json("link show")?;
    let names = links
        .iter()
        .filter_map(|link| link.get("ifname")?.as_str().map(str::to_owned));
    Ok(names
        .filter(|name| name != "lo" && name != "tunl0")
        .collect())
}

/// What of pods the node still holds, by kind; `live` are the containers that should be there.
fn leftovers(lab: &Lab, live: &[&str]) -> Result<(), String> {
    let node = lab.node("n1").map_err(|e| e.to_string())?;
    let mut left = Vec::new();
    let links = node.netns.ip_json("link show").map_err(|e| e.to_string())?;
    let veths: Vec<_> = links
        .iter()
        .filter_map(|l| l.get("ifname")?.as_str())
        .filter(|n| n.starts_with("cali"))
        .collect();
    if veths.len() != live.len() {
        left.push(format!(
            "{} veths for {} pods: {:?}",
            veths.len(),
            live.len(),
            veths.iter().take(3).collect::<Vec<_>>()
        ));
    }
    let routes = node
        .netns
        .ip_json("route show proto 109 scope link")
        .map_err(|e| e.to_string())?;
    if routes.len() != live.len() {
        left.push(format!("{} routes for {} pods", routes.len(), live.len()));
    }
    let is_live = |text: &str| live.iter().any(|id| text.contains(id));
    for kind in ["endpoints", "tombstones"] {
        for entry in std::fs::read_dir(node.state_dir.join(kind))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_live(&name) {
                left.push(format!("{kind}/{name}"));
            }
        }
    }
    for handle in lab.objects.names("ipamhandles") {
        if handle.starts_with("k8s-pod-network") && !is_live(&handle) {
            left.push(format!("handle {handle}"));
        }
    }
    for block in lab.objects.names("ipamblocks") {
        let text = lab.objects.text("ipamblocks", &block).unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| line.contains("k8s-pod-network.") && !is_live(line));
        left.extend(lines.map(|line| format!("block {block}: {}", line.trim())));
    }
    if left.is_empty() {
        Ok(())
    } else {
        let more = left.len().saturating_sub(6);
        left.truncate(6);
        Err(format!("{} and {more} more", left.join("; ")))
    }
}

fn nothing_left(lab: &Lab, live: &[&str]) -> Result<()> {
    eventually(
        "nothing is left of pods that are gone",
        pace::seconds(10),
        || leftovers(lab, live),
    )
}

/// Runs `act` on every item at once, one thread each.
fn at_once<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let act = &act;
    thread::scope(|scope| {
        let running: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || act(item)))
            .collect();
        running
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| bail!("a thread died")))
            .collect()
    })
}

fn many(lab: &Lab) -> Result<String> {
    let names: Vec<_> = (0..MANY).map(|i| format!("many-{i:03}")).collect();
    let pods = at_once(&names, |name| add(lab, name))?;
    let distinct: BTreeSet<_> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
    ensure!(
        distinct.len() == MANY,
        "{} distinct addresses",
        distinct.len()
    );
    let endpoints: Vec<Endpoint> = pods.iter().map(Pod::endpoint).collect();
    let node = lab.node("n1")?;
    let from_node = ping::await_all_pairs(&[node.endpoint()], &endpoints, pace::seconds(20))?;
    let (few, _) = endpoints.split_at(5);
    let among = ping::await_all_pairs(few, &endpoints, pace::seconds(20))?;
    let back = ping::await_all_pairs(&endpoints, &[node.endpoint()], pace::seconds(20))?;
    at_once(&pods, |pod| del(lab, pod))?;
    nothing_left(lab, &[])?;
    Ok(format!(
        "{} pings answered, then 100 DELs at once left nothing",
        from_node.tried + among.tried + back.tried
    ))
}

fn host_port(lab: &Lab, folder: &Path) -> Result<String> {
    let node = lab.node("n1")?;
    let (netns, mut attachment) = sandbox("web")?;
    attachment.capabilities = Map::from_iter([(
        "portMappings".to_owned(),
        json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
    )]);
    let result = node.chain.add(&node.netns, &attachment)?;
    ensure!(
        result.get("cniVersion") == Some(&json!("1.0.0")),
        "{result}"
    );
    let pod = Pod {
        name: "web".into(),
        netns,
        addresses: result_addresses(&result)?,
        attachment,
        result,
    };
    let root = folder.join("www");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("index.html"), "through the host port\n")?;
    let mut command = pod.netns.command("busybox");
    command.args(["httpd", "-f", "-p", "80", "-h"]).arg(&root);
    let server = Daemon::start("httpd", &mut command, &folder.join("httpd.log"))?;
    let client = lab.node("n2")?;
    let seen = eventually("the page through the host port", pace::seconds(10), || {
        client.http(&format!("http://{}:8080/index.html", node.address(4)?))
    })?;
    ensure!(seen == "through the host port\n", "{seen:?}");
    // Of our plugin alone: Debian's portmap looks for an IPv6 chain also where the pod has no IPv6 address.
    alone(&node.chain).check(&node.netns, &pod.attachment, &pod.result)?;
    server.kill()?;
    del(lab, &pod)?;
    nothing_left(lab, &[])?;
    Ok(format!(
        "n2 fetched a page from n1:8080, served by {}",
        pod.address(4)?
    ))
}

fn cni_error(result: Result<impl std::fmt::Debug>) -> Result<CniError> {
    match result {
        Ok(value) => bail!("it succeeded: {value:?}"),
        Err(error) => error.downcast::<CniError>(),
    }
}

fn check_verb(lab: &Lab) -> Result<String> {
    let node = lab.node("n1")?;
    let pod = add(lab, "checked")?;
    node.chain
        .check(&node.netns, &pod.attachment, &pod.result)?;
    pod.netns
        .ip(&format!("address del {}/32 dev eth0", pod.address(4)?))?;
    let error = cni_error(node.chain.check(&node.netns, &pod.attachment, &pod.result))?;
    ensure!(
        error.code == Some(103) && error.message.contains("is missing on eth0"),
        "{error}"
    );
    del(lab, &pod)?;
    Ok(error.message)
}

/// Runs `margay-cni` alone (not the chain) under strace with these options; returns whether a signal ended it.
fn strace(
    lab: &Lab,
    chain: &Chain,
    verb: &str,
    attachment: &Attachment,
    options: &[&str],
) -> Result<bool> {
    let node = lab.node("n1")?;
    let plugin = chain.plugins.first().context("an empty chain")?;
    let input = chain.input(plugin, attachment, None)?;
    let reference = chain.command(&node.netns, verb, "margay-cni", attachment)?;
    let mut command = node.netns.isolated_command("strace");
    command
        .args(["-f", "-qq"])
        .args(options)
        .arg(programs()?.join("margay-cni"));
    for (key, value) in reference.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    let output = exec::output(&mut command, input.to_string().as_bytes())?;
    if output.status.success() {
        return Ok(false);
    }
    // strace ends itself by the signal that ended its child; a plugin that fails by itself says why on its output.
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code().is_none_or(|code| code >= 128),
        "{verb} under strace: {}: {said}{complained}",
        output.status
    );
    Ok(true)
}

/// Every system call a verb makes, in order: its name and the how-many-eth of that name it is, which is how strace
/// counts.
fn system_calls(
    lab: &Lab,
    chain: &Chain,
    verb: &str,
    attachment: &Attachment,
    log: &Path,
) -> Result<Vec<(String, usize)>> {
    let file = log.display().to_string();
    ensure!(
        !strace(lab, chain, verb, attachment, &["-o", &file])?,
        "{verb} was killed by nobody"
    );
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let call = line
            .split_once(' ')
            .and_then(|(_, rest)| rest.trim_start().split_once('('));
        let Some((name, _)) = call.filter(|(name, _)| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        }) else {
            continue;
        };
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        calls.push((name.to_owned(), *count));
    }
    Ok(calls)
}

/// The chain without what follows our plugin.
fn alone(chain: &Chain) -> Chain {
    Chain {
        plugins: chain.plugins.iter().take(1).cloned().collect(),
        ..chain.clone()
    }
}

fn killed(lab: &Lab, folder: &Path) -> Result<String> {
    let node = lab.node("n1")?;
    let chain = alone(&node.chain);
    let mut tried = Vec::new();
    for verb in ["ADD", "DEL"] {
        let prepare = |name: &str| -> Result<(Netns, Attachment)> {
            let (netns, attachment) = sandbox(name)?;
            if verb == "DEL" {
                chain.add(&node.netns, &attachment)?;
            }
            Ok((netns, attachment))
        };
        let (netns, attachment) = prepare(&format!("traced-{}", verb.to_lowercase()))?;
        let calls = system_calls(lab, &chain, verb, &attachment, &folder.join("strace.log"))?;
        chain.del(&node.netns, &attachment, None)?;
        netns.delete()?;
        ensure!(
            calls.len() > 50,
            "{verb} made only {} system calls",
            calls.len()
        );

        let mut killed = 0;
        for (place, (name, count)) in calls.iter().enumerate() {
            let (netns, attachment) = prepare(&format!("killed-{}-{place}", verb.to_lowercase()))?;
            let inject = format!("inject={name}:signal=KILL:when={count}");
            killed += usize::from(strace(
                lab,
                &chain,
                verb,
                &attachment,
                &["-o", "/dev/null", "-e", &inject],
            )?);
            // The runtime tries again, or it has forgotten the sandbox and collects.
            let by_del = place % 2 == 0;
            if by_del {
                chain.del(&node.netns, &attachment, None)?;
                ensure!(
                    container_links(&netns)?.is_empty(),
                    "DEL left an interface in the container"
                );
            } else {
                gc(lab, &chain, &[])?;
            }
            let then = if by_del { "DEL" } else { "GC" };
            nothing_left(lab, &[]).with_context(|| {
                format!(
                    "{verb} killed at its system call {place}, {name} number {count}, then {then}"
                )
            })?;
            netns.delete()?;
        }
        // The last call is the exit itself; a call whose number varies from run to run may be missed now and then.
        ensure!(
            killed + 5 >= calls.len(),
            "{verb}: only {killed} of {} were killed",
            calls.len()
        );
        tried.push(format!("{verb} {killed} of {}", calls.len()));
    }
    Ok(format!("killed at system calls: {}", tried.join(", ")))
}

/// Calls GC with the attachments that live.
fn gc(lab: &Lab, chain: &Chain, live: &[&Attachment]) -> Result<()> {
    let node = lab.node("n1")?;
    let list: Vec<Value> = live
        .iter()
        .map(|a| json!({"containerID": a.container_id, "ifname": a.interface}))
        .collect();
    let mut plugin = chain.plugins.first().cloned().context("an empty chain")?;
    plugin["cni.dev/valid-attachments"] = json!(list);
    let chain = Chain {
        version: "1.1.0".to_owned(),
        ..chain.clone()
    };
    let nobody = Attachment {
        container_id: String::new(),
        netns: String::new(),
        interface: String::new(),
        arguments: String::new(),
        capabilities: Map::new(),
    };
    chain
        .invoke(&node.netns, "GC", &plugin, &nobody, None)
        .map(drop)
}

fn collected(lab: &Lab) -> Result<String> {
    let node = lab.node("n1")?;
    let kept = add(lab, "kept")?;
    let lost = add(lab, "lost")?;
    gc(lab, &node.chain, &[&kept.attachment])?;
    nothing_left(lab, &[&kept.attachment.container_id])?;
    ping::await_all_pairs(&[node.endpoint()], &[kept.endpoint()], pace::seconds(5))?;
    lost.netns.delete()?;
    del(lab, &kept)?;
    nothing_left(lab, &[])?;
    Ok("the kept pod still answers".to_owned())
}

fn refusals(lab: &Lab) -> Result<String> {
    let node = lab.node("n1")?;
    let mut seen = Vec::new();
    let mut expect = |what: &str, code: u64, word: &str, result: Result<Value>| -> Result<()> {
        let error = cni_error(result).with_context(|| what.to_owned())?;
        ensure!(
            error.code == Some(code) && error.message.contains(word),
            "{what}: expected {code} with {word:?}: {error}"
        );
        seen.push(format!("{what}: {code}"));
        Ok(())
    };

    let mut tiny = node.chain.clone();
    if let Some(ipam) = tiny.plugins.first_mut().and_then(|p| p.get_mut("ipam")) {
        ipam["ipv4_pools"] = json!([TINY_POOL.0]);
    }
    let mut fill = Vec::new();
    for i in 0..4 {
        let (netns, attachment) = sandbox(&format!("tiny-{i}"))?;
        let result = tiny
            .add(&node.netns, &attachment)
            .with_context(|| format!("address {i} of 4"))?;
        fill.push((netns, attachment, result));
    }
    let (netns, attachment) = sandbox("tiny-full")?;
    expect(
        "full pool",
        100,
        TINY_POOL.0,
        tiny.add(&node.netns, &attachment),
    )?;
    ensure!(
        container_links(&netns)?.is_empty(),
        "the refused ADD left an interface"
    );
    netns.delete()?;
    let live: Vec<_> = fill
        .iter()
        .map(|(_, a, _)| a.container_id.clone())
        .collect();
    nothing_left(lab, &live.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (netns, attachment, result) in &fill {
        tiny.del(&node.netns, attachment, Some(result))?;
        netns.delete()?;
    }

    let (netns, attachment) = sandbox("refused")?;
    let mut command = node
        .chain
        .command(&node.netns, "ADD", "margay-cni", &attachment)?;
    let output = exec::output(&mut command, b"{\"cniVersion\": \"1.0.0\", \"name\": ")?;
    let object: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        !output.status.success() && object["code"] == json!(6),
        "{object}"
    );
    seen.push("bad JSON: 6".to_owned());

    let missing = Attachment {
        netns: "/run/netns/never-was".to_owned(),
        ..attachment.clone()
    };
    let mut expect = |what: &str, code: u64, word: &str, result: Result<Value>| -> Result<()> {
        let error = cni_error(result).with_context(|| what.to_owned())?;
        ensure!(
            error.code == Some(code) && error.message.contains(word),
            "{what}: expected {code} with {word:?}: {error}"
        );
        seen.push(format!("{what}: {code}"));
        Ok(())
    };
    expect(
        "missing namespace",
        104,
        "never-was does not exist",
        node.chain.add(&node.netns, &missing),
    )?;
    netns.ip("link add eth0 type bridge")?;
    expect(
        "taken name",
        101,
        "eth0 exists",
        node.chain.add(&node.netns, &attachment),
    )?;
    node.chain.del(&node.netns, &attachment, None)?;
    ensure!(
        container_links(&netns)? == ["eth0"],
        "DEL after the refusal removed an interface that is not ours"
    );
    netns.delete()?;
    nothing_left(lab, &[])?;
    Ok(seen.join(", "))
}

fn without_agent(lab: &mut Lab) -> Result<String> {
    let pod = add(lab, "orphan")?;
    let node = lab.node_mut("n1")?;
    let plugin = node
        .chain
        .plugins
        .first()
        .cloned()
        .context("an empty chain")?;
    let status = |node: &crate::node::Node| {
        let chain = Chain {
            version: "1.1.0".to_owned(),
            ..node.chain.clone()
        };
        chain.invoke(&node.netns, "STATUS", &plugin, &pod.attachment, None)
    };
    status(node).context("STATUS with the agent")?;
    node.kill_agent()?;
    let down = cni_error(status(node))?;
    ensure!(down.code == Some(50), "STATUS without the agent: {down}");
    let later = cni_error(sandbox("too-early").and_then(|(netns, attachment)| {
        let result = node.chain.add(&node.netns, &attachment);
        netns.delete()?;
        result
    }))?;
    ensure!(later.code == Some(11), "ADD without the agent: {later}");
    del(lab, &pod)?;
    let handle = lab
        .objects
        .names("ipamhandles")
        .into_iter()
        .find(|name| name.starts_with("k8s-pod-network"));
    let handle = handle.ok_or_else(|| anyhow!("the address came back without an agent"))?;
    let node = lab.node_mut("n1")?;
    node.start_agent()?;
    node.await_ready(pace::seconds(30))?;
    nothing_left(lab, &[])?;
    Ok(format!(
        "STATUS 50 and ADD 11 without the agent; {handle} is gone after its return"
    ))
}
