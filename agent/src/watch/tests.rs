//! States are compared whole: that two of them are equal is the fact most tests are about.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::objects::Objects;
use super::{View, WatchOptions, Workloads, read_once, spawn};
use crate::datastore::{Kind, Object, Store, WatchEvent};
use crate::model::{ClusterState, Workload, WorkloadKey};

fn object(kind: Kind, name: &str, value: Value) -> Object {
    let mut object = Object::new(kind, name, value);
    object.source = format!("{name}.yaml:1");
    object
}

fn created(kind: Kind, name: &str, at: &str, spec: Value) -> Object {
    object(
        kind,
        name,
        json!({"metadata": {"creationTimestamp": at}, "spec": spec}),
    )
}

fn block(name: &str, cidr: &str, host: Option<&str>, uses: &[(usize, &str)]) -> Object {
    let mut allocations = vec![Value::Null; 4];
    let mut attributes = Vec::new();
    for (index, (ordinal, node)) in uses.iter().enumerate() {
        allocations[*ordinal] = json!(index);
        attributes.push(json!({"handle_id": format!("h{index}"), "secondary": {"node": node}}));
    }
    let mut spec = json!({"cidr": cidr, "allocations": allocations, "attributes": attributes, "unallocated": []});
    if let Some(host) = host {
        spec["affinity"] = json!(format!("host:{host}"));
    }
    object(Kind::IpamBlock, name, json!({"spec": spec}))
}

fn affinity(node: &str, cidr: &str, state: &str) -> Object {
    object(
        Kind::BlockAffinity,
        &format!("{node}-{}", cidr.replace(['.', '/'], "-")),
        json!({"spec": {"state": state, "node": node, "cidr": cidr, "deleted": "false"}}),
    )
}

/// A cluster with a bit of everything, good and bad.
fn cluster() -> Vec<Object> {
    vec![
        object(
            Kind::Node,
            "n1",
            json!({"metadata": {"labels": {"gpu": "1"}}, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}}),
        ),
        object(
            Kind::Node,
            "n2",
            json!({"spec": {"bgp": {"ipv4Address": "10.0.0.2/24", "asNumber": "wrong"}}}),
        ),
        created(
            Kind::IpPool,
            "a",
            "2024-01-02T00:00:00Z",
            json!({"cidr": "10.65.0.0/16"}),
        ),
        created(
            Kind::IpPool,
            "b",
            "2024-01-01T00:00:00Z",
            json!({"cidr": "10.65.128.0/17"}),
        ),
        created(
            Kind::IpPool,
            "c",
            "2024-01-01T00:00:00Z",
            json!({"cidr": "10.66.0.1/16"}),
        ),
        created(
            Kind::IpPool,
            "d",
            "2024-01-01T00:00:00Z",
            json!({"cidr": "10.67.0.0/16", "natoutgoing": true}),
        ),
        block("b1", "10.65.0.0/30", Some("n1"), &[(0, "n1"), (1, "n2")]),
        affinity("n1", "10.65.0.0/30", "confirmed"),
        block("b2", "10.65.0.4/30", Some("n2"), &[(2, "n2")]),
        affinity("n2", "10.65.0.4/30", "pending"),
        affinity("n2", "10.65.0.0/30", "confirmed"),
        object(
            Kind::BgpConfiguration,
            "default",
            json!({"spec": {"asNumber": 64999, "listenPort": 1179}}),
        ),
        object(
            Kind::BgpConfiguration,
            "node.n1",
            json!({"spec": {"listenPort": 2179, "asNumber": 1}}),
        ),
        object(
            Kind::BgpConfiguration,
            "node.n2",
            json!({"spec": {"listenPort": 3179}}),
        ),
        object(
            Kind::BgpPeer,
            "tor",
            json!({"spec": {"peerIP": "10.0.0.254", "asNumber": 64601}}),
        ),
        object(Kind::BgpPeer, "bad", json!({"spec": {}})),
        object(
            Kind::BgpFilter,
            "f",
            json!({"spec": {"exportV4": [{"action": "Reject"}]}}),
        ),
        created(
            Kind::FelixConfiguration,
            "default",
            "2024-01-01T00:00:00Z",
            json!({"vxlanPort": 1, "vxlanVNI": 1, "bpfEnabled": true}),
        ),
        created(
            Kind::FelixConfiguration,
            "gpu-new",
            "2024-01-03T00:00:00Z",
            json!({"nodeSelector": "has(gpu)", "vxlanPort": 3}),
        ),
        created(
            Kind::FelixConfiguration,
            "gpu-old",
            "2024-01-02T00:00:00Z",
            json!({"nodeSelector": "has(gpu)", "vxlanPort": 2, "ipipMTU": 7}),
        ),
        created(
            Kind::FelixConfiguration,
            "node.n1",
            "2024-01-04T00:00:00Z",
            json!({"ipipMTU": 9}),
        ),
        object(Kind::Secret, "s", json!({"stringData": {"k": "plain"}})),
        object(
            Kind::Secret,
            "kube-system/s",
            json!({"stringData": {"k": "right"}}),
        ),
        object(
            Kind::Secret,
            "other/t",
            json!({"stringData": {"k": "theirs"}}),
        ),
        object(
            Kind::Namespace,
            "web",
            json!({"metadata": {"labels": {"tier": "front"}}}),
        ),
        object(
            Kind::ClusterInformation,
            "default",
            json!({"spec": {"datastoreReady": false}}),
        ),
        object(
            Kind::IpReservation,
            "r",
            json!({"spec": {"reservedCIDRs": ["10.65.0.9", "10.65.1.0/24"]}}),
        ),
        object(Kind::GlobalNetworkPolicy, "deny", json!({"spec": {}})),
        object(Kind::NetworkPolicy, "web/deny", json!({"spec": {}})),
        object(Kind::HostEndpoint, "eth0", json!({"spec": {}})),
        object(Kind::Tier, "default", json!({"spec": {}})),
    ]
}

