//! Clients whose pooled connections are discarded after a pause and after a failure.
//!
//! AWS Lambda freezes the process between two invocations. Connections may be cut meanwhile without
//! a packet that would say so: a request on one gets no answer until its timeout, and so does each
//! retry that takes another one from the pool. A pool does not notice by its own idle timeout,
//! because the monotonic clock may stand still while the process is frozen.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Maximum time without a request after which pooled connections are used: shorter than the idle
/// timeouts of servers and of routers on the way, and long enough for the pauses within an
/// invocation.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A client, made for its first request, which is replaced together with its connections.
pub(super) struct ConnectionPool<C> {
    make: Box<dyn Fn() -> C + Send + Sync>,
    max_pause: Duration,
    state: Mutex<PoolState<C>>,
}

struct PoolState<C> {
    client: Option<C>,
    /// Number of clients so far.
    generation: u64,
    last_use: Option<(SystemTime, Instant)>,
}

impl<C> fmt::Debug for ConnectionPool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool").finish_non_exhaustive()
    }
}

impl<C: Clone> ConnectionPool<C> {
    /// Makes a pool of the clients that `make` returns.
    pub(super) fn new(make: impl Fn() -> C + Send + Sync + 'static) -> Arc<Self> {
        Self::with_max_pause(MAX_PAUSE, make)
    }

    fn with_max_pause(
        max_pause: Duration,
        make: impl Fn() -> C + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            make: Box::new(make),
            max_pause,
            state: Mutex::new(PoolState {
                client: None,
                generation: 0,
                last_use: None,
            }),
        })
    }

    /// Returns the client for a request that starts now, and the guard of the request.
    pub(super) fn client(self: &Arc<Self>) -> (C, RequestGuard<C>) {
        let mut state = self.lock();
        if state
            .last_use
            .is_some_and(|last| pause(last) > self.max_pause)
        {
            state.client = None;
        }
        state.last_use = Some((SystemTime::now(), Instant::now()));
        let client = if let Some(client) = &state.client {
            client.clone()
        } else {
            state.generation += 1;
            state.client.insert((self.make)()).clone()
        };
        let guard = RequestGuard {
            pool: Arc::clone(self),
            generation: state.generation,
            is_complete: false,
        };
        (client, guard)
    }

    /// Makes later requests use new connections.
    #[cfg(feature = "client")]
    pub(super) fn discard(&self) {
        self.lock().client = None;
    }
}

impl<C> ConnectionPool<C> {
    fn lock(&self) -> MutexGuard<'_, PoolState<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, generation: u64, is_complete: bool) {
        let mut state = self.lock();
        state.last_use = Some((SystemTime::now(), Instant::now()));
        // Other requests that failed with the same client have replaced it already.
        if !is_complete && state.generation == generation {
            state.client = None;
        }
    }
}

/// Returns the time since `last`, by the clock that advanced more.
fn pause((time, instant): (SystemTime, Instant)) -> Duration {
    time.elapsed().unwrap_or_default().max(instant.elapsed())
}

/// A request in flight. Unless it is [completed](Self::complete), later requests use new
/// connections: it failed, or its caller gave up waiting.
pub(super) struct RequestGuard<C> {
    pool: Arc<ConnectionPool<C>>,
    generation: u64,
    is_complete: bool,
}

impl<C> RequestGuard<C> {
    /// Records that the request got its answer.
    pub(super) fn complete(mut self) {
        self.is_complete = true;
    }
}

impl<C> Drop for RequestGuard<C> {
    fn drop(&mut self) {
        self.pool.end(self.generation, self.is_complete);
    }
}

/// Connections of all AWS clients that share a configuration.
#[derive(Debug, Clone)]
pub(super) struct Connections(Arc<ConnectionPool<SharedHttpClient>>);

impl Connections {
    /// Makes connections with the clients that `make` returns.
    pub(super) fn new(make: impl Fn() -> SharedHttpClient + Send + Sync + 'static) -> Self {
        Self(ConnectionPool::new(make))
    }

    /// Returns the client for the SDK.
    pub(super) fn http_client(&self) -> SharedHttpClient {
        SharedHttpClient::new(self.clone())
    }

    /// Makes later requests use new connections.
    #[cfg(feature = "client")]
    pub(super) fn discard(&self) {
        self.0.discard();
    }
}

/// The SDK asks for a connector for each request. The inner client's configuration is not
/// validated, because that reads the system's certificates, which is most of a function's start
/// time; the first request reads them.
impl HttpClient for Connections {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(PooledConnector {
            connections: self.clone(),
            settings: settings.clone(),
            components: components.clone(),
        })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        let (client, guard) = self.0.client();
        guard.complete();
        client.connector_metadata()
    }
}

/// Sends a request with the client of its time.
#[derive(Debug)]
struct PooledConnector {
    connections: Connections,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for PooledConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, guard) = self.connections.0.client();
        let connector = client.http_connector(&self.settings, &self.components);
        let call = connector.call(request);
        HttpConnectorFuture::new(async move {
            let result = call.await;
            if result.is_ok() {
                guard.complete();
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counted(max_pause: Duration) -> Arc<ConnectionPool<usize>> {
        let made = AtomicUsize::new(0);
        ConnectionPool::with_max_pause(max_pause, move || made.fetch_add(1, Ordering::SeqCst))
    }

    fn send(pool: &Arc<ConnectionPool<usize>>) -> usize {
        let (client, guard) = pool.client();
        guard.complete();
        client
    }

    #[test]
    fn requests_share_a_client_until_one_fails() {
        let pool = counted(Duration::from_mins(1));
        assert_eq!([send(&pool), send(&pool)], [0, 0]);
        let (first, failing) = pool.client();
        let (second, also_failing) = pool.client();
        assert_eq!((first, second), (0, 0));
        drop(failing);
        let (third, succeeding) = pool.client();
        assert_eq!(third, 1, "a retry takes a new connection");
        drop(also_failing);
        succeeding.complete();
        assert_eq!(send(&pool), 1, "the new client is not to blame");
    }

    #[test]
    fn a_pause_discards_connections() {
        let pool = counted(Duration::from_millis(30));
        assert_eq!(send(&pool), 0);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(send(&pool), 1);
    }
}
