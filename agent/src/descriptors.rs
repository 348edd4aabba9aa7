//! How many descriptors this process may have.
//!
//! Each connection of a peer takes one, and each caller. A process that has none left accepts, dials and watches nobody, so it
//! takes all it is allowed to, bounds what others may take, and says where that is less than its peers may need.

use margay_bgp::speaker::config::SpeakerConfig;
use margay_bgp::transport;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What everything but the speaker takes at most: the kernel's sockets, those of the command line, the plugin and the metrics.
const OTHERS: u64 = 512;

/// Allows this process as many as it may be allowed: what a process is started with is mostly 1024.
pub(crate) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the number of descriptors");
    }
}

/// Why there may not be enough for the peers of this configuration, if so.
pub(crate) fn shortage(config: &SpeakerConfig) -> Option<String> {
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    short(allowed, config)
}

fn short(allowed: u64, config: &SpeakerConfig) -> Option<String> {
    let needed = transport::descriptors(config).saturating_add(OTHERS);
    (needed > allowed).then(|| {
        format!(
            "the peers that are configured may need {needed} descriptors and this process may have {allowed}: callers beyond are \
             not accepted; raise its hard limit (LimitNOFILE), or lower dynamicLimit"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::speaker;

    #[test]
    fn a_range_that_may_have_more_neighbours_than_there_are_descriptors_is_told_with_both_numbers()
    {
        let text = "asn: 1\nrouterId: 10.0.0.1\nlisten: [\"10.0.0.1:179\"]\npeers:\n- { name: a, address: 10.0.0.2, asn: 2 }\n- { name: b, range: 10.1.0.0/16, asn: 3, passive: true, dynamicLimit: 4000 }\n";
        let file = speaker::parse(Path::new("speaker.yaml"), text).expect("a good file");
        let needed = transport::descriptors(&file.speaker) + OTHERS;
        assert!((4_500..5_500).contains(&needed), "{needed}");
        assert_eq!(short(needed, &file.speaker), None);
        let told = short(4_096, &file.speaker).expect("too few");
        assert!(
            told.contains(&needed.to_string()) && told.contains("4096"),
            "{told}"
        );
    }
}