fn state_of<'a>(objects: impl IntoIterator<Item = &'a Object>) -> ClusterState {
    let mut all = Objects::new("n1", "kube-system");
    for object in objects {
        all.take(WatchEvent::Applied(object.clone()));
    }
    all.state(&BTreeMap::new())
}

#[test]
fn blocks_belong_to_whom_block_and_confirmed_affinity_both_name() {
    let state = state_of(&cluster());
    let first = &state.blocks[&"10.65.0.0/30".parse().unwrap()];
    assert_eq!(first.owner(), Some("n1"));
    assert_eq!(
        first.borrowed,
        BTreeMap::from([("10.65.0.1".parse().unwrap(), "n2".to_owned())])
    );
    let second = &state.blocks[&"10.65.0.4/30".parse().unwrap()];
    assert_eq!((second.host.as_deref(), second.owner()), (Some("n2"), None));
    assert_eq!(
        second.borrowed,
        BTreeMap::from([("10.65.0.6".parse().unwrap(), "n2".to_owned())])
    );
    assert_eq!(
        state.affinities,
        BTreeMap::from([("10.65.0.0/30".parse().unwrap(), "n1".to_owned())])
    );
    assert_eq!(state.blocks_of("n1").count(), 1);
}

#[test]
fn deleted_blocks_and_affinities_count_as_absent() {
    let mut gone = block("b1", "10.65.0.0/30", Some("n1"), &[]);
    gone.value["spec"]["deleted"] = json!(true);
    let mut away = affinity("n1", "10.65.0.0/30", "confirmed");
    away.value["spec"]["deleted"] = json!("true");
    let leaving = affinity("n1", "10.65.0.4/30", "pendingDeletion");
    let state = state_of([&gone, &away, &leaving]);
    assert!(state.blocks.is_empty() && state.affinities.is_empty());
}

#[test]
fn a_pod_on_the_blocks_own_node_changes_nothing() {
    let confirmed = affinity("n1", "10.65.0.0/30", "confirmed");
    let before = state_of([&block("b", "10.65.0.0/30", Some("n1"), &[]), &confirmed]);
    let after = state_of([
        &block("b", "10.65.0.0/30", Some("n1"), &[(0, "n1")]),
        &confirmed,
    ]);
    assert_eq!(before, after);
    assert_eq!(
        after
            .blocks
            .values()
            .map(|block| block.allocated)
            .sum::<usize>(),
        1
    );
}

#[test]
fn settings_are_joined_by_precedence() {
    let state = state_of(&cluster());
    assert_eq!(
        (
            state.bgp.asn.0,
            state.bgp.listen_port,
            state.bgp.cluster_listen_port
        ),
        (64999, 2179, 1179)
    );
    assert_eq!(state.nodes["n2"].listen_port, Some(3179));
    assert_eq!(
        (
            state.felix.vxlan_port,
            state.felix.vxlan_vni,
            state.felix.ipip_mtu
        ),
        (2, 1, Some(9))
    );
    assert_eq!(state.secrets["s"]["k"].expose(), b"right");
    assert!(!state.secrets.contains_key("t"));
    assert_eq!(state.namespaces["web"]["projectcalico.org/name"], "web");
    assert!(!state.datastore_ready);
}

