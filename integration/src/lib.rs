//! Labs of network namespaces on one machine: racks, routers, nodes and pods, real daemons in all of them.
//!
//! ```text
//!  main ─► sandbox ─► demo / scenario ─► topology ─► netns, link      namespaces, veths, bridges
//!             │                              ├─────► router          BIRD and FRR: configure, start, ask
//!             │                              └─────► node ─► cni      `margay agent`; pods as a kubelet adds them
//!             └► vm (where this kernel has no ipip)      probes: ping, capture, eventually ─► report
//! ```
//!
//! A lab never touches the machine it runs on. [`sandbox`] puts the whole process into PID, mount and network
//! namespaces of its own before anything else happens, so labs may run side by side with equal names inside, and a lab
//! that is killed in any way takes its daemons, namespaces and devices with it: the kernel removes them, no clean-up
//! code has to run. What stays is a folder of logs under `target/labs`.
//!
//! Every wait is a condition with a deadline ([`eventually`]); deadlines stretch with [`pace`] where the lab runs in an
//! emulated machine. A test says topology, action, expectation, and nothing about how namespaces work.

pub mod bench;
pub mod capture;
pub mod cni;
pub mod demo;
pub mod eventually;
pub mod exec;
pub mod link;
pub mod netns;
pub mod node;
pub mod objects;
pub mod pace;
pub mod ping;
pub mod process;
pub mod report;
pub mod router;
pub mod sandbox;
pub mod scenario;
pub mod soak;
pub mod speaker;
pub mod suite;
pub mod topology;
pub mod view;
pub mod vm;
pub mod witness;
pub mod workdir;
