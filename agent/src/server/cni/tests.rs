#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other reply fails the test and is printed"
)]

use margay_cni::protocol::{read_line, write_line};

use super::*;

/// The rest of the daemon as two sets, with faults to switch on.
#[derive(Debug, Default)]
struct World {
    held: BTreeMap<String, Vec<IpAddr>>,
    interfaces: BTreeSet<String>,
    workloads: BTreeMap<WorkloadKey, Workload>,
    given: u8,
    datastore_away: bool,
    no_route: bool,
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<World>>);

impl Fake {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        lock(&self.0)
    }

    fn away(&self) -> Result<(), Refusal> {
        if self.world().datastore_away {
            return Err(Refusal::new(
                code::TRY_AGAIN_LATER,
                "the datastore does not answer",
                "",
            ));
        }
        Ok(())
    }
}

impl Backend for Fake {
    fn ready(&self, _: bool, _: bool) -> Result<(), Refusal> {
        self.away().map_err(|e| Refusal {
            code: code::NOT_AVAILABLE,
            ..e
        })
    }
    fn pod_settings(&self) -> PodSettings {
        PodSettings {
            mtu: 1480,
            allow_ip_forwarding: false,
        }
    }
    async fn assign(&self, _: &AddRequest, handle: &str) -> Result<Vec<IpAddr>, Refusal> {
        self.away()?;
        let mut world = self.world();
        world.given += 1;
        let address: IpAddr = [10, 65, 0, world.given].into();
        world.held.insert(handle.into(), vec![address]);
        Ok(vec![address])
    }
    async fn release(&self, holding: Holding) -> Result<(), Refusal> {
        self.away()?;
        let mut world = self.world();
        match holding {
            Holding::Handle(handle) => {
                world.held.remove(&handle);
            }
            Holding::Addresses(handle, addresses) => {
                if let Some(held) = world.held.get_mut(&handle) {
                    held.retain(|a| !addresses.contains(a));
                }
            }
        }
        Ok(())
    }
    async fn collect(&self, network: &str, live: BTreeSet<String>) -> Result<usize, Refusal> {
        let mut world = self.world();
        let before = world.held.len();
        world.held.retain(|handle, _| {
            !handle.starts_with(&format!("{network}.")) || live.contains(handle)
        });
        Ok(before - world.held.len())
    }
    fn publish(&self, workloads: BTreeMap<WorkloadKey, Workload>) {
        self.world().workloads = workloads;
    }
    async fn routes_in_place(&self, _: &Endpoint) -> Result<(), Refusal> {
        if self.world().no_route {
            std::future::pending().await
        } else {
            Ok(())
        }
    }
    async fn remove_interface(&self, name: &str) -> Result<(), Refusal> {
        self.world().interfaces.remove(name);
        Ok(())
    }
    async fn has_interface(&self, name: &str) -> Result<bool, Refusal> {
        Ok(self.world().interfaces.contains(name))
    }
    fn observe(&self, _: &'static str, _: bool, _: Duration) {}
}

struct Lab {
    state: tempfile::TempDir,
    fake: Fake,
    service: Arc<CniService<Fake>>,
}

impl Lab {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let fake = Fake::default();
        let service = Self::service(&state, &fake);
        Self {
            state,
            fake,
            service,
        }
    }

    fn service(state: &tempfile::TempDir, fake: &Fake) -> Arc<CniService<Fake>> {
        Arc::new(CniService::new(
            fake.clone(),
            EndpointStore::open(state.path()).unwrap().0,
        ))
    }

    /// The daemon ends and starts anew on the same disk.
    fn restart(&mut self) {
        self.service = Self::service(&self.state, &self.fake);
    }

    async fn ask(&self, request: Request) -> Reply {
        self.service.answer(request, &mut BTreeSet::new()).await
    }

    /// A whole ADD, with the plugin's part done.
    async fn add(&self, container: &str, pod: &str) -> IpAddr {
        let assigned = match self.ask(add(container, pod)).await {
            Reply::Assigned(a) => a,
            other => panic!("{other:?}"),
        };
        self.fake.world().interfaces.insert(assigned.host_interface);
        assert_eq!(
            self.ask(Request::Confirm {
                attachment: id(container)
            })
            .await,
            Reply::Done
        );
        assigned.addresses[0]
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let world = self.fake.world();
        assert!(world.held.is_empty(), "addresses: {:?}", world.held);
        assert!(
            world.interfaces.is_empty(),
            "interfaces: {:?}",
            world.interfaces
        );
        assert!(
            world.workloads.is_empty(),
            "workloads: {:?}",
            world.workloads
        );
        for dir in ["endpoints", "tombstones"] {
            let left: Vec<_> = std::fs::read_dir(self.state.path().join(dir))
                .into_iter()
                .flatten()
                .map(|e| e.unwrap().path())
                .collect();
            assert!(left.is_empty(), "files: {left:?}");
        }
    }
}

