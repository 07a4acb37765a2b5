//! `git receive-pack`: serves pushes.

use std::sync::Arc;
use std::time::Duration;

use bstr::BString;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::advertisement::{ProtocolVersion, write_refs};
use super::connection::{PacketReader, PacketWriter, RequestSize, SideBand};
use super::push_commands::{DELETES_CURRENT, PushCommands};
use super::repository::{PushReceiver, ReceivedPush, Repository};
use crate::error::Result;
use crate::pack::PackBody;
use crate::protocol::pkt_line::{Encoder, Packet};
use crate::refs::{Head, RefOutcome};
use crate::{HashKind, corrupt};

/// The time after which an empty packet is sent while a push is carried out. Git's value.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Options of [`receive_pack`].
#[derive(Debug, Clone, Default)]
pub struct ReceivePackOptions {
    /// The hash function of the client's own repository, which an empty repository adopts; SHA-1
    /// if unknown.
    pub client_hash: Option<HashKind>,
    /// The client closes its side of the connection after the pack, as on pipes. The rest of a
    /// pack that cannot be stored is then read, so that the client gets the report.
    pub input_ends: bool,
    /// Advice for a client that deletes the branch that `HEAD` names.
    pub set_head_hint: Option<String>,
}

/// Serves a push: advertises the refs, receives commands and a pack, and reports the outcome of
/// each command.
///
/// # Errors
/// The first failure, which was reported to the client. Rejected commands are not failures.
pub async fn receive_pack<R, W>(
    repository: &dyn Repository,
    version: ProtocolVersion,
    reader: R,
    writer: W,
    options: &ReceivePackOptions,
) -> Result<()>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin,
{
    let mut writer = PacketWriter::new(writer);
    let reader = PacketReader::new(reader);
    let served = serve(repository, version, reader, &mut writer, options).await;
    if let Err(error) = &served {
        writer.error(error);
        // The client may have closed the connection.
        let _ = writer.send().await;
    }
    served
}

async fn serve<R, W>(
    repository: &dyn Repository,
    version: ProtocolVersion,
    mut reader: PacketReader<R>,
    writer: &mut PacketWriter<W>,
    options: &ReceivePackOptions,
) -> Result<()>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin,
{
    let mut receiver = repository.push_receiver().await?;
    let snapshot = receiver.snapshot();
    let hash = match options.client_hash {
        Some(hash) if snapshot.refs.is_empty() => hash,
        _ => snapshot.hash,
    };
    advertise(&*receiver, version, hash, writer).await?;
    if reader.is_at_end().await? {
        return Ok(());
    }
    let commands = read_commands(&mut reader, hash).await?;
    if commands.updates.is_empty() {
        receiver.complete_interrupted().await;
        return Ok(());
    }
    writer.side_band = commands.side_band.then_some(SideBand::Large);
    let body = commands
        .has_pack()
        .then(|| Arc::new(Mutex::new(reader.into_body())));
    let push = carry_out(&mut *receiver, &commands, body.as_ref(), options, writer);
    let outcomes = push.await;
    if let (Err(_), Some(body), true) = (&outcomes, &body, options.input_ends) {
        // The report has a cause; that of a failed read would be another one.
        while let Some(Ok(_)) = body.lock().await.next().await {}
    }
    let report = report(&commands, &outcomes)?;
    writer.side_band = None;
    if commands.report_status {
        if commands.side_band {
            writer.band(SideBand::Large, 1, &report);
        } else {
            writer.raw(&report);
        }
    }
    if commands.side_band {
        writer.flush_packet();
    }
    writer.send().await?;
    match outcomes {
        // The client has a report already.
        Err(error) if commands.report_status => Err(error),
        outcomes => outcomes.map(drop),
    }
}

async fn advertise<W>(
    receiver: &dyn PushReceiver,
    version: ProtocolVersion,
    hash: HashKind,
    writer: &mut PacketWriter<W>,
) -> Result<()>
where
    W: AsyncWrite + Send + Unpin,
{
    let capabilities = receiver.capabilities();
    let mut words = "report-status report-status-v2 delete-refs side-band-64k quiet".to_owned();
    for (word, is_offered) in [
        (" atomic", capabilities.atomic),
        (" ofs-delta", capabilities.offset_deltas),
        (" no-thin", !capabilities.thin),
    ] {
        if is_offered {
            words.push_str(word);
        }
    }
    let refs = receiver.snapshot().refs.iter();
    let lines = refs.map(|(name, target)| (target.id, name.clone()));
    write_refs(writer, version, lines.collect(), hash, &words).await
}

