//! Liveness of paths.

use super::*;

fn of(text: &str) -> Option<Bfd> {
    let file = ok(&format!(
        "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, bfd: {text} }}\n"
    ));
    file.speaker.peers.first().expect("one peer").bfd
}

#[test]
fn bfd_is_a_switch_a_mapping_or_one_text() {
    assert_eq!(of("true"), Some(Bfd::default()));
    assert_eq!(of("false"), None);
    let fast = Bfd {
        min_tx: Duration::from_millis(100),
        ..Bfd::default()
    };
    assert_eq!(of("{ minTx: 100 }"), Some(fast));
    assert_eq!(of("\"minTx=100\""), Some(fast));
}

#[test]
fn several_hops_are_a_number_or_any() {
    let hops = |text: &str| of(text).expect("bfd").multihop;
    assert_eq!(hops("{ multihop: 3 }"), Some(3));
    assert_eq!(hops("{ multihop: true }"), Some(Bfd::ANY_HOPS));
    assert_eq!(hops("{ multihop: false }"), None);
    assert_eq!(hops("\"multihop=true\""), Some(Bfd::ANY_HOPS));
}

#[test]
fn a_mistake_in_bfd_says_what_would_be_right() {
    let peer = |bfd: &str| {
        mistake(&format!(
            "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: 1\n    bfd: {bfd}\n"
        ))
    };
    let text = peer("{ minTx: 5 }");
    assert!(
        text.contains("field `peers[0].bfd.minTx`: expected minTx from 10 ms to 60 s, found 5ms"),
        "{text}"
    );
    let text = peer("{ multiplier: 0 }");
    assert!(
        text.contains("expected multiplier from 1 to 255, found 0"),
        "{text}"
    );
    assert!(text.contains("field `peers[0].bfd.multiplier`"), "{text}");
    let text = peer("minTx=5");
    assert!(
        text.contains("field `peers[0].bfd`: expected minTx"),
        "{text}"
    );
    let text = peer("sometimes");
    assert!(
        text.contains("minTx=100,minRx=100,multiplier=3") && text.contains("`sometimes`"),
        "{text}"
    );
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ name: x, range: 10.0.0.0/8, asn: 1, bfd: {{ strict: true }} }}\n"
    ));
    assert!(
        text.contains("expected strict only beside an address"),
        "{text}"
    );
}
