//! Passwords, TCP-AO and GTSM: what is to protect a session is there or the file is refused.

use margay_bgp::speaker::config::AoAlgorithm;

use super::*;

#[test]
fn tcp_ao_keys_are_read_and_exclude_a_password() {
    let ao =
        "tcpAo: { keys: [{ sendId: 1, receiveId: 2, algorithm: cmac-aes128, secret: hunter2 }] }";
    let found = peers(&format!("  - {{ address: 10.0.0.1, asn: 1, {ao} }}\n"));
    let [key] = found[0].tcp_ao.as_slice() else {
        panic!("one key")
    };
    assert_eq!(
        (key.send_id, key.receive_id, key.algorithm),
        (1, 2, AoAlgorithm::CmacAes128)
    );
    assert!(key.sign_options);
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: x, {ao} }}\n"
    ));
    assert!(
        text.contains("expected `password` (TCP-MD5) or `tcpAo`, found both"),
        "{text}"
    );
    let twice = ao.replace("}] }", "}, { sendId: 1, receiveId: 3, secret: x }] }");
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, {twice} }}\n"
    ));
    assert!(
        text.contains("two TCP-AO keys of peer 10.0.0.1 have the id 1"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

/// The kernel these tests run on is asked, whichever it is.
#[test]
fn keys_that_this_kernel_cannot_use_refuse_the_file_at_their_place() {
    let folder = std::env::temp_dir().join(format!("margay-tcp-ao-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("speaker.yaml");
    let text = format!(
        "{HEAD}listen: [0.0.0.0]\npeers:\n  - {{ address: 10.0.0.1, asn: 1, password: x }}\n  - address: 10.0.0.2\n    asn: 1\n    \
         tcpAo: {{ keys: [{{ sendId: 1, receiveId: 1, secret: hunter2 }}] }}\n  - {{ range: 10.1.0.0/16, asn: 1, \
         tcpAo: {{ keys: [{{ sendId: 1, receiveId: 1, secret: hunter2 }}] }} }}\n"
    );
    std::fs::write(&path, &text).expect("written");
    let (started, again) = (read(&path), read_again(&path, &KernelSection::default()));
    std::fs::remove_dir_all(&folder).expect("removed");
    let good = ok(&text);
    if good.speaker.peers.iter().all(|peer| try_keys(peer).is_ok()) {
        assert!(started.is_ok() && again.is_ok());
        return;
    }
    let said = |place: &str| {
        format!(
            "{}:{place}: this kernel has no TCP-AO (it needs Linux 6.7 with CONFIG_TCP_AO), and without it nothing is sent: \
             expected a kernel that can do that, or `password` (TCP-MD5) at both ends",
            path.display()
        )
    };
    let expected = [
        said("8:12: field `peers[1].tcpAo`"),
        said("9:42: field `peers[2].tcpAo`"),
    ];
    for error in [started.expect_err("refused"), again.expect_err("refused")] {
        assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_password_never_shows() {
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: \"{}\" }}\n",
        "hunter2".repeat(20)
    ));
    assert!(!text.contains("hunter2"), "{text}");
    let file = ok(&format!(
        "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: hunter2 }}\n"
    ));
    assert!(!format!("{file:?}").contains("hunter2"));
}

#[test]
fn protection_that_a_template_left_empty_is_a_mistake_and_no_open_session() {
    for (field, expected) in [
        ("password:", "a password of 1 to 80 octets"),
        ("passwordFile: ~", "path string"),
        ("tcpAo: null", "a mapping"),
        ("ttlSecurity:", "a number from 1 to 255"),
        (
            "import:",
            "accept, reject, the name of a policy or a mapping",
        ),
        ("maximumPrefixes:", "a number from 1 or a mapping"),
    ] {
        let text = mistake(&format!(
            "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: 1\n    {field}\n"
        ));
        let (name, _) = field.split_once(':').expect("a key");
        let said = format!(
            "field `peers[0].{name}`: expected {expected}, found nothing; without the field its default holds"
        );
        assert!(text.contains(&said), "{text}");
    }
    // Whoever means these letters says so.
    let quoted = peers("  - { address: 10.0.0.1, asn: 1, password: \"~\" }\n");
    assert!(quoted[0].password.is_some());
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: \"\" }}\n"
    ));
    assert!(
        text.contains("an empty password protects nothing: expected 1 to 80 octets"),
        "{text}"
    );
}

#[test]
fn a_password_is_taken_to_the_last_blank() {
    let found = peers("  - { address: 10.0.0.1, asn: 1, password: \" 12345 \" }\n");
    let secret = found[0].password.as_ref().expect("a password");
    assert_eq!(secret.expose(), b" 12345 ");
    let found = peers("  - { address: 10.0.0.1, asn: 1, password: 00123 }\n");
    let secret = found[0].password.as_ref().expect("a password");
    assert_eq!(secret.expose(), b"00123");
}

#[test]
fn a_mistake_in_one_of_several_keys_is_told_with_its_place_and_beside_others() {
    let text = mistake(&format!(
        "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: 1\n    holdTime: 1\n    tcpAo:\n      keys:\n      \
         - {{ sendId: 1, receiveId: 1, secret: x }}\n      - {{ sendId: 2, receiveId: 2, secret: \"\" }}\n    keepalive: 90\n"
    ));
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "speaker.yaml:6:15: field `peers[0].holdTime`: expected a hold time in whole seconds: 0, or 3 to 65535, found `1`",
            "speaker.yaml:10:44: field `peers[0].tcpAo.keys[1].secret`: an empty password protects nothing: expected 1 to 80 octets",
            "speaker.yaml:11:16: field `peers[0].keepalive`: expected a `keepalive` of less than the hold time, 90s, found 90s",
        ]
    );
}

#[test]
fn the_kernel_s_own_routes_are_never_taken_for_ours() {
    for protocol in [0, 2, 4, 9, 12, 16, 80] {
        let text = mistake(&format!(
            "{HEAD}kernel: {{ install: true, protocol: {protocol} }}\n"
        ));
        assert_eq!(
            text,
            format!(
                "speaker.yaml:3:36: field `kernel.protocol`: expected a number from 5 to 255 that nobody else marks routes with \
                 (not 9, 12, 16 or 80), found `{protocol}`"
            )
        );
    }
    let file = ok(&format!("{HEAD}kernel: {{ protocol: 110 }}\n"));
    assert_eq!(file.kernel.protocol.number(), 110);
}

#[test]
fn what_a_process_was_started_with_is_not_changed_under_it() {
    let path = Path::new("speaker.yaml");
    let again = |running: &str, text: &str| {
        let running = ok(&format!("{HEAD}{running}")).kernel;
        parse_for(path, &format!("{HEAD}{text}"), Some(&running), |_| Ok(()))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let install = "kernel: { install: true }\n";
    assert_eq!(
        again(install, "kernel: { install: true, protocol: 109 }\n"),
        Ok(())
    );
    assert_eq!(again("", ""), Ok(()));
    assert_eq!(
        again("", install),
        Err("speaker.yaml:3:20: field `kernel.install`: expected `install: false`, with which this process was started, found `true`: \
             a restart of it changes that"
            .into())
    );
    assert_eq!(
        again(install, ""),
        Err("speaker.yaml:1:1: expected `install: true`, with which this process was started, found `false`: a restart of it changes \
             that"
            .into())
    );
    let other = "kernel: { install: true, protocol: 110 }\n";
    assert_eq!(
        again(install, other),
        Err("speaker.yaml:3:36: field `kernel.protocol`: expected `protocol: 109`, with which this process was started, found `110`: \
             a restart of it changes that"
            .into())
    );
}
