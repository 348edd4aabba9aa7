//! What is right by itself and not beside the rest of the file.

use super::*;

fn said(text: &str) -> Vec<String> {
    match parse(Path::new("speaker.yaml"), &format!("{HEAD}{text}")) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn a_peer_that_is_only_waited_for_needs_somewhere_to_call() {
    let range = "peers:\n- { range: 10.0.0.0/24, asn: any }\n";
    assert_eq!(
        said(range),
        [
            "speaker.yaml:4:12: field `peers[0].range`: expected `listen` to have an address of its family, where it can call: it is \
             never dialled"
        ]
    );
    assert_eq!(said(&format!("listen: [0.0.0.0]\n{range}")), [""; 0]);
    assert_eq!(said(&format!("listen: [\"::\"]\n{range}")).len(), 1);
    let bound = "peers:\n- { address: 10.0.0.1, asn: 1, passive: true, device: red, localAddress: 10.0.0.9 }\n";
    assert_eq!(
        said(&format!("listen: [0.0.0.0]\n{bound}")),
        [
            "speaker.yaml:5:41: field `peers[0].passive`: expected `listen` to have 10.0.0.9 or an unspecified address on red, where it \
             can call: it is never dialled"
        ]
    );
    let listen = "listen: [{ address: 10.0.0.9, device: red }]\n";
    assert_eq!(said(&format!("{listen}{bound}")), [""; 0]);
    // A listener that is wrong itself is not also said to be wanting.
    assert_eq!(said(&format!("listen: [10.0.0]\n{range}")).len(), 1);
}

#[test]
fn a_rule_about_a_peer_names_one_of_the_file() {
    let policy = |name: &str| {
        format!(
            "listen: [0.0.0.0]\npolicies:\n- {{ name: p, rules: [{{ then: accept, match: {{ not: {{ peer: {name} }} }} }}] }}\n\
             peers:\n- {{ name: tor, address: 10.0.0.1, asn: 1 }}\n- {{ name: pods, range: 10.1.0.0/16, asn: 2 }}\n"
        )
    };
    for name in ["tor", "pods", "pods-10.1.0.7"] {
        assert_eq!(said(&policy(name)), [""; 0]);
    }
    for name in ["spine", "tor-10.0.0.1", "podsy"] {
        let [line] = &said(&policy(name))[..] else {
            panic!("{name}")
        };
        let wanted = format!(
            "field `policies[0].rules[0].match.not.peer`: expected the name of a peer of the file, found `{name}`"
        );
        assert!(line.ends_with(&wanted), "{line}");
    }
}

#[test]
fn a_rule_about_a_peer_with_a_mistake_of_its_own_is_not_complained_about() {
    let lines = said(
        "policies:\n- { name: p, rules: [{ then: accept, match: { peer: tor } }] }\npeers:\n- { name: tor, asn: 1 }\n",
    );
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(line.contains("peers[0]"), "{line}");
}

#[test]
fn peers_whose_keys_clash_are_both_named_with_what_would_be_right() {
    let peers = "peers:\n- { name: one, address: 10.0.0.1, asn: 1, password: a, localAddress: 10.9.0.1 }\n\
                 - { name: two, address: 10.0.0.1, asn: 1, localAddress: 10.9.0.2 }\n";
    assert_eq!(
        said(&format!("listen: [0.0.0.0]\n{peers}")),
        [
            "speaker.yaml:6:25: field `peers[1].address`: peer two calls 0.0.0.0:179 from the same address as peer one, and the kernel \
             takes one key for both: expected the same password or tcpAo for both, or for each a localAddress of its own that is \
             listened on"
        ]
    );
    assert_eq!(
        said(&format!("listen: [10.9.0.1, 10.9.0.2]\n{peers}")),
        [""; 0]
    );
}