async fn read_commands<R>(reader: &mut PacketReader<R>, hash: HashKind) -> Result<PushCommands>
where
    R: AsyncRead + Send + Unpin,
{
    let mut commands = PushCommands::new(hash);
    let mut size = RequestSize::default();
    loop {
        let packet = reader.expect().await?;
        match packet.text() {
            Some(line) => {
                size.add(line)?;
                commands.add(line)?;
            }
            None if packet == Packet::Flush => return Ok(commands),
            None => return Err(corrupt("a push has an unexpected special packet")),
        }
    }
}

/// Carries out the commands, and returns the outcome of each.
async fn carry_out<W>(
    receiver: &mut dyn PushReceiver,
    commands: &PushCommands,
    body: Option<&Arc<Mutex<PackBody>>>,
    options: &ReceivePackOptions,
    writer: &mut PacketWriter<W>,
) -> Result<Vec<RefOutcome>>
where
    W: AsyncWrite + Send + Unpin,
{
    let current: Option<BString> = match &receiver.snapshot().head {
        Some(Head::Symbolic(name)) => Some(name.clone()),
        _ => None,
    };
    let mut rejections = commands.rejections(current.as_ref());
    if rejections.contains(&Some(DELETES_CURRENT))
        && let Some(hint) = &options.set_head_hint
        && let Some(side_band) = writer.side_band
    {
        writer.band(side_band, 2, format!("hint: {hint}\n").as_bytes());
    }
    let is_atomic = commands.atomic && receiver.capabilities().atomic;
    if is_atomic && rejections.iter().any(Option::is_some) {
        for rejection in &mut rejections {
            rejection.get_or_insert("atomic push failure");
        }
    }
    let updates = commands.updates.iter().zip(&rejections);
    let accepted = updates.filter(|(_, rejection)| rejection.is_none());
    let push = ReceivedPush {
        updates: accepted.map(|(update, _)| update.clone()).collect(),
        pack: body.map(|body| shared(Arc::clone(body))),
        atomic: is_atomic,
    };
    let mut results = Vec::new();
    if !push.updates.is_empty() {
        let shallow = !commands.shallow.is_empty();
        let pushed = keep_alive(receiver.receive(push), writer).await?;
        results = pushed.map_err(|error| {
            if shallow {
                error.context("shallow update not allowed")
            } else {
                error
            }
        })?;
    } else if let Some(body) = body.filter(|_| options.input_ends) {
        while let Some(Ok(_)) = body.lock().await.next().await {}
    }
    let mut results = results.into_iter();
    let outcome = |rejection: Option<&'static str>| match rejection {
        Some(reason) => RefOutcome::Rejected(reason.to_owned()),
        None => results.next().unwrap_or(RefOutcome::Unknown),
    };
    Ok(rejections.into_iter().map(outcome).collect())
}

/// Returns the stream of a pack that is read further after a failure.
fn shared(body: Arc<Mutex<PackBody>>) -> PackBody {
    Box::pin(futures_util::stream::unfold(body, |body| async move {
        let next = body.lock().await.next().await?;
        Some((next, body))
    }))
}

/// Awaits `work`, and keeps the connection alive meanwhile.
///
/// # Errors
/// `Transport` when the client has closed the connection; `work` is dropped.
async fn keep_alive<T, W>(
    work: impl Future<Output = T> + Send,
    writer: &mut PacketWriter<W>,
) -> Result<T>
where
    W: AsyncWrite + Send + Unpin,
{
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(KEEP_ALIVE, &mut work).await {
            return Ok(done);
        }
        writer.keep_alive(writer.side_band.unwrap_or(SideBand::None));
        writer.send().await?;
    }
}

/// Encodes the report on a push.
fn report(commands: &PushCommands, outcomes: &Result<Vec<RefOutcome>>) -> Result<bytes::Bytes> {
    let mut report = Encoder::new();
    match outcomes {
        Ok(_) => report.line("unpack ok\n")?,
        Err(error) => report.line(format!("unpack {}\n", one_line(&error.report())))?,
    };
    for (at, update) in commands.updates.iter().enumerate() {
        let name = &update.name;
        let rejected = match outcomes.as_ref().map(|outcomes| outcomes.get(at)) {
            Ok(Some(RefOutcome::Done)) => None,
            Ok(Some(RefOutcome::Rejected(reason))) => Some(one_line(reason)),
            Ok(_) => Some("the outcome is not known: fetch, then push again".to_owned()),
            Err(_) => Some("unpacker error".to_owned()),
        };
        let mut line = match &rejected {
            None => b"ok ".to_vec(),
            Some(_) => b"ng ".to_vec(),
        };
        line.extend_from_slice(name);
        if let Some(reason) = rejected {
            line.push(b' ');
            line.extend_from_slice(reason.as_bytes());
        }
        line.push(b'\n');
        report.line(line)?;
    }
    report.flush();
    Ok(report.finish())
}

/// Returns a message without line ends, which would end its line in the report.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