#[test]
fn of_overlapping_pools_the_older_serves() {
    let state = state_of(&cluster());
    assert!(state.pools["a"].disabled && !state.pools["b"].disabled);
    assert!(!state.pools.contains_key("c"));
    assert_eq!(
        state.pool_of("10.65.200.1".parse().unwrap()).unwrap().name,
        "b"
    );
    assert_eq!(
        state.pool_of("10.65.1.1".parse().unwrap()).unwrap().name,
        "a"
    );
}

#[test]
fn faults_name_object_place_and_field_and_disturb_nothing_else() {
    let state = state_of(&cluster());
    let told: Vec<String> = state.invalid.values().map(ToString::to_string).collect();
    for part in [
        "a.yaml:1: IPPool a: spec.cidr: 10.65.0.0/16 overlaps 10.65.128.0/17 of IPPool b",
        "c.yaml:1: IPPool c: spec.cidr: 10.66.0.1/16 has bits set behind its length: write 10.66.0.0/16",
        "n2.yaml:1: Node n2: spec.bgp.asNumber: \"wrong\" is not an AS number",
        "bad.yaml:1: BGPPeer bad: spec.peerIP: nobody to peer with",
    ] {
        assert!(
            told.iter().any(|told| told.starts_with(part)),
            "{part} in {told:#?}"
        );
    }
    assert_eq!(told.len(), 4, "{told:#?}");
    assert_eq!(state.nodes.len(), 2);
    assert!(state.peers.contains_key("tor"));
}

#[test]
fn what_is_not_acted_upon_is_named() {
    let state = state_of(&cluster());
    let subjects: Vec<&str> = state.unsupported.keys().map(String::as_str).collect();
    assert_eq!(
        subjects,
        [
            "BGPConfiguration node.n1 spec.asNumber",
            "FelixConfiguration default spec.bpfEnabled",
            "GlobalNetworkPolicy deny",
            "HostEndpoint eth0",
            "IPPool d spec.natoutgoing",
            "NetworkPolicy web/deny",
        ]
    );
}

