//! Calls a chain of CNI plugins the way libcni does for a kubelet: environment, standard input, previous result.
//!
//! ADD runs the plugins in order and hands each the result of the one before; DEL runs them backwards with the result
//! that ADD ended with. `runtimeConfig` reaches only plugins that declare the capability.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};

use crate::exec;
use crate::netns::Netns;

/// Where Debian keeps the reference plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// A network configuration list and where its plugins are.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Network name.
    pub name: String,
    /// Version of the specification both sides speak.
    pub version: String,
    /// Configurations of the plugins, in order.
    pub plugins: Vec<Value>,
    /// Folders to look for plugins in.
    pub path: Vec<PathBuf>,
}

/// One interface of one container.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; empty where the namespace is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// Capability arguments, such as `portMappings`.
    pub capabilities: Map<String, Value>,
}

impl Attachment {
    /// What a kubelet passes for a pod.
    #[must_use]
    pub fn of_pod(namespace: &str, pod: &str, container_id: &str, netns: &str) -> Self {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={container_id};\
             K8S_POD_UID=00000000-0000-4000-8000-{:0>12.12}",
            container_id
        );
        Self {
            container_id: container_id.to_owned(),
            netns: netns.to_owned(),
            interface: "eth0".to_owned(),
            arguments,
            capabilities: Map::new(),
        }
    }
}

/// How a plugin says no: the specification's error object, or what it printed instead of one.
#[derive(Clone, Debug)]
pub struct CniError {
    /// Which plugin.
    pub plugin: String,
    /// The code of the error object; `None` when it printed none.
    pub code: Option<u64>,
    /// Message and details, or the raw output.
    pub message: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(
                formatter,
                "{}: CNI error {code}: {}",
                self.plugin, self.message
            ),
            None => write!(
                formatter,
                "{}: no CNI error object: {}",
                self.plugin, self.message
            ),
        }
    }
}

impl std::error::Error for CniError {}

