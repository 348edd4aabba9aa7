//! Asks a running daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::server::answer::{Reply, Request};

/// Longer than the daemon takes for anything, shorter than people wait.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One question, one answer.
///
/// # Errors
/// No daemon answers there, or it says why there is no answer.
pub(crate) fn ask(run_dir: &Path, request: &Request) -> Result<Value> {
    let mut stream = BufReader::new(send(run_dir, request, Some(TIMEOUT))?);
    next(&mut stream)?.context("the daemon closed the connection: it is stopping")
}

/// One question, and `take` for each answer until the daemon ends.
///
/// # Errors
/// No daemon answers there, it says why there is no answer, or `take` fails.
pub(crate) fn follow(
    run_dir: &Path,
    request: &Request,
    mut take: impl FnMut(Value) -> Result<()>,
) -> Result<()> {
    let mut stream = BufReader::new(send(run_dir, request, None)?);
    while let Some(value) = next(&mut stream)? {
        take(value)?;
    }
    Ok(())
}

fn send(run_dir: &Path, request: &Request, patience: Option<Duration>) -> Result<UnixStream> {
    let path = run_dir.join("control.sock");
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no margay answers on {} (is it running, and are you root?)",
            path.display()
        )
    })?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

fn next(stream: &mut BufReader<UnixStream>) -> Result<Option<Value>> {
    let mut answer = String::new();
    stream
        .read_line(&mut answer)
        .context("the daemon does not answer")?;
    if answer.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(&answer)
        .context("the daemon's answer is not understood; is it of another version?")?
    {
        Reply::Ok(value) => Ok(Some(value)),
        Reply::Error(reason) => Err(anyhow!(reason)),
    }
}
