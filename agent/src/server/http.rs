//! HTTP for whoever scrapes and probes, with bounds: anybody who reaches the port may connect to it, and what they take is taken from
//! the sessions of peers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Failures;

/// Connections at once of one listener; more wait in the kernel, where they take no descriptor.
const CONNECTIONS: usize = 64;
/// How long a connection may be without a request, a request may take to come, and an answer to be acknowledged. Whoever scrapes more
/// rarely connects each time.
const IDLE: Duration = Duration::from_secs(30);
/// How long answers under way may take when the daemon ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves until `stop` is cancelled.
pub(super) async fn serve(
    what: &'static str,
    listener: TcpListener,
    router: Router,
    stop: &CancellationToken,
) {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut failures = Failures::default();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    tasks.spawn(async move {
                        let _place = place;
                        if let Err(error) = connection(stream, router, stop).await {
                            tracing::debug!(what, %error, "connection");
                        }
                    });
                }
                Err(error) => failures.pause(what, &error).await,
            }
        }
    };
    // Cancel-safe: a connection is the kernel's, or has its task.
    let _ = stop.run_until_cancelled(accepting).await;
    drop(listener);
    tasks.close();
    // A client that keeps its connection open must not keep the daemon from ending.
    let _ = tokio::time::timeout(GOODBYE, tasks.wait()).await;
}

async fn connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    bound_answers(&stream)?;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let service = TowerToHyperService::new(router);
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = served.as_mut() => return Ok(ended?),
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
    }
    Ok(served.await?)
}

/// Ends a connection whose peer asks and then takes nothing.
fn bound_answers(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(IDLE))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let router = Router::new().route("/metrics", get(|| async { "numbers" }));
        let serving = {
            let stop = stop.clone();
            tokio::spawn(async move { serve("metrics", listener, router, &stop).await })
        };
        (address, stop, serving)
    }

    async fn scrape(stream: &mut TcpStream) -> String {
        let request = "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("open");
        let mut answer = vec![0; 1024];
        let mut length = 0;
        while length == 0 || !answer[..length].ends_with(b"numbers") {
            match stream.read(&mut answer[length..]).await.expect("open") {
                0 => break,
                read => length += read,
            }
        }
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_closed() {
        let (address, ..) = start().await;
        let begin = tokio::time::Instant::now();
        let mut silent = TcpStream::connect(address).await.expect("listens");
        // The clock goes on by itself where nothing else does.
        assert_eq!(silent.read(&mut [0]).await.expect("closed in order"), 0);
        assert!(begin.elapsed() < 2 * IDLE, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_connection_is_answered_again_and_again() {
        let (address, ..) = start().await;
        let mut asking = TcpStream::connect(address).await.expect("listens");
        for _ in 0..3 {
            let answer = scrape(&mut asking).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stays_open_does_not_keep_the_daemon_from_ending() {
        let (address, stop, serving) = start().await;
        let mut asking = TcpStream::connect(address).await.expect("listens");
        scrape(&mut asking).await;
        let begin = tokio::time::Instant::now();
        stop.cancel();
        serving.await.expect("it ends");
        assert!(begin.elapsed() < GOODBYE, "{:?}", begin.elapsed());
    }
}
