//! Files that are wrong, each with a kind of mistake or some, and everything that is said of them.

/// What stands behind the two lines of `HEAD`, and what is said of it.
pub(super) const TABLE: &[(&str, &[&str])] = &[
    (
        "policies:\n- { name: a, rules: [{ match: { prefixes: [{ prefix: 10.0.0.0/8, min: 4 }] }, then: accept }] }\n- { name: b, rules: [{ match: { family: ipv4-unicast } }] }\n",
        &[
            "4:44: field `policies[0].rules[0].match.prefixes[0]`: expected lengths from 8 to 32 for 10.0.0.0/8, found 4 to 32",
            "5:22: field `policies[1].rules[0]`: expected `then`, `set` or both: the rule does nothing",
        ],
    ),
    (
        "policies:\n- { name: a, rules: [] }\npeers:\n- { address: 10.0.0.1, asn: 1, import: b }\n",
        &[
            "6:40: field `peers[0].import`: expected accept, reject or one of the policies of the file (a), found `b`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, holdTime: 1 }\n",
        &[
            "4:42: field `peers[0].holdTime`: expected a hold time in whole seconds: 0, or 3 to 65535, found `1`",
        ],
    ),
    (
        "peers:\n- address: 10.0.0.1\n  asn: 1\n  holdtime: 9\n  import: { accept: [10.0.0.0/33] }\n",
        &[
            "6:3: field `peers[0].holdtime`: unknown field `holdtime`, expected `holdTime`",
            "7:22: field `peers[0].import.accept[0]`: expected a prefix (10.0.0.0/8 or fd00::/48), found `10.0.0.0/33`",
        ],
    ),
    (
        "peers:\n- { name: tor, address: 10.0.0.1, asn: 1 }\n- { name: tor, address: 10.0.0.2, asn: many }\n- { name: tor, address: 10.0.0.3, asn: 3 }\n",
        &[
            "5:40: field `peers[1].asn`: expected an AS number (64512 or 1.10) other than 0 and 23456, several with commas between, internal, external or any, found `many`",
            "6:11: field `peers[2].name`: expected a name of its own, found `tor` again",
        ],
    ),
    (
        "peers:\n- { name: a, address: 10.0.0.1, asn: 1 }\n- { name: b, address: 10.0.0.1, asn: 2 }\n",
        &[
            "5:23: field `peers[1].address`: peers a and b are both 10.0.0.1:179: expected another one, or a localAddress or device of its own for each",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, ttl: 1, ttlSecurity: 1 }\n",
        &[
            "4:37: field `peers[0].ttl`: expected no `ttl` beside `ttlSecurity`, which sends with 255",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, holdTime: 9, keepalive: 9 }\n",
        &[
            "4:56: field `peers[0].keepalive`: expected a `keepalive` of less than the hold time, 9s, found 9s",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, password: a, passwordFile: b }\n",
        &["4:59: field `peers[0].passwordFile`: expected `password` or `passwordFile`, found both"],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, gracefulRestart: { restartTime: 5000 } }\n",
        &[
            "4:64: field `peers[0].gracefulRestart.restartTime`: expected whole seconds up to 4095 (120, 2m), found `5000`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, gracefulRestart: false, longLived: { staleTime: 60 } }\n",
        &[
            "4:67: field `peers[0].longLived`: expected no `longLived` without `gracefulRestart`, which it continues",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1 }\n",
        &["4:3: field `peers[0].asn`: expected a field `asn`, found none"],
    ),
    (
        "listen: 10.0.0.1\nkernel: { install: maybe }\npeers: []\npeers: []\n",
        &["6:1: field `peers`: expected each field once, found `peers` again (first on line 5)"],
    ),
    (
        "listen: 10.0.0.1\nkernel: { install: maybe, protocol: 256 }\n",
        &[
            "3:9: field `listen`: expected a list, found `10.0.0.1`",
            "4:20: field `kernel.install`: expected true or false, found `maybe`",
            "4:37: field `kernel.protocol`: expected a number from 5 to 255 that nobody else marks routes with (not 9, 12, 16 or 80), found `256`",
        ],
    ),
    (
        "peers:\n  address: 10.0.0.1\n  asn: 1\n",
        &["4:3: field `peers`: expected a list, found a mapping"],
    ),
    (
        "clusterId: 0.0.0.0\n",
        &[
            "3:12: field `clusterId`: expected four octets that are not all zero (10.100.0.1), found `0.0.0.0`",
        ],
    ),
    (
        "listen: [here, { address: 10.0.0.1, device: [a] }, { device: eth0 }]\n",
        &[
            "3:10: field `listen[0]`: expected ADDRESS:PORT ([::]:179) or an address or a mapping, found `here`",
            "3:45: field `listen[1].device`: expected a string, found a list",
            "3:52: field `listen[2].address`: expected a field `address`, found none",
        ],
    ),
    (
        "listen: [10.0.0.1, \"10.0.0.1:179\", \"0.0.0.0:1790\", \"10.0.0.2:1790\"]\n",
        &[
            "3:20: field `listen[1]`: expected an address and port that nobody listens on, and 10.0.0.1:179 is listened on already",
            "3:52: field `listen[3]`: expected an address and port that nobody listens on, and 0.0.0.0:1790 is listened on already",
        ],
    ),
    (
        "families: []\npeers:\n- { address: 10.0.0.1, asn: 1, families: [ipv4-multicast] }\n- { address: 10.0.0.2, asn: 1, families: [] }\n",
        &[
            "3:11: field `families`: expected ipv4-unicast, ipv6-unicast or both, found none",
            "5:43: field `peers[0].families[0]`: expected ipv4-unicast or ipv6-unicast, found `ipv4-multicast`",
            "6:42: field `peers[1].families`: expected ipv4-unicast, ipv6-unicast or both, found none",
        ],
    ),
    (
        "families: [ipv4-unicast]\noriginate: [fd00::/64]\naggregates: [{ prefix: fd01::/32 }]\npeers:\n- { address: 10.0.0.1, asn: 1, families: [ipv6-unicast] }\n",
        &[
            "4:13: field `originate[0]`: expected a prefix of the families of the speaker, found fd00::/64, which is ipv6-unicast",
            "5:14: field `aggregates[0]`: expected a prefix of the families of the speaker, found fd01::/32, which is ipv6-unicast",
            "7:42: field `peers[0].families`: expected families of the speaker, found `ipv6-unicast`",
        ],
    ),
    (
        "originate: [10.0.0.0/8, { prefix: 10.0.0.0/8 }, { prefix: fd00::/64, nextHop: 10.0.0.1 }, 10.0.0.0]\naggregates: [10.0.0.0/8]\n",
        &[
            "3:25: field `originate[1]`: 10.0.0.0/8 is originated or aggregated already: expected each prefix once in both lists",
            "3:79: field `originate[2].nextHop`: expected an IPv6 next hop for fd00::/64, found `10.0.0.1`",
            "3:91: field `originate[3]`: expected a prefix (10.0.0.0/8 or fd00::/48) or a mapping, found `10.0.0.0`",
            "4:14: field `aggregates[0]`: 10.0.0.0/8 is originated or aggregated already: expected each prefix once in both lists",
        ],
    ),
    (
        "originate: [{ prefix: 10.0.0.0/8, nextHop: here, communities: [none], largeCommunities: [\"1:2\"], localPref: -1, med: many }]\n",
        &[
            "3:44: field `originate[0].nextHop`: expected an IP address, found `here`",
            "3:64: field `originate[0].communities[0]`: expected a community (64512:1), found `none`",
            "3:90: field `originate[0].largeCommunities[0]`: expected a large community (64512:1:2), found `1:2`",
            "3:109: field `originate[0].localPref`: expected a number from 0 to 4294967295, found `-1`",
            "3:118: field `originate[0].med`: expected a number from 0 to 4294967295, found `many`",
        ],
    ),
    (
        "aggregates: [{ prefix: 10.0.0.0/8, summaryOnly: perhaps }, {}]\n",
        &[
            "3:49: field `aggregates[0].summaryOnly`: expected true or false, found `perhaps`",
            "3:60: field `aggregates[1].prefix`: expected a field `prefix`, found none",
        ],
    ),
    (
        "kernel: { install: true, protocol: 2 }\n",
        &[
            "3:36: field `kernel.protocol`: expected a number from 5 to 255 that nobody else marks routes with (not 9, 12, 16 or 80), found `2`",
        ],
    ),
    (
        "maximumPaths: 0\nmultipathRelax: 1\nselectionDeferral: 10000000000000000000\nconnectGrace: 5 minutes\n",
        &[
            "3:15: field `maximumPaths`: expected a number from 1, found `0`",
            "4:17: field `multipathRelax`: expected true or false, found `1`",
            "5:20: field `selectionDeferral`: expected a duration up to a year (120, 120s, 2m, 500ms), found `10000000000000000000`",
            "6:15: field `connectGrace`: expected a duration up to a year (120, 120s, 2m, 500ms), found `5 minutes`",
        ],
    ),
    (
        "nextHopTracking: true\n",
        &[
            "3:18: field `nextHopTracking`: expected `false` without `kernel: { install: true }`: nobody would say which next hops are reached",
        ],
    ),
    (
        "monitoring: [{ address: 10.0.0.9, port: 0, statistics: 500ms }, { address: collector }]\n",
        &[
            "3:41: field `monitoring[0].port`: expected a port from 1 to 65535, found `0`",
            "3:56: field `monitoring[0].statistics`: expected a duration from 1 s to a year (60, 5m), or false, found `500ms`",
            "3:76: field `monitoring[1].address`: expected an IP address, found `collector`",
        ],
    ),
    (
        "monitoring: [{ address: 10.0.0.9, prePolicy: false, locRib: false }, { address: 10.0.0.8 }, { address: 10.0.0.8 }]\n",
        &[
            "3:61: field `monitoring[0].locRib`: expected `prePolicy`, `postPolicy`, `locRib` or `adjRibOut`: nothing else is told",
            "3:104: field `monitoring[2].address`: expected a collector of its own, found 10.0.0.8:11019 again",
        ],
    ),
    (
        "policies: [{ name: accept, rules: [] }, { name: p, rules: [] }, { name: p, rules: [] }, { name: q }]\n",
        &[
            "3:20: field `policies[0].name`: expected a name other than accept and reject, found `accept`",
            "3:73: field `policies[2].name`: expected a name of its own, found `p` again",
            "3:89: field `policies[3].rules`: expected a field `rules`, found none",
        ],
    ),
    (
        "policies: [{ name: p, default: maybe, rules: [{ match: { source: [afar], family: ipv5, asPathPrefix: [-1], prefixes: [{ prefix: 10.0.0.0/8, exact: true, min: 9 }] }, then: reject, set: { prependAs: [23456] } }] }]\n",
        &[
            "3:32: field `policies[0].default`: expected accept or reject, found `maybe`",
            "3:67: field `policies[0].rules[0].match.source[0]`: expected local, external, internal or client, found `afar`",
            "3:82: field `policies[0].rules[0].match.family`: expected ipv4-unicast or ipv6-unicast, found `ipv5`",
            "3:103: field `policies[0].rules[0].match.asPathPrefix[0]`: expected an AS number (64512 or 1.10), found `-1`",
            "3:119: field `policies[0].rules[0].match.prefixes[0]`: expected 10.0.0.0/8 with `exact` or lengths, found both",
            "3:200: field `policies[0].rules[0].set.prependAs[0]`: expected an AS number (64512 or 1.10) other than 0 and 23456, found `23456`",
        ],
    ),
    (
        "policies: [{ name: p, rules: [{ set: { nextHop: 224.0.0.9 } }, { set: { nextHop: \"::ffff:10.0.0.9\" } }, { set: { nextHop: 127.0.0.9 } }] }]\n",
        &[
            "3:49: field `policies[0].rules[0].set.nextHop`: expected an IP address of one host: no multicast, unspecified or IPv4-mapped one, found `224.0.0.9`",
            "3:82: field `policies[0].rules[1].set.nextHop`: expected an IP address of one host: no multicast, unspecified or IPv4-mapped one, found `::ffff:10.0.0.9`",
        ],
    ),
    (
        "policies:\n- { name: p, rules: [{ match: { family: ipv6-unicast }, set: { nextHop: 10.0.0.9 } }] }\n",
        &[
            "4:73: field `policies[0].rules[0].set.nextHop`: expected an IPv6 next hop for IPv6 routes, found `10.0.0.9`",
        ],
    ),
    (
        "policies:\n- { name: p, rules: [{ match: { prefixes: [fd00::/8, { prefix: fc00::/8, min: 16 }] }, set: { nextHop: 10.0.0.9 } }, { match: { prefixes: [fd00::/8, 10.0.0.0/8] }, set: { nextHop: 10.0.0.9 } }] }\n",
        &[
            "4:104: field `policies[0].rules[0].set.nextHop`: expected an IPv6 next hop for IPv6 routes, found `10.0.0.9`",
        ],
    ),
    (
        "policies: [{ name: p, rules: [{ then: reject, set: { med: 1 } }, { match: { peer: tor }, then: accept }] }]\n",
        &[
            "3:52: field `policies[0].rules[0].set`: expected nothing to set where the route is rejected",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, import: { accept: [10.0.0.0/8], reject: [] }, export: { policies: [p, q] } }\n",
        &[
            "4:40: field `peers[0].import`: expected `accept`, `reject`, the name of a policy, one list under `accept` or `reject`, or `policies` with names and perhaps a `default`",
            "4:86: field `peers[0].export`: expected accept, reject or one of the policies of the file (it has none), found `p`",
        ],
    ),
    (
        "peers:\n- { name: a, asn: 1 }\n- { name: b, asn: 1, address: 10.0.0.2, range: 10.0.0.0/24 }\n- { name: c, asn: 1, range: 10.0.0.0/24, port: 179 }\n- { name: d, asn: 1, range: 10.0.0.0/24, interface: eth0 }\n- { name: e, asn: 1, address: 10.0.0.5, port: 0 }\n",
        &[
            "4:3: field `peers[0]`: expected `address`, `range` or `interface`, found none of them",
            "5:48: field `peers[1].range`: expected `address` or `range`, found both",
            "6:48: field `peers[2].port`: expected no port beside `range`: a range is never dialled",
            "7:29: field `peers[3].range`: peers c and d are both 10.0.0.0/24: expected another one, or a localAddress or device of its own for each",
            "7:53: field `peers[3].interface`: expected no interface beside `range`; `device` binds to one",
            "8:47: field `peers[4].port`: expected a port from 1 to 65535, found `0`",
        ],
    ),
    (
        "peers:\n- { asn: 1, address: fe80::1 }\n- { asn: 1, address: fe80::1%eth0, interface: eth1 }\n- { asn: 1, address: fd00::1, interface: eth1 }\n- { asn: 1, address: fe80::1% }\n",
        &[
            "4:3: field `peers[0]`: expected the interface of the link-local address fe80::1",
            "5:47: field `peers[1].interface`: expected the interface of the address, `eth0`, found `eth1`",
            "6:42: field `peers[2].interface`: expected only beside a link-local address, or without `address`",
            "7:22: field `peers[3].address`: expected an IP address (10.0.0.1, fd00::1 or fe80::1%eth0), found `fe80::1%`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 0 }\n- { address: 10.0.0.2, asn: \"1, 23456\" }\n- { address: 10.0.0.3, asn: 1, localAsn: 0 }\n- { address: 10.0.0.4, asn: 1, localAddress: fd00::1 }\n- { interface: eth0, asn: 1, localAddress: fd00::1 }\n",
        &[
            "4:29: field `peers[0].asn`: expected an AS number (64512 or 1.10) other than 0 and 23456, several with commas between, internal, external or any, found `0`",
            "5:29: field `peers[1].asn`: expected an AS number (64512 or 1.10) other than 0 and 23456, several with commas between, internal, external or any, found `1, 23456`",
            "6:42: field `peers[2].localAsn`: expected an AS number (64512 or 1.10) other than 0 and 23456, found `0`",
            "7:46: field `peers[3].localAddress`: expected an address of the family of 10.0.0.4, found `fd00::1`",
            "8:44: field `peers[4].localAddress`: expected a link-local address beside an unnumbered peer, found `fd00::1`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, dynamicLimit: 5 }\n- { address: 10.0.0.2, asn: 1, halfOpenLimit: 5 }\n- { range: 10.1.0.0/16, asn: 1, dynamicLimit: 0, halfOpenLimit: all }\n",
        &[
            "4:46: field `peers[0].dynamicLimit`: expected `dynamicLimit` only beside `range`: one neighbour is one",
            "5:47: field `peers[1].halfOpenLimit`: expected `halfOpenLimit` only beside `range`: one neighbour is one",
            "6:47: field `peers[2].dynamicLimit`: expected a number from 1, found `0`",
            "6:65: field `peers[2].halfOpenLimit`: expected a number from 1, found `all`",
        ],
    ),
    (
        "peers:\n- { range: 10.1.0.0/16, asn: 1 }\n- { range: 10.1.0.0/16, asn: 2 }\n",
        &[
            "5:3: field `peers[1]`: expected a `name`: without, it is `10.1.0.0/16` as another one is",
        ],
    ),
    (
        "peers:\n- { range: 10.1.0.0/16, asn: 1 }\n",
        &[
            "4:12: field `peers[0].range`: expected `listen` to have an address of its family, where it can call: it is never dialled",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, holdTime: 500ms, minimumHoldTime: 2, keepalive: 500ms, connectRetry: 0, connectRetryMax: soon, delayOpen: -1, idleHold: 50ms, idleHoldMax: 9000h, sendHold: 1d }\n",
        &[
            "4:42: field `peers[0].holdTime`: expected a hold time in whole seconds: 0, or 3 to 65535, found `500ms`",
            "4:66: field `peers[0].minimumHoldTime`: expected a hold time in whole seconds: 0, or 3 to 65535, found `2`",
            "4:80: field `peers[0].keepalive`: expected a duration from 1 s to a year (60, 5m), found `500ms`",
            "4:101: field `peers[0].connectRetry`: expected a duration from 100 ms to a day (5, 500ms, 1m), found `0`",
            "4:121: field `peers[0].connectRetryMax`: expected a duration from 100 ms to a day (5, 500ms, 1m), found `soon`",
            "4:138: field `peers[0].delayOpen`: expected a duration up to a year (120, 120s, 2m, 500ms), found `-1`",
            "4:152: field `peers[0].idleHold`: expected a duration from 100 ms to a day (5, 500ms, 1m), found `50ms`",
            "4:171: field `peers[0].idleHoldMax`: expected a duration from 100 ms to a day (5, 500ms, 1m), found `9000h`",
            "4:188: field `peers[0].sendHold`: expected a duration up to a year (120, 120s, 2m, 500ms), found `1d`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, holdTime: 9, minimumHoldTime: 10 }\n- { address: 10.0.0.2, asn: 1, idleHold: 90 }\n- { address: 10.0.0.3, asn: 1, idleHoldMax: 500ms }\n- { address: 10.0.0.4, asn: 1, connectRetry: 60 }\n",
        &[
            "4:62: field `peers[0].minimumHoldTime`: expected a `minimumHoldTime` of at most the hold time, 9s, found 10s",
            "5:42: field `peers[1].idleHold`: expected an `idleHold` of at most `idleHoldMax`, 60s, found 90s",
            "6:45: field `peers[2].idleHoldMax`: expected an `idleHold` of at most `idleHoldMax`, 500ms, found 1s",
            "7:46: field `peers[3].connectRetry`: expected a `connectRetry` of at most `connectRetryMax`, 15s, found 60s",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, gracefulRestart: { restartTime: 500ms, staleTime: 1w }, longLived: { staleTime: 16777216 } }\n- { address: 10.0.0.2, asn: 1, longLived: {} }\n",
        &[
            "4:64: field `peers[0].gracefulRestart.restartTime`: expected whole seconds up to 4095 (120, 2m), found `500ms`",
            "4:82: field `peers[0].gracefulRestart.staleTime`: expected a duration up to a year (120, 120s, 2m, 500ms), found `1w`",
            "4:112: field `peers[0].longLived.staleTime`: expected whole seconds up to 16777215 (86400, 24h), found `16777216`",
            "5:43: field `peers[1].longLived.staleTime`: expected a field `staleTime`, found none",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, ttl: 0, ttlSecurity: 0 }\n- { address: 10.0.0.2, asn: 1, ttl: 256, ttlSecurity: near }\n",
        &[
            "4:37: field `peers[0].ttl`: expected a number from 1 to 255, found `0`",
            "4:53: field `peers[0].ttlSecurity`: expected a number from 1 to 255, found `0`",
            "5:37: field `peers[1].ttl`: expected a number from 1 to 255, found `256`",
            "5:55: field `peers[1].ttlSecurity`: expected a number from 1 to 255, found `near`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, passwordFile: /nonexistent }\n- { address: 10.0.0.2, asn: 1, password: [a] }\n- { address: 10.0.0.3, asn: 1, tcpAo: { keys: [] } }\n",
        &[
            "4:46: field `peers[0].passwordFile`: cannot read /nonexistent: No such file or directory (os error 2): expected a file with the password in it",
            "5:42: field `peers[1].password`: expected a password of 1 to 80 octets, found a list",
            "6:47: field `peers[2].tcpAo.keys`: expected at least one key, found none",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, tcpAo: { keys: [{ sendId: 256, receiveId: 1, secret: x, algorithm: md5 }] } }\n- { address: 10.0.0.2, asn: 1, tcpAo: { keys: [{ sendId: 1, receiveId: 1, secret: x }, { sendId: 1, receiveId: 2, secret: x }] } }\n- { address: 10.0.0.3, asn: 1, password: x, tcpAo: { keys: [{ sendId: 1, receiveId: 1, secret: x }] } }\n",
        &[
            "4:58: field `peers[0].tcpAo.keys[0].sendId`: expected a number from 0 to 255, found `256`",
            "4:99: field `peers[0].tcpAo.keys[0].algorithm`: expected hmac-sha1, cmac-aes128 or hmac-sha256, found `md5`",
            "5:47: field `peers[1].tcpAo.keys`: two TCP-AO keys of peer 10.0.0.2 have the id 1: expected a sendId and a receiveId of its own for each",
            "6:52: field `peers[2].tcpAo`: expected `password` (TCP-MD5) or `tcpAo`, found both",
        ],
    ),
    (
        "listen: [0.0.0.0]\npeers:\n- { name: a, range: 10.0.0.0/8, asn: any, password: x }\n- { name: b, address: 10.0.0.1, asn: 1 }\n",
        &[
            "6:23: field `peers[1].address`: peer b has no key, and 0.0.0.0:179 takes only signed calls from 10.0.0.0/8, which is peer a: expected a password or tcpAo, or a localAddress where that range is not heard",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, nextHop: here, connectedSubnets: [10.0.0.0/33], nextHopAddress: there, allowedLocalAs: 256, addPathSend: best, maximumPrefixes: 0 }\n- { address: 10.0.0.2, asn: 1, nextHopAddress: 10.0.0.9 }\n- { address: 10.0.0.3, asn: 1, maximumPrefixes: { limit: 1, warningOnly: true, restart: 1 } }\n- { address: 10.0.0.4, asn: 1, maximumPrefixes: { limit: 1, restart: 0 } }\n",
        &[
            "4:41: field `peers[0].nextHop`: expected auto, self, forceSelf or keep, found `here`",
            "4:66: field `peers[0].connectedSubnets[0]`: expected a prefix (10.0.0.0/8 or fd00::/48), found `10.0.0.0/33`",
            "4:96: field `peers[0].nextHopAddress`: expected an IP address, found `there`",
            "4:119: field `peers[0].allowedLocalAs`: expected a number from 0 to 255, found `256`",
            "4:137: field `peers[0].addPathSend`: expected all, best N (best 4; 1 to 255), or false or a mapping, found `best`",
            "4:160: field `peers[0].maximumPrefixes`: expected a number from 1 or a mapping, found `0`",
            "5:48: field `peers[1].nextHopAddress`: expected an address of the family that the session is not over, found `10.0.0.9`",
            "6:49: field `peers[2].maximumPrefixes`: expected at most one of `warningOnly`, `discard` and `restart`",
            "7:70: field `peers[3].maximumPrefixes.restart`: expected a duration from 1 s to a year (60, 5m), found `0`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, routeReflectorClient: true }\n- { address: 10.0.0.2, asn: internal, asOverride: true, removePrivateAs: all, role: peer }\n- { address: 10.0.0.3, asn: 1, localAsn: 1, role: peer }\n- { address: 10.0.0.4, asn: 1, role: friend, removePrivateAs: some, localAsMode: both }\n",
        &[
            "4:54: field `peers[0].routeReflectorClient`: expected `routeReflectorClient` only for a peer of our own AS, and AS 64512 is ours here",
            "5:51: field `peers[1].asOverride`: expected `asOverride` only for a peer of another AS, and AS 64512 is ours here",
            "5:74: field `peers[1].removePrivateAs`: expected `removePrivateAs` only for a peer of another AS, and AS 64512 is ours here",
            "5:85: field `peers[1].role`: expected `role` only for a peer of another AS, and AS 64512 is ours here",
            "6:51: field `peers[2].role`: expected `role` only for a peer of another AS, and AS 1 is ours here",
            "7:38: field `peers[3].role`: expected provider, customer, peer, routeServer or routeServerClient, found `friend`",
            "7:63: field `peers[3].removePrivateAs`: expected ifAllPrivate, all or replace, found `some`",
            "7:82: field `peers[3].localAsMode`: expected session, prepend, noPrepend, replaceAs or dualAs, found `both`",
        ],
    ),
    (
        "listen: [0.0.0.0]\npeers:\n- { address: 10.0.0.1, asn: 1, strictRole: true }\n- { address: 10.0.0.2, asn: 1, localAsMode: prepend }\n- { range: 10.1.0.0/16, asn: 1, localAsn: 2, localAsMode: dualAs }\n",
        &[
            "5:44: field `peers[0].strictRole`: expected `role` beside it: what we are to the peer",
            "6:45: field `peers[1].localAsMode`: expected `localAsn` beside it: the AS it is about",
            "7:59: field `peers[2].localAsMode`: expected another mode for a range: dualAs needs one neighbour",
        ],
    ),
    (
        "listen: [0.0.0.0]\npeers:\n- { address: 10.0.0.1, asn: 1, bfd: { minTx: 1, minRx: 2m, multiplier: 0, multihop: 0 } }\n- { address: 10.0.0.2, asn: 1, bfd: minTx=1 }\n- { range: 10.1.0.0/16, asn: 1, bfd: { strict: true } }\n- { address: 10.0.0.4, asn: 1, bfd: true, device: red }\n- { address: 10.0.0.5, asn: 1, bfd: sometimes }\n",
        &[
            "5:46: field `peers[0].bfd.minTx`: expected minTx from 10 ms to 60 s, found 1ms",
            "5:56: field `peers[0].bfd.minRx`: expected minRx from 10 ms to 60 s, found 120s",
            "5:72: field `peers[0].bfd.multiplier`: expected multiplier from 1 to 255, found 0",
            "5:85: field `peers[0].bfd.multihop`: expected multihop to be the number of hops to the peer, from 1, or true for any number, found 0",
            "6:37: field `peers[1].bfd`: expected minTx from 10 ms to 60 s, found 1ms",
            "7:48: field `peers[2].bfd.strict`: expected strict only beside an address: who may call from a range is not known before",
            "8:37: field `peers[3].bfd`: bfd of peer 10.0.0.4: expected no bfd beside netns or device: it watches only paths of the agent's own namespace without a device",
            "9:37: field `peers[4].bfd`: expected true, false, or settings such as minTx=100,minRx=100,multiplier=3,multihop=2,strict=true or a mapping, found `sometimes`",
        ],
    ),
    (
        "peers:\n- { name: a, address: 10.0.0.1, asn: 1, bfd: true }\n- { name: b, address: 10.0.0.1, port: 1790, asn: 1, bfd: { multiplier: 5 } }\n",
        &[
            "5:58: field `peers[1].bfd`: bfd of peer b: peer a watches the same path, on which there is room for one session: expected bfd at one of the two, or a localAddress of its own for each",
        ],
    ),
];
