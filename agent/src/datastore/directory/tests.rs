//! The directory datastore on real directories. Nothing sleeps: a test waits for the event it expects, or for a later event that
//! must come after the one it must not see.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::worker::READS;
use crate::datastore::{Kind, Object, Store, StoreError, Watch, WatchEvent};

async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    (dir, store)
}

fn pool(name: &str, cidr: &str) -> Object {
    Object::new(Kind::IpPool, name, json!({"spec": {"cidr": cidr}}))
}

fn pool_text(name: &str, cidr: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n"
    )
}

/// The next event, which must come; generous, since the machine may be busy.
async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(Duration::from_secs(20), watch.next())
        .await
        .expect("an event within 20 s")
        .expect("the store lives")
}

fn short(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Applied(object) => {
            format!(
                "{} {}",
                object.name,
                object.spec()["cidr"].as_str().unwrap_or("?")
            )
        }
        WatchEvent::Deleted(_, name) => format!("-{name}"),
        WatchEvent::InitDone => "done".to_owned(),
        WatchEvent::Invalid {
            source,
            field,
            reason,
        } => {
            let file = source.rsplit('/').next().unwrap_or("");
            format!("!{file} {} {reason}", field.as_deref().unwrap_or("-"))
        }
        WatchEvent::ValidAgain { source } => {
            format!("+{}", source.rsplit('/').next().unwrap_or(""))
        }
    }
}

async fn started(store: &Store) -> (Watch, Vec<String>) {
    let mut watch = store.watch().await.unwrap();
    let mut seen = Vec::new();
    loop {
        let event = next(&mut watch).await;
        if event == WatchEvent::InitDone {
            return (watch, seen);
        }
        seen.push(short(&event));
    }
}