#[test]
fn order_repetition_and_return_do_not_show() {
    let objects = cluster();
    let want = state_of(&objects);
    assert_eq!(state_of(objects.iter().rev()), want);
    assert_eq!(state_of(objects.iter().chain(&objects)), want);
    // Deleted and returned, one by one.
    let mut all = Objects::new("n1", "kube-system");
    for object in &objects {
        all.take(WatchEvent::Applied(object.clone()));
    }
    for object in &objects {
        all.take(WatchEvent::Deleted(object.kind, object.name.clone()));
        assert_ne!(all.state(&BTreeMap::new()).nodes.len(), 99);
        all.take(WatchEvent::Applied(object.clone()));
    }
    assert_eq!(all.state(&BTreeMap::new()), want);
    // All gone leaves nothing behind.
    for object in &objects {
        all.take(WatchEvent::Deleted(object.kind, object.name.clone()));
    }
    assert_eq!(all.state(&BTreeMap::new()), state_of([]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any history that ends with the same objects ends in the same state.
    #[test]
    fn the_state_depends_on_the_objects_alone(
        order in Just((0..cluster().len()).collect::<Vec<_>>()).prop_shuffle(),
        noise in prop::collection::vec((0..cluster().len(), any::<bool>()), 0..60),
    ) {
        let objects = cluster();
        let mut all = Objects::new("n1", "kube-system");
        for (index, there) in noise {
            let object = &objects[index];
            let mut early = object.clone();
            early.value["spec"] = json!({"cidr": "10.1.0.0/16"});
            all.take(if there {
                WatchEvent::Applied(early)
            } else {
                WatchEvent::Deleted(object.kind, object.name.clone())
            });
        }
        for index in order {
            all.take(WatchEvent::Applied(objects[index].clone()));
        }
        prop_assert_eq!(all.state(&BTreeMap::new()), state_of(&objects));
    }
}

#[test]
fn faults_of_files_come_and_go() {
    let mut all = Objects::new("n1", "kube-system");
    all.take(WatchEvent::Invalid {
        source: "f.yaml".to_owned(),
        field: None,
        reason: "line 3: no".to_owned(),
    });
    assert_eq!(
        all.state(&BTreeMap::new())
            .invalid
            .values()
            .next()
            .unwrap()
            .to_string(),
        "f.yaml: line 3: no"
    );
    all.take(WatchEvent::ValidAgain {
        source: "f.yaml".to_owned(),
    });
    assert!(all.state(&BTreeMap::new()).invalid.is_empty());
}

#[test]
fn a_saved_view_makes_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Objects::new("n1", "kube-system");
    for object in cluster() {
        all.apply(&object);
    }
    let view = View::new(dir.path());
    assert!(view.load().unwrap().is_empty());
    view.save(&View::text(&all)).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(dir.path().join("view/cluster.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut again = Objects::new("n1", "kube-system");
    for object in view.load().unwrap() {
        again.apply(&object);
    }
    let (mut before, mut after) = (all.state(&BTreeMap::new()), again.state(&BTreeMap::new()));
    // Faults are told of another place.
    before.invalid.clear();
    after.invalid.clear();
    assert_eq!(after, before);
}

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/16}\n";

async fn wait_for(
    states: &mut watch::Receiver<Arc<ClusterState>>,
    wanted: impl FnMut(&Arc<ClusterState>) -> bool,
) -> Arc<ClusterState> {
    let found = tokio::time::timeout(Duration::from_secs(20), states.wait_for(wanted)).await;
    Arc::clone(&found.expect("within 20 s").expect("the task lives"))
}

fn workloads() -> Workloads {
    let key = WorkloadKey {
        container_id: "c".to_owned(),
        ifname: "eth0".to_owned(),
    };
    let workload = Workload {
        key: key.clone(),
        namespace: "web".to_owned(),
        pod: "p".to_owned(),
        labels: BTreeMap::new(),
        host_interface: "cali1".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        netns: "/n".into(),
        handle_id: "h".to_owned(),
    };
    Arc::new(BTreeMap::from([(key, workload)]))
}

#[tokio::test]
async fn the_task_publishes_whole_states_and_saves_the_view_at_its_end() {
    let (dir, state_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("p.yaml"), POOL).unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    let (pods, pods_seen) = watch::channel(Workloads::default());
    let cancel = CancellationToken::new();
    let options = WatchOptions {
        state_dir: Some(state_dir.path().to_owned()),
        ..WatchOptions::new("n1")
    };
    let (mut states, task) = spawn(store.clone(), options, pods_seen, cancel.clone());
    let state = wait_for(&mut states, |state| state.in_sync).await;
    assert!(state.pools.contains_key("p") && !state.from_saved_view);
    pods.send(workloads()).unwrap();
    wait_for(&mut states, |state| state.workloads.len() == 1).await;
    fs::write(
        dir.path().join("q.yaml"),
        POOL.replace("name: p", "name: q").replace("10.0.", "10.1."),
    )
    .unwrap();
    wait_for(&mut states, |state| state.pools.len() == 2).await;
    fs::write(dir.path().join("q.yaml"), "kind: [").unwrap();
    let state = wait_for(&mut states, |state| {
        !state.invalid.is_empty() && state.pools.len() == 1
    })
    .await;
    assert!(state.in_sync);
    cancel.cancel();
    task.await.unwrap();
    let saved = fs::read_to_string(state_dir.path().join("view/cluster.json")).unwrap();
    assert!(saved.contains("\"name\":\"p\""));
    assert_eq!(
        read_once(&store, &WatchOptions::new("n1"))
            .await
            .unwrap()
            .pools,
        state.pools
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_replaced_by_the_saved_view_until_it_is_back() {
    let (dir, state_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut all = Objects::new("n1", "kube-system");
    for object in cluster() {
        all.apply(&object);
    }
    View::new(state_dir.path()).save(&View::text(&all)).unwrap();
    let path = dir.path().join("store");
    let store = Store::connect_directory(&path).unwrap();
    assert!(store.get(Kind::IpPool, "p").await.is_err());
    let (_pods, pods_seen) = watch::channel(workloads());
    let cancel = CancellationToken::new();
    let options = WatchOptions {
        state_dir: Some(state_dir.path().to_owned()),
        ..WatchOptions::new("n1")
    };
    let (mut states, task) = spawn(store, options, pods_seen, cancel.clone());
    let state = wait_for(&mut states, |state| state.from_saved_view).await;
    assert!(!state.in_sync);
    assert_eq!((state.nodes.len(), state.workloads.len()), (2, 1));
    assert!(!path.exists(), "nobody but its owner makes it");
    // It comes in one piece, as a mount does.
    let mount = dir.path().join("mount");
    fs::create_dir(&mount).unwrap();
    fs::write(mount.join("p.yaml"), POOL).unwrap();
    fs::rename(&mount, &path).unwrap();
    let state = wait_for(&mut states, |state| state.in_sync).await;
    assert!(!state.from_saved_view && state.nodes.is_empty() && state.pools.contains_key("p"));
    cancel.cancel();
    task.await.unwrap();
    assert!(
        View::new(state_dir.path()).has_node("n1"),
        "a view without this node is not saved over one with it"
    );
}