fn id(container: &str) -> AttachmentId {
    AttachmentId {
        container_id: container.into(),
        ifname: "eth0".into(),
    }
}

fn add(container: &str, pod: &str) -> Request {
    Request::Add(Box::new(AddRequest {
        attachment: id(container),
        network: "k8s-pod-network".into(),
        netns: "/gone".into(),
        pod_namespace: Some("default".into()),
        pod_name: Some(pod.into()),
        pod_uid: None,
        assign_ipv4: true,
        assign_ipv6: false,
        ipv4_pools: vec![],
        ipv6_pools: vec![],
        requested: vec![],
        mtu: None,
    }))
}

fn del(container: &str) -> Request {
    Request::Del {
        attachment: id(container),
        network: "k8s-pod-network".into(),
    }
}

#[tokio::test]
async fn a_pod_that_came_and_went_leaves_nothing() {
    let lab = Lab::new();
    let address = lab.add("c1", "web").await;
    assert_eq!(
        lab.fake
            .world()
            .workloads
            .values()
            .next()
            .unwrap()
            .addresses,
        [address]
    );
    assert_eq!(
        lab.ask(Request::Check {
            attachment: id("c1"),
            addresses: vec![address]
        })
        .await,
        Reply::Done
    );
    assert_eq!(lab.ask(del("c1")).await, Reply::Done);
    assert_eq!(lab.ask(del("c1")).await, Reply::Done, "DEL again");
    lab.assert_nothing_left();
}

#[tokio::test]
async fn a_restart_keeps_the_pods_that_run_and_undoes_the_adds_that_were_under_way() {
    let mut lab = Lab::new();
    let running = lab.add("c1", "web").await;
    assert!(matches!(
        lab.ask(add("c2", "half")).await,
        Reply::Assigned(_)
    ));
    lab.restart();
    lab.service.recover().await;
    assert_eq!(
        lab.fake.world().held.values().flatten().collect::<Vec<_>>(),
        [&running]
    );
    assert_eq!(lab.fake.world().workloads.len(), 1);
    let reply = lab
        .ask(Request::Confirm {
            attachment: id("c2"),
        })
        .await;
    assert!(
        matches!(
            reply,
            Reply::Error {
                code: code::DAEMON_FAILED,
                ..
            }
        ),
        "{reply:?}"
    );
}

#[tokio::test]
async fn an_add_that_is_tried_again_after_a_crash_does_not_leak_the_first_address() {
    let mut lab = Lab::new();
    assert!(matches!(
        lab.ask(add("c1", "web")).await,
        Reply::Assigned(_)
    ));
    lab.restart();
    let address = lab.add("c1", "web").await;
    assert_eq!(
        lab.fake.world().held.values().flatten().collect::<Vec<_>>(),
        [&address]
    );
}

#[tokio::test]
async fn del_while_the_datastore_is_away_succeeds_and_the_address_comes_back_later() {
    let mut lab = Lab::new();
    lab.add("c1", "web").await;
    lab.fake.world().datastore_away = true;
    assert_eq!(lab.ask(del("c1")).await, Reply::Done);
    assert!(
        lab.fake.world().workloads.is_empty(),
        "the route goes at once"
    );
    lab.service.tend().await;
    lab.restart();
    lab.fake.world().datastore_away = false;
    lab.service.tend().await;
    lab.assert_nothing_left();
}

#[tokio::test]
async fn del_of_an_unknown_container_while_the_datastore_is_away_is_not_forgotten() {
    let mut lab = Lab::new();
    lab.fake.world().held.insert(
        "k8s-pod-network.c9".into(),
        vec!["10.65.0.9".parse().unwrap()],
    );
    lab.fake.world().datastore_away = true;
    assert_eq!(lab.ask(del("c9")).await, Reply::Done);
    lab.restart();
    lab.fake.world().datastore_away = false;
    lab.service.tend().await;
    lab.assert_nothing_left();
}

#[tokio::test]
async fn a_tombstone_is_honoured_and_does_not_reach_the_next_pod() {
    let mut lab = Lab::new();
    lab.add("c1", "web").await;
    let tombstone = Tombstone {
        attachment: id("c1"),
        network: "k8s-pod-network".into(),
    };
    tombstone.leave(lab.state.path()).unwrap();
    lab.restart();
    lab.service.recover().await;
    lab.assert_nothing_left();

    tombstone.leave(lab.state.path()).unwrap();
    let address = lab.add("c1", "web").await;
    lab.service.tend().await;
    assert_eq!(
        lab.fake.world().held.values().flatten().collect::<Vec<_>>(),
        [&address]
    );
}

