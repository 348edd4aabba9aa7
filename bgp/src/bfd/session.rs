//! One session: states, timers and poll sequences (RFC 5880 §6.2 to §6.8).

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::SessionConfig;
use super::packet::{ControlPacket, Diagnostic, State};

/// The shortest interval between packets while the session is not Up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// How long a session that is not Up goes by what it heard last, at most.
///
/// Until then nothing shows that it came from the other end and not from somebody on the link who named a discriminator nobody
/// has and a detection time of hours. Two ends told so would answer to that discriminator, and discard each other's packets
/// all that time. Forgetting too early costs an honest neighbour nothing: Down with no discriminator is taken by address.
const UNSETTLED: Duration = Duration::from_secs(5);

/// First packets of sessions that begin together are spread over this.
const FIRST_PACKET: Duration = Duration::from_millis(100);

/// How a session stands, for people and for whoever trusts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Our state.
    pub state: State,
    /// Why it changed last.
    pub diagnostic: Diagnostic,
    /// The other end's state, as last heard.
    pub remote_state: State,
    /// Why that changed last.
    pub remote_diagnostic: Diagnostic,
    /// Our session.
    pub local_discriminator: u32,
    /// Its session; 0 while it is not heard.
    pub remote_discriminator: u32,
    /// Its BFD outlives its control plane (the C bit).
    pub remote_control_plane_independent: bool,
    /// How often we send, before jitter.
    pub transmit_interval: Duration,
    /// After how long without a packet it counts as gone.
    pub detection_time: Duration,
    /// How often our state changed.
    pub transitions: u64,
}

/// The path that was up is up no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What showed it.
    pub diagnostic: Diagnostic,
    /// The other end's BFD outlives its control plane, so it is the path that failed, and not only the neighbour that
    /// restarts (RFC 5882 §4.3).
    pub remote_control_plane_independent: bool,
}

/// News of a session. Several that were not fetched become one, in which no loss is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it stands now.
    pub status: Status,
    /// It was lost since the report before, not by an operator's will on either side; it may be up again.
    pub loss: Option<Loss>,
}

impl Report {
    /// Joins an earlier report that nobody fetched into this one.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        // The later loss tells more; that there was one must not be lost.
        self.loss = self.loss.or(earlier.loss);
        self
    }
}

/// What the other end said last.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    control_plane_independent: bool,
    demand: bool,
    multiplier: u8,
    min_tx: Duration,
    min_rx: Duration,
}

impl Remote {
    /// Nobody was heard (RFC 5880 §6.8.1).
    const UNHEARD: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        control_plane_independent: false,
        demand: false,
        multiplier: 0,
        min_tx: Duration::ZERO,
        min_rx: Duration::from_micros(1),
    };
}

/// A poll sequence (RFC 5880 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// Packets carry P until F comes.
    Running,
    /// The intervals changed meanwhile: what is answered may be the old ones, so it is asked once more.
    Again,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    config: SessionConfig,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// What we say, and what we go by: the two differ while a poll sequence is to settle a change for the worse.
    desired_min_tx: Duration,
    active_min_tx: Duration,
    required_min_rx: Duration,
    active_min_rx: Duration,
    last_sent: Instant,
    /// The share of the interval after which the next packet goes, drawn with each packet.
    jitter: f64,
    next_send: Option<Instant>,
    detection: Option<Instant>,
    transitions: u64,
    loss: Option<Loss>,
    reported: Option<Status>,
}

impl Session {
    pub(super) fn new(
        config: SessionConfig,
        discriminator: u32,
        now: Instant,
        random: &mut SmallRng,
    ) -> Self {
        let min_tx = config.min_tx.max(SLOW);
        Self {
            config,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: Remote::UNHEARD,
            poll: Poll::Idle,
            desired_min_tx: min_tx,
            active_min_tx: min_tx,
            required_min_rx: config.min_rx,
            active_min_rx: config.min_rx,
            last_sent: now,
            jitter: 1.0,
            next_send: Some(now + FIRST_PACKET.mul_f64(random.random_range(0.0..1.0))),
            detection: None,
            transitions: 0,
            loss: None,
            reported: None,
        }
    }

