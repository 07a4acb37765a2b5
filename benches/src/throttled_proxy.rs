//! A network link of a stated bandwidth and latency: a TCP relay in front of a server.
//!
//! All connections share the bandwidth, which each direction has to itself. The first bytes
//! of a connection wait for the round trip of TCP's handshake. Nothing is lost on the way, and
//! no connection starts slowly, so a real link of the same numbers is never faster.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bytes sent at once: 1.3 ms at 100 Mbit/s.
const PIECE_BYTES: usize = 16 * 1024;
/// Idle time whose unused bandwidth may still be used, because the clock has a resolution of
/// a millisecond.
const BURST: Duration = Duration::from_millis(5);

/// Bandwidth and latency of a link.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Megabits a second, each way.
    pub mbit: u64,
    /// The time from one end to the other and back.
    pub round_trip: Duration,
}

/// A link that is open until it is dropped.
#[derive(Debug)]
pub struct ThrottledProxy {
    address: SocketAddr,
    leads_to: watch::Sender<Option<SocketAddr>>,
    speed: Arc<Mutex<Option<Speed>>>,
    carried: Arc<Carried>,
    accepting: JoinHandle<()>,
}

/// Bytes that a link has carried since it was opened.
#[derive(Debug, Default)]
struct Carried {
    up: AtomicU64,
    down: AtomicU64,
}

/// State of a link that its connections share.
#[derive(Debug)]
struct LinkState {
    speed: Arc<Mutex<Option<Speed>>>,
    lanes: [Arc<Direction>; 2],
    carried: Arc<Carried>,
}

/// One direction of a link.
#[derive(Debug)]
struct Direction {
    // `None` while the link is not throttled.
    speed: Arc<Mutex<Option<Speed>>>,
    free_at: Mutex<Instant>,
}

/// Times at which a piece was sent and arrives.
#[derive(Debug, PartialEq, Eq)]
struct Schedule {
    left: Instant,
    arrives: Instant,
}

