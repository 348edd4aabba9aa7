//! What Calico reads and writes is what stands in the records.

use super::*;

#[tokio::test]
async fn the_first_pod_of_a_node_leaves_calicos_records() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let ipam = start(
        memory.client(None),
        "n1",
        cluster(
            "n1",
            &[("v4", "10.65.0.0/26", 30), ("full", "10.66.0.0/26", 26)],
        ),
        &clock,
    );
    let mut request = ask("k8s-pod-network.C1", 1, 0);
    request.ipv4_pools = vec!["full".to_owned()];
    assert_eq!(addresses(&ipam, request).await.len(), 1);
    let blocks = blocks(&memory);
    let sequence = 1_767_323_045_000_000_000_u64;
    let mut allocations = vec![Value::Null; 64];
    allocations[0] = json!(0);
    assert_eq!(
        blocks["10-66-0-0-26"],
        json!({
            "cidr": "10.66.0.0/26",
            "affinity": "host:n1",
            "affinityClaimTime": "2026-01-02T03:04:05Z",
            "allocations": allocations,
            "attributes": [{"handle_id": "k8s-pod-network.C1", "secondary": {"node": "n1", "pod": "k8s-pod-network.C1"}}],
            "unallocated": (1..64).collect::<Vec<_>>(),
            "sequenceNumber": sequence + 1,
            "sequenceNumberForAllocation": {"0": sequence},
            "deleted": false,
            "strictAffinity": false,
        })
    );
    let affinity = &memory.all(Kind::BlockAffinity)[0];
    assert_eq!(affinity.name, "n1-10-66-0-0-26");
    assert_eq!(
        *affinity.spec(),
        json!({"state": "confirmed", "node": "n1", "type": "host", "cidr": "10.66.0.0/26", "deleted": false})
    );
    assert_eq!(
        affinity.value["metadata"]["labels"]["projectcalico.org/ip-version"],
        "4"
    );
    let handle = &memory.all(Kind::IpamHandle)[0];
    assert_eq!(handle.name, "k8s-pod-network.c1");
    assert_eq!(
        *handle.spec(),
        json!({"handleID": "k8s-pod-network.C1", "block": {"10.66.0.0/26": 1}})
    );

    let released = ipam.release_handle("k8s-pod-network.C1").await.unwrap();
    assert_eq!(released.addresses.len(), 1);
    assert!(released.existed);
    assert!(memory.all(Kind::IpamHandle).is_empty());
    assert!(
        !ipam
            .release_handle("k8s-pod-network.C1")
            .await
            .unwrap()
            .existed
    );
    // The node keeps its block.
    assert_eq!(memory.all(Kind::IpamBlock).len(), 1);
}

#[tokio::test]
async fn records_calico_wrote_are_worked_on_in_place() {
    let (memory, clock) = (Memory::new(), Clock::new());
    memory.put(
        Kind::IpamBlock,
        "10-65-0-0-30",
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
            "metadata": {"annotations": {"projectcalico.org/metadata": "{\"creationTimestamp\":null}"}},
            "spec": {
                "affinity": "host:n1", "allocations": [0, null, null, null],
                "attributes": [{"handle_id": "k8s-pod-network.old", "secondary": {"namespace": "default", "node": "n1", "pod": "p"}}],
                "cidr": "10.65.0.0/30", "deleted": false, "sequenceNumber": 1_700_000_000_000_000_001_u64,
                "sequenceNumberForAllocation": {"0": 1_700_000_000_000_000_000_u64}, "strictAffinity": false,
                "unallocated": [2, 3, 1]
            }
        }),
    );
    memory.put(
        Kind::BlockAffinity,
        "n1-10-65-0-0-30",
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
            "spec": {"cidr": "10.65.0.0/30", "deleted": "false", "node": "n1", "state": "confirmed"}
        }),
    );
    memory.put(
        Kind::IpamHandle,
        "k8s-pod-network.old",
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMHandle",
            "spec": {"block": {"10.65.0.0/30": 1}, "deleted": false, "handleID": "k8s-pod-network.old"}
        }),
    );
    let ipam = start(
        memory.client(None),
        "n1",
        cluster("n1", &[("v4", "10.65.0.0/16", 30)]),
        &clock,
    );
    let got = addresses(&ipam, ask("k8s-pod-network.new", 1, 0)).await;
    assert_eq!(got, ["10.65.0.2".parse::<IpAddr>().unwrap()]);
    let object = &memory.all(Kind::IpamBlock)[0];
    assert_eq!(object.value["apiVersion"], "crd.projectcalico.org/v1");
    assert!(object.value["metadata"]["annotations"]["projectcalico.org/metadata"].is_string());
    assert_eq!(object.spec()["unallocated"], json!([3, 1]));
    assert_eq!(
        object.spec()["sequenceNumber"],
        json!(1_700_000_000_000_000_002_u64)
    );
    ipam.release_handle("k8s-pod-network.old").await.unwrap();
    assert_eq!(sound(&memory, &clock).await.len(), 1);
    assert_eq!(
        blocks(&memory)["10-65-0-0-30"]["unallocated"],
        json!([3, 1, 0])
    );
}

#[tokio::test]
async fn the_check_tells_calicos_categories_apart() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("v4", "10.65.0.0/24", 26)]);
    let ipam = start(memory.client(None), "n1", state.clone(), &clock);
    let used = addresses(&ipam, ask("used", 1, 0)).await[0];
    let unused = addresses(&ipam, ask("unused", 1, 0)).await[0];
    let orphan = addresses(&ipam, ask("orphan", 1, 0)).await[0];
    let mut handle = memory
        .all(Kind::IpamHandle)
        .into_iter()
        .find(|object| object.name == "orphan")
        .unwrap();
    handle.value["spec"]["deleted"] = json!(true);
    memory.put(Kind::IpamHandle, "orphan", handle.value);
    memory.put(
        Kind::IpamHandle,
        "empty",
        json!({"spec": {"handleID": "empty", "block": {"10.65.0.0/26": 1}}}),
    );
    memory.put(Kind::IpamBlock, "10-65-9-0-26", json!({"spec": {"cidr": "10.65.9.0/26", "allocations": [null], "unallocated": [0], "attributes": []}}));
    state.node_name = "n1".to_owned();
    let mut uses = Uses::of(&state);
    for (address, user) in [
        (used, "pod a"),
        (orphan, "pod b"),
        ("10.65.0.250".parse().unwrap(), "pod c"),
        ("192.0.2.1".parse().unwrap(), "pod d"),
        (used, "pod e"),
    ] {
        uses.add(address, user.to_owned());
    }
    let report = check(&memory, &state, &uses, clock.now()).await.unwrap();
    let list = |findings: &[crate::ipam::check::Finding]| {
        findings
            .iter()
            .map(|f| f.address.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&report.allocated_not_used), [unused.to_string()]);
    assert_eq!(list(&report.used_not_allocated), ["10.65.0.250"]);
    assert_eq!(list(&report.used_outside_pools), ["192.0.2.1"]);
    assert_eq!(list(&report.used_twice), [used.to_string()]);
    assert_eq!(list(&report.addresses_without_handle), [orphan.to_string()]);
    assert_eq!(report.handles_without_addresses, ["empty"]);
    assert_eq!(
        report.malformed.keys().collect::<Vec<_>>(),
        ["10-65-9-0-26"]
    );
    assert!(!report.is_sound());
}