    pub(super) const fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// How long the other end takes at most to notice that we are silent, as far as it depends on us.
    pub(super) fn patience_of_peer(&self) -> Duration {
        self.interval().max(SLOW) * u32::from(self.config.multiplier)
    }

    pub(super) fn status(&self) -> Status {
        Status {
            state: self.state,
            diagnostic: self.diagnostic,
            remote_state: self.remote.state,
            remote_diagnostic: self.remote.diagnostic,
            local_discriminator: self.discriminator,
            remote_discriminator: self.remote.discriminator,
            remote_control_plane_independent: self.remote.control_plane_independent,
            transmit_interval: self.interval(),
            detection_time: self.detection_time(),
            transitions: self.transitions,
        }
    }

    /// What changed since the last report, if anything did.
    pub(super) fn report(&mut self) -> Option<Report> {
        let status = self.status();
        let loss = self.loss.take();
        if loss.is_none() && self.reported == Some(status) {
            return None;
        }
        self.reported = Some(status);
        Some(Report { status, loss })
    }

    // ---- intervals ------------------------------------------------------------------------------------------------

    fn interval(&self) -> Duration {
        self.active_min_tx.max(self.remote.min_rx)
    }

    fn detection_time(&self) -> Duration {
        self.active_min_rx.max(self.remote.min_tx) * u32::from(self.remote.multiplier)
    }

    /// How long what was heard last holds.
    fn trust(&self) -> Duration {
        if self.state == State::Up {
            self.detection_time()
        } else {
            self.detection_time().min(UNSETTLED)
        }
    }

    /// Whether the other end wants packets without being asked something (RFC 5880 §6.8.7).
    fn sends_periodically(&self) -> bool {
        let demanded = self.remote.demand
            && self.state == State::Up
            && self.remote.state == State::Up
            && self.poll == Poll::Idle;
        !self.remote.min_rx.is_zero() && !demanded
    }

    fn schedule(&mut self) {
        self.next_send = self
            .sends_periodically()
            .then(|| self.last_sent + self.interval().mul_f64(self.jitter));
    }

    /// Other intervals are wanted. None of them ends the session: what is for the worse waits for the other end's consent
    /// (RFC 5880 §6.8.3).
    pub(super) fn reconfigure(&mut self, config: SessionConfig) -> bool {
        let intervals = (config.min_tx, config.min_rx) != (self.config.min_tx, self.config.min_rx);
        let multiplier = config.multiplier != self.config.multiplier;
        self.config = config;
        if intervals {
            self.set_intervals();
        }
        self.schedule();
        // Said at once: with a larger multiplier the other end is to be patient before we are late.
        intervals || multiplier
    }

    fn set_intervals(&mut self) {
        let up = self.state == State::Up;
        let min_tx = if up {
            self.config.min_tx
        } else {
            self.config.min_tx.max(SLOW)
        };
        if (min_tx, self.config.min_rx) == (self.desired_min_tx, self.required_min_rx) {
            return;
        }
        self.desired_min_tx = min_tx;
        self.required_min_rx = self.config.min_rx;
        if up {
            // Faster at once, slower only when the other end knows; the reverse for what we expect of it.
            self.active_min_tx = self.active_min_tx.min(min_tx);
            self.active_min_rx = self.active_min_rx.max(self.required_min_rx);
            self.poll = match self.poll {
                Poll::Idle => Poll::Running,
                Poll::Running | Poll::Again => Poll::Again,
            };
        } else {
            self.settle_intervals();
        }
    }

    const fn settle_intervals(&mut self) {
        self.active_min_tx = self.desired_min_tx;
        self.active_min_rx = self.required_min_rx;
        self.poll = Poll::Idle;
    }

    // ---- states ---------------------------------------------------------------------------------------------------