/// Events up to one that says `last`.
async fn until(watch: &mut Watch, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        seen.push(short(&next(watch).await));
        if seen.last().is_some_and(|seen| seen == last) {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_created_object_is_a_file_with_identity_and_reads_back() {
    let (dir, store) = store().await;
    let created = store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    assert_eq!(created.uid.len(), 36);
    assert!(created.value["metadata"]["creationTimestamp"].is_string());
    assert!(created.resource_version.starts_with("1."));
    let text = fs::read_to_string(dir.path().join("ippools/a.yaml")).unwrap();
    assert!(text.contains("cidr: \"10.0.0.0/16\""), "{text}");
    let read = store.get(Kind::IpPool, "a").await.unwrap().unwrap();
    assert_eq!(read, created);
    let other = Store::open_directory(dir.path()).await.unwrap();
    assert_eq!(other.list(Kind::IpPool).await.unwrap(), [created]);
}

#[tokio::test]
async fn create_of_what_exists_is_refused_in_any_file() {
    let (dir, store) = store().await;
    store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    assert!(matches!(
        store.create(pool("a", "10.1.0.0/16")).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    fs::write(dir.path().join("mine.yaml"), pool_text("b", "10.2.0.0/16")).unwrap();
    let (_, seen) = started(&Store::open_directory(dir.path()).await.unwrap()).await;
    assert_eq!(seen.len(), 2);
    let other = Store::open_directory(dir.path()).await.unwrap();
    assert!(matches!(
        other.create(pool("b", "10.1.0.0/16")).await,
        Err(StoreError::AlreadyExists { .. })
    ));
}

#[tokio::test]
async fn update_and_delete_compare_versions() {
    let (_dir, store) = store().await;
    let first = store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let second = store.update(first.clone()).await.unwrap();
    assert_ne!(
        first.resource_version, second.resource_version,
        "a write without change is a new version"
    );
    assert_eq!(first.uid, second.uid);
    assert!(matches!(
        store.update(first.clone()).await,
        Err(StoreError::Conflict { .. })
    ));
    assert!(matches!(
        store
            .delete(Kind::IpPool, "a", Some(&first.resource_version))
            .await,
        Err(StoreError::Conflict { .. })
    ));
    store
        .delete(Kind::IpPool, "a", Some(&second.resource_version))
        .await
        .unwrap();
    assert!(matches!(
        store.update(second).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.delete(Kind::IpPool, "a", None).await,
        Err(StoreError::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_version_from_before_a_new_object_of_the_same_name_is_refused() {
    let (_dir, store) = store().await;
    let old = store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    store.delete(Kind::IpPool, "a", None).await.unwrap();
    store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    assert!(matches!(
        store.update(old).await,
        Err(StoreError::Conflict { .. })
    ));
}

#[tokio::test]
async fn an_edit_by_hand_is_another_version() {
    let (dir, store) = store().await;
    let created = store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let path = dir.path().join("ippools/a.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("10.0.0.0/16", "10.9.0.0/16")).unwrap();
    assert!(matches!(
        store.update(created).await,
        Err(StoreError::Conflict { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn increments_by_many_writers_are_never_lost() {
    let (dir, store) = store().await;
    store
        .create(Object::new(
            Kind::IpamHandle,
            "h",
            json!({"spec": {"count": 0}}),
        ))
        .await
        .unwrap();
    let mut writers = Vec::new();
    for _ in 0..6 {
        // Each its own store, as processes of several nodes would have.
        let store = Store::open_directory(dir.path()).await.unwrap();
        writers.push(tokio::spawn(async move {
            for _ in 0..20 {
                loop {
                    let mut object = store.get(Kind::IpamHandle, "h").await.unwrap().unwrap();
                    let count = object.spec()["count"].as_u64().unwrap();
                    object.value["spec"]["count"] = json!(count + 1);
                    match store.update(object).await {
                        Ok(_) => break,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let end = store.get(Kind::IpamHandle, "h").await.unwrap().unwrap();
    assert_eq!(end.spec()["count"], 120);
    assert!(end.resource_version.starts_with("121."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creators_one_wins() {
    let (dir, _store) = store().await;
    let mut writers = Vec::new();
    for _ in 0..8 {
        let store = Store::open_directory(dir.path()).await.unwrap();
        writers.push(tokio::spawn(async move {
            store.create(pool("a", "10.0.0.0/16")).await.is_ok()
        }));
    }
    let mut won = 0;
    for writer in writers {
        won += usize::from(writer.await.unwrap());
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn what_one_store_writes_another_lists_at_once() {
    let (dir, store) = store().await;
    let other = Store::open_directory(dir.path()).await.unwrap();
    for number in 0..20 {
        let name = format!("p{number}");
        store.create(pool(&name, "10.0.0.0/16")).await.unwrap();
        assert_eq!(other.list(Kind::IpPool).await.unwrap().len(), number + 1);
        assert!(other.get(Kind::IpPool, &name).await.unwrap().is_some());
    }
    store.delete(Kind::IpPool, "p3", None).await.unwrap();
    assert_eq!(other.get(Kind::IpPool, "p3").await.unwrap(), None);
    assert_eq!(other.list(Kind::IpPool).await.unwrap().len(), 19);
}

#[tokio::test]
async fn updating_one_document_leaves_every_other_octet() {
    let (dir, _store) = store().await;
    let path = dir.path().join("all.yml");
    let text = format!(
        "# my cluster\n{}--- # second\n# about b\n{}\n# end of b\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name:   d}}\n",
        pool_text("a", "10.0.0.0/16"),
        pool_text("b", "10.1.0.0/16"),
    );
    fs::write(&path, &text).unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    let mut object = store.get(Kind::IpPool, "b").await.unwrap().unwrap();
    object.value["spec"]["natOutgoing"] = json!(true);
    let updated = store.update(object).await.unwrap();
    assert!(updated.resource_version.starts_with("1."));
    let after = fs::read_to_string(&path).unwrap();
    let (start, _) = text.split_once("# about b\n").unwrap();
    let (_, end) = text.split_once("\n# end of b\n").unwrap();
    assert!(after.starts_with(&format!("{start}# about b\n")), "{after}");
    assert!(after.ends_with(&format!("\n# end of b\n{end}")), "{after}");
    assert!(after.contains("natOutgoing: true"));
    store
        .delete(Kind::IpPool, "b", Some(&updated.resource_version))
        .await
        .unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert!(
        after.contains("name: a") && after.contains("Deployment") && !after.contains("name: b"),
        "{after}"
    );
    assert_eq!(store.list(Kind::IpPool).await.unwrap().len(), 1);
}

#[tokio::test]
async fn items_of_lists_are_updated_and_deleted_in_place() {
    let (dir, _store) = store().await;
    let path = dir.path().join("list.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "a"}, "spec": {"cidr": "10.0.0.0/16"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"x": "y"}},
        {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "b"}, "spec": {"cidr": "10.1.0.0/16"}},
    ]});
    fs::write(&path, list.to_string()).unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    let mut object = store.get(Kind::IpPool, "b").await.unwrap().unwrap();
    object.value["spec"]["disabled"] = json!(true);
    store.update(object).await.unwrap();
    store.delete(Kind::IpPool, "a", None).await.unwrap();
    let after: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(after["items"].as_array().unwrap().len(), 2);
    assert_eq!(after["items"][0]["data"]["x"], "y");
    assert_eq!(after["items"][1]["spec"]["disabled"], true);
}

#[tokio::test]
async fn deleting_the_only_object_removes_the_file() {
    let (dir, _store) = store().await;
    let path = dir.path().join("mine.yaml");
    fs::write(
        &path,
        format!("# note\n---\n{}", pool_text("a", "10.0.0.0/16")),
    )
    .unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    store.delete(Kind::IpPool, "a", None).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn v1_objects_are_written_folded_and_read_unfolded() {
    let (dir, store) = store().await;
    let created = store
        .create(Object::new(
            Kind::IpPool,
            "a",
            json!({"apiVersion": "crd.projectcalico.org/v1", "metadata": {"labels": {"user": "x"}}, "spec": {}}),
        ))
        .await
        .unwrap();
    assert_eq!(created.value["metadata"]["labels"]["user"], "x");
    let text = fs::read_to_string(dir.path().join("ippools/a.yaml")).unwrap();
    assert!(text.contains("projectcalico.org/metadata"), "{text}");
    let again = store.update(created.clone()).await.unwrap();
    assert_eq!(again.uid, created.uid);
    assert_eq!(
        again.value["metadata"]["labels"],
        created.value["metadata"]["labels"]
    );
}

#[tokio::test]
async fn a_watch_tells_what_is_there_then_what_changes() {
    let (dir, store) = store().await;
    store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let other = Store::open_directory(dir.path()).await.unwrap();
    let (mut watch, seen) = started(&other).await;
    assert_eq!(seen, ["a 10.0.0.0/16"]);
    store.create(pool("b", "10.1.0.0/16")).await.unwrap();
    assert_eq!(until(&mut watch, "b 10.1.0.0/16").await.len(), 1);
    store.delete(Kind::IpPool, "a", None).await.unwrap();
    assert_eq!(until(&mut watch, "-a").await.len(), 1);
    fs::create_dir_all(dir.path().join("deep/er")).unwrap();
    fs::write(
        dir.path().join("deep/er/c.yaml"),
        pool_text("c", "10.2.0.0/16"),
    )
    .unwrap();
    assert_eq!(until(&mut watch, "c 10.2.0.0/16").await.len(), 1);
    fs::remove_dir_all(dir.path().join("deep")).unwrap();
    assert_eq!(until(&mut watch, "-c").await.len(), 1);
}

#[tokio::test]
async fn a_file_replaced_rapidly_ends_at_its_last_content() {
    let (dir, store) = store().await;
    fs::write(dir.path().join("a.yaml"), pool_text("a", "10.0.0.0/16")).unwrap();
    let (mut watch, _) = started(&store).await;
    for round in 0..200 {
        let temporary = dir.path().join("a.tmp");
        fs::write(&temporary, pool_text("a", &format!("10.{round}.0.0/16"))).unwrap();
        fs::rename(&temporary, dir.path().join("a.yaml")).unwrap();
    }
    let seen = until(&mut watch, "a 10.199.0.0/16").await;
    assert!(
        !seen.iter().any(|seen| seen.starts_with(['-', '!'])),
        "{seen:?}"
    );
    // Nothing stale may follow: the next event is about something else.
    fs::write(dir.path().join("z.yaml"), pool_text("z", "10.250.0.0/16")).unwrap();
    assert_eq!(until(&mut watch, "z 10.250.0.0/16").await.len(), 1);
}

#[tokio::test]
async fn an_editor_that_takes_the_file_away_for_a_moment_causes_no_deletion() {
    let (dir, store) = store().await;
    let path = dir.path().join("a.yaml");
    fs::write(&path, pool_text("a", "10.0.0.0/16")).unwrap();
    let (mut watch, _) = started(&store).await;
    if watch.try_next().is_some() {
        // The file may have been heard of only now.
    }
    for round in 1..=5 {
        // As vim does it: away with the old one, then a new one, in two writes.
        fs::rename(&path, dir.path().join("a.yaml~")).unwrap();
        fs::write(&path, "").unwrap();
        fs::write(&path, "apiVersion: projectcalico.org/v3\nkind: [").unwrap();
        fs::write(&path, pool_text("a", &format!("10.{round}.0.0/16"))).unwrap();
        let seen = until(&mut watch, &format!("a 10.{round}.0.0/16")).await;
        assert!(
            !seen.iter().any(|seen| seen.starts_with(['-', '!'])),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_stays_broken_is_told_once_and_mended_once() {
    let (dir, store) = store().await;
    let path = dir.path().join("f.yaml");
    fs::write(
        &path,
        format!(
            "{}---\n{}",
            pool_text("a", "10.0.0.0/16"),
            pool_text("b", "10.1.0.0/16")
        ),
    )
    .unwrap();
    let (mut watch, _) = started(&store).await;
    if store.list(Kind::IpPool).await.unwrap().is_empty() {
        until(&mut watch, "b 10.1.0.0/16").await;
    }
    fs::write(
        &path,
        format!("{}---\nkind: [\n", pool_text("a", "10.0.0.0/16")),
    )
    .unwrap();
    let mut seen = Vec::new();
    while !seen.iter().any(|seen: &String| seen.starts_with('-'))
        || !seen.iter().any(|seen: &String| seen.starts_with('!'))
    {
        seen.push(short(&next(&mut watch).await));
    }
    assert!(seen.contains(&"-b".to_owned()), "{seen:?}");
    assert!(!seen.contains(&"-a".to_owned()), "{seen:?}");
    assert!(
        seen.iter()
            .any(|seen| seen.starts_with("!f.yaml (document 2) - line ")),
        "{seen:?}"
    );
    fs::write(
        &path,
        format!(
            "{}---\n{}",
            pool_text("a", "10.0.0.0/16"),
            pool_text("b", "10.2.0.0/16")
        ),
    )
    .unwrap();
    let mut seen = vec![
        short(&next(&mut watch).await),
        short(&next(&mut watch).await),
    ];
    seen.sort();
    assert_eq!(seen, ["+f.yaml (document 2)", "b 10.2.0.0/16"]);
}

#[tokio::test]
async fn of_two_definitions_the_first_by_path_counts_and_the_other_is_told() {
    let (dir, _) = store().await;
    fs::write(dir.path().join("1.yaml"), pool_text("a", "10.1.0.0/16")).unwrap();
    fs::write(dir.path().join("2.yaml"), pool_text("a", "10.2.0.0/16")).unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    let (mut watch, seen) = started(&store).await;
    assert_eq!(seen[0], "a 10.1.0.0/16");
    assert!(
        seen[1].starts_with("!2.yaml: IPPool a metadata.name is already defined at "),
        "{seen:?}"
    );
    fs::remove_file(dir.path().join("1.yaml")).unwrap();
    let mut seen = vec![
        short(&next(&mut watch).await),
        short(&next(&mut watch).await),
    ];
    seen.sort();
    assert_eq!(seen, ["+2.yaml: IPPool a", "a 10.2.0.0/16"]);
}

#[tokio::test]
async fn a_swapped_config_map_is_followed() {
    let (dir, _) = store().await;
    let link = |target: &str| {
        let temporary = dir.path().join("..data_tmp");
        std::os::unix::fs::symlink(target, &temporary).unwrap();
        fs::rename(&temporary, dir.path().join("..data")).unwrap();
    };
    for (version, cidr) in [("..1", "10.1.0.0/16"), ("..2", "10.2.0.0/16")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(
            dir.path().join(version).join("a.yaml"),
            pool_text("a", cidr),
        )
        .unwrap();
    }
    link("..1");
    std::os::unix::fs::symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    let (mut watch, seen) = started(&store).await;
    assert_eq!(seen, ["a 10.1.0.0/16"]);
    link("..2");
    until(&mut watch, "a 10.2.0.0/16").await;
}

#[tokio::test]
async fn a_directory_that_goes_away_takes_no_object_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("store");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), pool_text("a", "10.0.0.0/16")).unwrap();
    let store = Store::open_directory(&inner).await.unwrap();
    let (mut watch, _) = started(&store).await;
    fs::rename(&inner, dir.path().join("away")).unwrap();
    let event = short(&next(&mut watch).await);
    assert!(event.contains("directory cannot be read"), "{event}");
}

#[tokio::test]
async fn left_temporary_files_are_swept_and_never_read() {
    let (dir, _) = store().await;
    fs::create_dir(dir.path().join("ippools")).unwrap();
    let left = dir.path().join("ippools/.margay-tmp-1-1");
    fs::write(&left, pool_text("a", "10.0.0.0/16")).unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    assert_eq!(store.list(Kind::IpPool).await.unwrap(), []);
    assert!(!left.exists());
}

#[tokio::test]
async fn names_that_could_leave_the_directory_are_refused() {
    let (_dir, store) = store().await;
    for name in ["", "a/../b", "a\\b", "a\nb", "x/y/z"] {
        assert!(
            matches!(
                store
                    .create(Object::new(Kind::Secret, name, json!({})))
                    .await,
                Err(StoreError::Unacceptable { .. })
            ),
            "{name:?}"
        );
    }
    // A dot is a name like any other: it is escaped.
    assert!(
        store
            .create(Object::new(Kind::Secret, "..", json!({})))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_missing_directory_is_made_and_a_file_in_its_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Store::open_directory(dir.path().join("a/b")).await.is_ok());
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(
        Store::open_directory(dir.path().join("file")).await,
        Err(StoreError::Unavailable { .. })
    ));
}

/// Five thousand objects as a cluster of a thousand nodes has them.
#[tokio::test]
async fn of_five_thousand_objects_a_change_reads_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = dir.path().join("ipamblocks");
    fs::create_dir(&blocks).unwrap();
    for number in 0..5000 {
        let object = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": {"name": format!("b{number}")},
            "spec": {
                "cidr": format!("10.{}.{}.0/26", number / 256, number % 256), "affinity": format!("host:n{number}"),
                "allocations": vec![serde_json::Value::Null; 64], "unallocated": (0..64).collect::<Vec<u32>>(),
                "attributes": [{"handle_id": "h", "secondary": {"node": "n", "pod": "p"}}], "strictAffinity": false,
            },
        });
        let path = blocks.join(format!("b{number}.yaml"));
        fs::write(&path, crate::datastore::emit::yaml(&object)).unwrap();
        // Old enough that its stamp alone proves it unchanged, however often this machine's pace has it looked at.
        let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(hour_ago))
            .unwrap();
    }
    let reads = || {
        let ours = |path: &mut PathBuf| path.starts_with(&blocks);
        READS
            .lock()
            .unwrap()
            .extract_if(.., ours)
            .collect::<Vec<_>>()
    };
    let store = Store::open_directory(dir.path()).await.unwrap();
    let (mut watch, seen) = started(&store).await;
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 5000);
    assert_eq!(reads().len(), 5000, "each once");
    let mut object = store.get(Kind::IpamBlock, "b77").await.unwrap().unwrap();
    object.value["spec"]["cidr"] = json!("10.99.0.0/26");
    store.update(object).await.unwrap();
    let event = next(&mut watch).await;
    assert_eq!(short(&event), "b77 10.99.0.0/26");
    let changed = reads();
    assert_eq!(
        changed.iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([&blocks.join("b77.yaml")]),
    );
}