#[tokio::test]
async fn the_old_sandboxs_del_does_not_touch_the_new_sandbox_of_the_same_pod() {
    let lab = Lab::new();
    lab.add("old", "web").await;
    let address = lab.add("new", "web").await;
    assert_eq!(lab.ask(del("old")).await, Reply::Done);
    let world = lab.fake.world();
    assert_eq!(
        world.interfaces.len(),
        1,
        "the interface is the new sandbox's now"
    );
    assert_eq!(
        world.held.values().flatten().collect::<Vec<_>>(),
        [&address]
    );
}

#[tokio::test]
async fn gc_releases_what_the_runtime_does_not_list_and_nothing_else() {
    let lab = Lab::new();
    let live = lab.add("c1", "web").await;
    lab.add("c2", "dead").await;
    lab.fake.world().held.insert(
        "k8s-pod-network.lost".into(),
        vec!["10.65.0.99".parse().unwrap()],
    );
    lab.fake.world().held.insert(
        "ipip-tunnel-addr-n1".into(),
        vec!["10.65.0.64".parse().unwrap()],
    );
    let reply = lab
        .ask(Request::Gc {
            network: "k8s-pod-network".into(),
            valid: vec![id("c1")],
        })
        .await;
    assert_eq!(reply, Reply::Collected { released: 2 });
    let world = lab.fake.world();
    let held: BTreeSet<_> = world.held.values().flatten().copied().collect();
    assert_eq!(held, BTreeSet::from([live, "10.65.0.64".parse().unwrap()]));
    assert_eq!(world.interfaces.len(), 1);
}

#[tokio::test]
async fn a_pod_is_only_taken_for_dead_when_both_its_namespace_and_its_interface_are_gone() {
    let mut lab = Lab::new();
    lab.add("c1", "web").await;
    {
        let mut endpoint = lab.service.get(&id("c1")).unwrap();
        endpoint.since = 0;
        lock(&lab.service.endpoints).put(endpoint).unwrap();
    }
    lab.restart();
    lab.service.tend().await;
    assert_eq!(lab.fake.world().held.len(), 1, "the interface lives");
    lab.fake.world().interfaces.clear();
    lab.service.tend().await;
    lab.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_route_does_not_appear_fails_with_the_reason() {
    let lab = Lab::new();
    assert!(matches!(
        lab.ask(add("c1", "web")).await,
        Reply::Assigned(_)
    ));
    lab.fake.world().no_route = true;
    match lab
        .ask(Request::Confirm {
            attachment: id("c1"),
        })
        .await
    {
        Reply::Error { message, .. } => assert!(
            message.contains("not in the kernel after 20 s"),
            "{message}"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(lab.ask(del("c1")).await, Reply::Done);
    lab.assert_nothing_left();
}

#[tokio::test]
async fn add_is_refused_as_try_again_later_until_the_daemon_is_ready() {
    let lab = Lab::new();
    lab.fake.world().datastore_away = true;
    assert!(matches!(
        lab.ask(add("c1", "web")).await,
        Reply::Error {
            code: code::TRY_AGAIN_LATER,
            ..
        }
    ));
    let status = lab
        .ask(Request::Status {
            assign_ipv4: true,
            assign_ipv6: false,
        })
        .await;
    assert!(matches!(
        status,
        Reply::Error {
            code: code::NOT_AVAILABLE,
            ..
        }
    ));
    lab.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_socket_a_plugin_that_dies_half_way_leaves_nothing() {
    let lab = Lab::new();
    let path = lab.state.path().join("cni.sock");
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let (service, path, stop) = (Arc::clone(&lab.service), path.clone(), stop.clone());
        async move { service.serve(&path, stop).await }
    });
    let plugin = tokio::task::spawn_blocking(move || {
        let stream = loop {
            match std::os::unix::net::UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => std::thread::yield_now(),
            }
        };
        write_line(&stream, &add("c1", "web")).unwrap();
        let reply = read_line::<Reply>(io::BufReader::new(&stream)).unwrap();
        assert!(matches!(reply, Some(Reply::Assigned(_))), "{reply:?}");
    });
    plugin.await.unwrap();
    // The server ends only after it has undone what its connections left open.
    stop.cancel();
    server.await.unwrap().unwrap();
    lab.assert_nothing_left();
}