    fn enter(&mut self, state: State, diagnostic: Diagnostic) {
        let was_up = self.state == State::Up;
        self.state = state;
        self.diagnostic = diagnostic;
        self.transitions += 1;
        if was_up {
            // Nobody is asked while the path is down; the slow interval holds at once.
            self.desired_min_tx = self.config.min_tx.max(SLOW);
            self.required_min_rx = self.config.min_rx;
            self.settle_intervals();
        } else if state == State::Up {
            self.set_intervals();
        }
    }

    fn lose(&mut self, diagnostic: Diagnostic) {
        if self.state == State::Up && self.remote.state != State::AdminDown {
            self.loss = Some(Loss {
                diagnostic,
                remote_control_plane_independent: self.remote.control_plane_independent,
            });
        }
        self.enter(State::Down, diagnostic);
    }

    /// Takes the session down on purpose; the other end is to draw no conclusion about the path (RFC 5882 §3.2).
    pub(super) fn take_down(&mut self) {
        self.detection = None;
        if self.state != State::AdminDown {
            self.enter(State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
        }
        self.schedule();
    }

    /// Takes in a packet that is for this session (RFC 5880 §6.8.6, from the discriminator on). Says what to send at once.
    pub(super) fn receive(&mut self, packet: &ControlPacket, now: Instant) -> Answer {
        let before = (self.state, self.poll);
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            control_plane_independent: packet.control_plane_independent,
            demand: packet.demand,
            multiplier: packet.multiplier,
            min_tx: packet.desired_min_tx,
            min_rx: packet.required_min_rx,
        };
        if packet.is_final && self.poll != Poll::Idle {
            let again = self.poll == Poll::Again;
            self.settle_intervals();
            if again {
                self.poll = Poll::Running;
            }
        }
        if self.state == State::AdminDown {
            return Answer::default();
        }
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.lose(Diagnostic::NEIGHBOR_SIGNALED_DOWN);
            }
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::NONE),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE);
            }
            (State::Down, State::AdminDown | State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up)
            | (State::AdminDown, _) => {}
        }
        self.detection = Some(now + self.trust());
        self.schedule();
        Answer {
            is_final: packet.poll,
            periodic: (self.state, self.poll) != before && self.sends_periodically(),
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.next_send, self.detection) {
            (Some(send), Some(detection)) => Some(send.min(detection)),
            (one, other) => one.or(other),
        }
    }

    /// Acts on what ran out; true where a packet is due.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut due = false;
        if self.detection.is_some_and(|deadline| deadline <= now) {
            self.detection = None;
            if matches!(self.state, State::Init | State::Up) {
                self.lose(Diagnostic::DETECTION_TIME_EXPIRED);
                due = true;
            }
            // RFC 5880 §6.8.1. What else it said is no more true: it may come back as another that wants packets again.
            self.remote = Remote::UNHEARD;
            self.schedule();
        }
        due || self.next_send.is_some_and(|deadline| deadline <= now)
    }

    /// The packet to send now.
    pub(super) fn packet(
        &mut self,
        is_final: bool,
        now: Instant,
        random: &mut SmallRng,
    ) -> ControlPacket {
        if !is_final {
            // Keeps sessions from falling into step; with a multiplier of one the packet must still be in time
            // (RFC 5880 §6.8.7).
            let most = if self.config.multiplier == 1 {
                0.9
            } else {
                1.0
            };
            self.jitter = random.random_range(0.75..=most);
            self.last_sent = now;
            self.schedule();
        }
        ControlPacket {
            diagnostic: self.diagnostic,
            state: self.state,
            // Never both (RFC 5880 §6.5).
            poll: self.poll != Poll::Idle && !is_final,
            is_final,
            control_plane_independent: false,
            demand: false,
            multiplier: self.config.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.required_min_rx,
        }
    }
}

/// What a packet calls for at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// It polled: the answer does not wait for any timer (RFC 5880 §6.8.7).
    pub(super) is_final: bool,
    /// What we say changed, and the other end should not wait for it.
    pub(super) periodic: bool,
}