impl Direction {
    fn new(speed: &Arc<Mutex<Option<Speed>>>) -> Self {
        Self {
            speed: Arc::clone(speed),
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Schedules `bytes` bytes in this direction, not before `start`.
    fn send(&self, bytes: usize, start: Instant, now: Instant) -> Schedule {
        let Some(speed) = *self.speed.lock().unwrap_or_else(PoisonError::into_inner) else {
            return Schedule {
                left: now,
                arrives: now,
            };
        };
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_since = now.checked_sub(BURST).unwrap_or(now);
        let nanos = bytes as u64 * 8 * 1000 / speed.mbit.max(1);
        let left = (*free_at).max(idle_since).max(start) + Duration::from_nanos(nanos);
        *free_at = left;
        Schedule {
            left,
            arrives: left + speed.round_trip / 2,
        }
    }
}

impl ThrottledProxy {
    /// Opens a link, which leads nowhere yet.
    pub async fn open(speed: Speed) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let speed = Arc::new(Mutex::new(Some(speed)));
        let (leads_to, server) = watch::channel(None);
        let carried = Arc::<Carried>::default();
        let lanes = [
            Arc::new(Direction::new(&speed)),
            Arc::new(Direction::new(&speed)),
        ];
        let link = LinkState {
            speed: Arc::clone(&speed),
            lanes,
            carried: Arc::clone(&carried),
        };
        let accepting = tokio::spawn(accept(listener, server, link));
        Ok(Self {
            address,
            leads_to,
            speed,
            carried,
            accepting,
        })
    }

    /// Leads it to a server, whose URL names an address and a port; connections made before
    /// have waited for that.
    pub fn lead_to(&self, endpoint: &str) -> Result<()> {
        let address = endpoint.trim_start_matches("http://");
        let server = address.parse().with_context(|| endpoint.to_owned())?;
        self.leads_to.send_replace(Some(server));
        Ok(())
    }

    /// The URL of what is behind it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the bytes that were sent to the server and those that came back.
    pub fn carried(&self) -> (u64, u64) {
        let Carried { up, down } = &*self.carried;
        (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    }

    /// Makes it as fast as this, or as the machine is.
    pub fn set_speed(&self, speed: Option<Speed>) {
        *self.speed.lock().unwrap_or_else(PoisonError::into_inner) = speed;
    }
}

impl Drop for ThrottledProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    mut server: watch::Receiver<Option<SocketAddr>>,
    link: LinkState,
) {
    let LinkState {
        speed,
        lanes,
        carried,
    } = link;
    while let Ok((near, _)) = listener.accept().await {
        let known = server.wait_for(Option::is_some).await;
        let Some(server) = known.ok().and_then(|server| *server) else {
            return;
        };
        let speed = *speed.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now() + speed.map_or(Duration::ZERO, |speed| speed.round_trip);
        let (lanes, carried) = (lanes.clone(), Arc::clone(&carried));
        tokio::spawn(async move {
            // Whoever cannot connect sees the connection end.
            let Ok(far) = TcpStream::connect(server).await else {
                return;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let [up, down] = lanes;
            let ((near_read, near_write), (far_read, far_write)) =
                (near.into_split(), far.into_split());
            tokio::join!(
                carry(near_read, far_write, (up, &carried.up), start),
                carry(far_read, near_write, (down, &carried.down), start),
            );
        });
    }
}

/// Copies bytes until the reader ends or the writer fails.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (lane, carried): (Arc<Direction>, &AtomicU64),
    start: Instant,
) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let Ok(length @ 1..) = from.read(&mut piece).await else {
                return;
            };
            piece.truncate(length);
            carried.fetch_add(length as u64, Ordering::Relaxed);
            let passage = lane.send(length, start, Instant::now());
            if sender.send((passage.arrives, piece)).is_err() {
                return;
            }
            // What waits for the link waits at its sender.
            sleep_until(passage.left).await;
        }
    };
    let writing = async move {
        while let Some((arrives, piece)) = under_way.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEED: Speed = Speed {
        mbit: 100,
        round_trip: Duration::from_millis(10),
    };

    fn lane() -> (Direction, Instant) {
        let lane = Direction::new(&Arc::new(Mutex::new(Some(SPEED))));
        let start = Instant::now() + Duration::from_secs(1);
        (lane, start)
    }

    #[test]
    fn connections_share_the_bandwidth_and_wait_half_of_the_round_trip() {
        let (lane, start) = lane();
        let mut last = None;
        // 12.5 MB that are all there at once, whichever connections they are of.
        for _ in 0..1000 {
            last = Some(lane.send(12_500, start, start));
        }
        let second = start + Duration::from_secs(1);
        let arrives = second + SPEED.round_trip / 2;
        let expected = Schedule {
            left: second,
            arrives,
        };
        assert_eq!(last, Some(expected));
    }

    #[test]
    fn time_in_which_nothing_was_sent_is_lost_but_for_a_burst() {
        let (lane, start) = lane();
        lane.send(12_500, start, start);
        let later = start + Duration::from_secs(5);
        let passage = lane.send(125_000, start, later);
        assert_eq!(passage.left, later - BURST + Duration::from_millis(10));
    }

    #[test]
    fn a_link_without_a_speed_holds_nothing_up() {
        let lane = Direction::new(&Arc::default());
        let now = Instant::now();
        let passage = lane.send(1 << 30, now, now);
        assert_eq!((passage.left, passage.arrives), (now, now));
    }

    #[tokio::test]
    async fn bytes_come_through_as_they_were_sent_and_an_end_is_an_end() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = ThrottledProxy::open(Speed {
            mbit: 10_000,
            round_trip: Duration::from_millis(1),
        })
        .await
        .unwrap();
        link.lead_to(&format!("http://{}", server.local_addr().unwrap()))
            .unwrap();
        let address = link.endpoint().replace("http://", "");
        let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let client = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let echo = async {
            let (mut far, _) = server.accept().await.unwrap();
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got.reverse();
            far.write_all(&got).await.unwrap();
        };
        let (mut answer, ()) = tokio::join!(client, echo);
        answer.reverse();
        assert_eq!(answer.len(), sent.len());
        assert!(answer == sent, "every byte, in its order");
    }
}