impl Chain {
    /// The chain a margay node has: `margay-cni`, then portmap.
    #[must_use]
    pub fn margay(
        version: &str,
        run_dir: &str,
        state_dir: &str,
        ipam: &Value,
        own_plugins: PathBuf,
    ) -> Self {
        Self {
            name: "k8s-pod-network".to_owned(),
            version: version.to_owned(),
            plugins: vec![
                json!({"type": "margay-cni", "runDir": run_dir, "stateDir": state_dir, "ipam": ipam}),
                json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}),
            ],
            path: vec![own_plugins, PathBuf::from(REFERENCE_PLUGINS)],
        }
    }

    /// The file a runtime would read from `/etc/cni/net.d`.
    #[must_use]
    pub fn conflist(&self) -> Value {
        json!({"cniVersion": self.version, "name": self.name, "plugins": self.plugins})
    }

    /// Adds an interface; returns the last plugin's result.
    ///
    /// # Errors
    /// [`CniError`] of the first plugin that refuses; as libcni, nothing is undone here: the runtime calls DEL.
    pub fn add(&self, host: &Netns, attachment: &Attachment) -> Result<Value> {
        let mut previous: Option<Value> = None;
        for plugin in &self.plugins {
            let output = self.invoke(host, "ADD", plugin, attachment, previous.as_ref())?;
            previous = Some(
                serde_json::from_str(&output)
                    .with_context(|| format!("result of ADD: {output}"))?,
            );
        }
        previous.ok_or_else(|| anyhow!("the chain is empty"))
    }

    /// Checks an interface against ADD's result.
    ///
    /// # Errors
    /// [`CniError`] of the first plugin that is not content.
    pub fn check(&self, host: &Netns, attachment: &Attachment, result: &Value) -> Result<()> {
        self.plugins.iter().try_for_each(|plugin| {
            self.invoke(host, "CHECK", plugin, attachment, Some(result))
                .map(drop)
        })
    }

    /// Removes an interface; `result` is what ADD returned, if it did.
    ///
    /// # Errors
    /// [`CniError`] of the first plugin that refuses.
    pub fn del(&self, host: &Netns, attachment: &Attachment, result: Option<&Value>) -> Result<()> {
        self.plugins.iter().rev().try_for_each(|plugin| {
            self.invoke(host, "DEL", plugin, attachment, result)
                .map(drop)
        })
    }

    /// Runs one plugin once and returns its standard output.
    ///
    /// # Errors
    /// [`CniError`] when the plugin's exit status is not zero.
    pub fn invoke(
        &self,
        host: &Netns,
        verb: &str,
        plugin: &Value,
        attachment: &Attachment,
        previous: Option<&Value>,
    ) -> Result<String> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .context("plugin without a type")?;
        let input = self.input(plugin, attachment, previous)?;
        let mut command = self.command(host, verb, kind, attachment)?;
        let output = exec::output(&mut command, input.to_string().as_bytes())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let object: Option<Value> = serde_json::from_str(&stdout).ok();
        let field = |key: &str| {
            object
                .as_ref()
                .and_then(|object| object.get(key))
                .and_then(Value::as_str)
        };
        let code = object
            .as_ref()
            .and_then(|object| object.get("code"))
            .and_then(Value::as_u64);
        let message = match code {
            Some(_) => format!(
                "{} {}",
                field("msg").unwrap_or_default(),
                field("details").unwrap_or_default()
            ),
            None => format!(
                "{}: {stdout}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        };
        Err(CniError {
            plugin: kind.to_owned(),
            code,
            message: message.trim().to_owned(),
        }
        .into())
    }

    /// The command line and environment of one call, for those who run it otherwise (under strace, say).
    ///
    /// # Errors
    /// When no folder of the path has the plugin.
    pub fn command(
        &self,
        host: &Netns,
        verb: &str,
        kind: &str,
        attachment: &Attachment,
    ) -> Result<Command> {
        let program = self
            .path
            .iter()
            .map(|folder| folder.join(kind))
            .find(|file| file.exists())
            .with_context(|| format!("no plugin {kind} in {:?}", self.path))?;
        let mut command = host.isolated_command(&program.display().to_string());
        let folders: Vec<_> = self
            .path
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", &attachment.interface)
            .env("CNI_ARGS", &attachment.arguments)
            .env("CNI_PATH", folders.join(":"));
        Ok(command)
    }

    /// What a plugin reads from standard input.
    ///
    /// # Errors
    /// When the plugin's configuration is not an object.
    pub fn input(
        &self,
        plugin: &Value,
        attachment: &Attachment,
        previous: Option<&Value>,
    ) -> Result<Value> {
        let mut config = plugin
            .as_object()
            .context("plugin configuration is not an object")?
            .clone();
        config.insert("name".to_owned(), json!(self.name));
        config.insert("cniVersion".to_owned(), json!(self.version));
        let declared = config.remove("capabilities");
        let wanted: Map<String, Value> = attachment
            .capabilities
            .iter()
            .filter(|(key, _)| {
                declared.as_ref().and_then(|set| set.get(key.as_str())) == Some(&Value::Bool(true))
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !wanted.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(wanted));
        }
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        Ok(Value::Object(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_config_reaches_only_plugins_that_declare_the_capability() {
        let chain = Chain::margay("1.0.0", "/r", "/s", &json!({}), PathBuf::new());
        let mut attachment = Attachment::of_pod("default", "web-0", "0123456789ab", "/run/netns/p");
        attachment
            .capabilities
            .insert("portMappings".to_owned(), json!([{"hostPort": 80}]));
        let inputs: Vec<_> = chain
            .plugins
            .iter()
            .map(|plugin| chain.input(plugin, &attachment, None).unwrap())
            .collect();
        assert_eq!(inputs[0].get("runtimeConfig"), None);
        assert_eq!(
            inputs[1].pointer("/runtimeConfig/portMappings/0/hostPort"),
            Some(&json!(80))
        );
        assert_eq!(inputs[1].get("capabilities"), None);
    }
}
