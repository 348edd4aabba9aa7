//! Where the driver lies while its task waits, so that a connection which reads messages has them handled on the spot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Driver;
use crate::transport::connection::{Attention, Report};

/// The driver rests when nothing happened for so long.
pub(super) const REST: Duration = Duration::from_millis(1);

/// Where the driver lies while its task waits, for connections to find it there.
#[derive(Debug, Default)]
pub(in crate::transport) struct Desk {
    driver: Mutex<Option<Box<Driver>>>,
}

impl Desk {
    /// Has the driver handle messages on the spot; gives them back where it does not rest here.
    pub(in crate::transport) fn take(&self, report: Report) -> Result<(), Report> {
        let mut desk = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut driver) = desk.take_if(|driver| driver.active.elapsed() >= REST) else {
            return Err(report);
        };
        let _alarm = Alarm(Arc::clone(&driver.attention));
        driver.at_once(report);
        *desk = Some(driver);
        Ok(())
    }

    pub(super) fn put(&self, driver: Box<Driver>) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
    }

    pub(super) fn clear(&self) -> Option<Box<Driver>> {
        self.driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The driver's task at its desk: when the task goes, so does the driver.
pub(super) struct Seat(pub(super) Arc<Desk>);

impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.0.clear());
    }
}

/// Wakes the driver's task where a connection's panics with the driver in its hands: the speaker ends then.
struct Alarm(Arc<Attention>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.raised.notify_one();
        }
    }
}
