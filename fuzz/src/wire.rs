//! Responses of a git server: packets, refs, responses to a fetch and to a push, redirects.

use branchline_git::advertisement::{
    Advertisement, AdvertisementReader, LsRefsReader, Service, Version,
};
use branchline_git::pkt_line::{Decoder, Encoder, MAX_LINE, Packet, demultiplex};
use branchline_git::refs::RefOutcome;
use branchline_git::smart_http::{FetchRequest, PushRequest, RefCommand, TipNegotiator};
use branchline_git::{HashKind, ObjectId};
use bytes::Bytes;

use crate::block_on;
use crate::byte_source::ByteSource;
use crate::canned::{Canned, CannedResponse};

/// The separator between two responses in the input of [`fetch`] and [`push`].
pub const NEXT: &[u8] = b"\n=>\n";

/// Returns the packets of bytes that arrive in pieces, and whether all bytes were valid.
fn packets(bytes: &[u8], piece: usize) -> (Vec<Packet>, bool) {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for arrived in bytes.chunks(piece.max(1)) {
        decoder.push(arrived);
        loop {
            match decoder.next_packet() {
                Ok(Some(packet)) => found.push(packet),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
        assert!(
            decoder.remaining().len() < MAX_LINE,
            "no more than one packet is held back"
        );
    }
    (found, decoder.remaining().is_empty())
}

/// Decodes packets, and the side-band inside.
pub fn pkt_line(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let piece = choices.piece();
    let bytes = choices.rest();
    let (found, whole) = packets(bytes, bytes.len());
    assert_eq!(
        packets(bytes, piece),
        (found.clone(), whole),
        "pieces make no difference"
    );
    let mut encoder = Encoder::new();
    for packet in &found {
        match packet {
            Packet::Data(data) => {
                let _ = demultiplex(data.clone());
                encoder.line(data).expect("because it came in one packet");
            }
            Packet::Flush => drop(encoder.flush()),
            Packet::Delimiter => drop(encoder.delimiter()),
            // The encoder does not write this packet, because only servers send it.
            Packet::ResponseEnd => return,
        }
    }
    let written = encoder.finish();
    assert_eq!(
        packets(&written, written.len()).0,
        found,
        "packets come back"
    );
}

fn is_legal(name: &[u8]) -> bool {
    name == b"HEAD" || gix_validate::reference::name(name.into()).is_ok()
}

fn check_refs(advertisement: &Advertisement) {
    for found in &advertisement.refs {
        assert!(is_legal(&found.name), "git would refuse {:?}", found.name);
        assert!(
            found.name == "HEAD" || found.name.starts_with(b"refs/"),
            "{:?} is not a full name",
            found.name
        );
        for id in [Some(found.id), found.peeled].into_iter().flatten() {
            assert_eq!(id.kind(), advertisement.hash, "one hash function");
        }
        if let Some(target) = &found.symref_target {
            assert!(is_legal(target), "git would refuse {target:?}");
        }
    }
    if let Some(target) = &advertisement.unborn_head {
        assert!(is_legal(target), "git would refuse {target:?}");
    }
    let others = advertisement.shallow.iter().chain(&advertisement.haves);
    for id in others {
        assert_eq!(id.kind(), advertisement.hash, "one hash function");
    }
    let _ = advertisement.head();
}

fn read_advertisement(service: Service, packets: &[Packet]) -> Option<Advertisement> {
    let mut reader = AdvertisementReader::new(service);
    for packet in packets {
        if reader.push(packet).ok()? {
            break;
        }
    }
    reader.finish().ok()
}

/// Reads an advertisement of version 0, 1 or 2.
pub fn advertisement(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let service = match choices.byte() & 1 {
        0 => Service::UploadPack,
        _ => Service::ReceivePack,
    };
    let bytes = choices.rest();
    let (packets, _) = packets(bytes, bytes.len());
    if let Some(read) = read_advertisement(service, &packets) {
        check_refs(&read);
    }
}

/// An advertisement of version 2, before the refs.
fn version_2(hash: HashKind) -> Advertisement {
    let mut reader = AdvertisementReader::new(Service::UploadPack);
    let lines = [
        "version 2\n".to_owned(),
        "ls-refs=unborn\n".to_owned(),
        "fetch=shallow\n".to_owned(),
        format!("object-format={hash}\n"),
    ];
    for line in lines {
        reader
            .push(&Packet::Data(line.into()))
            .expect("because it is version 2");
    }
    reader
        .push(&Packet::Flush)
        .expect("because it ends an advertisement");
    reader.finish().expect("because it is whole")
}

/// Reads the response to `ls-refs`.
pub fn ls_refs(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let mut into = version_2(choices.hash());
    let bytes = choices.rest();
    let mut reader = LsRefsReader::new();
    for packet in &packets(bytes, bytes.len()).0 {
        if !matches!(reader.push(packet, &mut into), Ok(false)) {
            break;
        }
    }
    check_refs(&into);
}

fn answers(mut choices: ByteSource<'_>, gzip: bool) -> Vec<CannedResponse> {
    let mut answers = Vec::new();
    while !choices.is_empty() && answers.len() < 20 {
        let bytes = Bytes::copy_from_slice(choices.until(NEXT));
        answers.push(if gzip {
            CannedResponse::Gzip(bytes)
        } else {
            CannedResponse::Git(bytes)
        });
    }
    answers
}

/// Returns ids that the client has, enough for several rounds.
fn haves(count: usize) -> Vec<ObjectId> {
    let have = |n: usize| {
        let mut id = [0x11; 20];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        ObjectId::from_bytes_or_panic(&id)
    };
    (0..count).map(have).collect()
}

/// Fetches: refs, acknowledgments, shallow commits, and the packets of the pack.
pub fn fetch(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let how = choices.byte();
    let has = haves(usize::from(choices.byte()));
    let version = if how & 1 == 0 {
        Version::V0
    } else {
        Version::V2
    };
    let input = bytes.len();
    let server = Canned::new(answers(choices, how & 2 != 0));
    let client = server.client().with_version(version);
    block_on(async {
        let Ok(upload) = client.upload_pack(&[]).await else {
            return;
        };
        check_refs(&upload.advertisement);
        let wants = upload.advertisement.refs.iter().map(|r| r.id).collect();
        let request = FetchRequest {
            wants,
            depth: (how & 4 != 0).then_some(1),
            thin: how & 8 != 0,
            ..FetchRequest::default()
        };
        let Ok(mut fetched) = upload
            .fetch(&request, &mut TipNegotiator::new(has.clone()))
            .await
        else {
            return;
        };
        assert!(
            fetched.common.iter().all(|id| has.contains(id)),
            "only what is had can be common"
        );
        let mut length = 0;
        while let Ok(Some(piece)) = fetched.pack.chunk().await {
            assert!(!piece.is_empty(), "a piece of a pack has bytes");
            length += piece.len();
        }
        // Deflate makes at most 1,032 bytes of one.
        assert!(
            length <= input * 1032,
            "a pack has no more bytes than its response expands to"
        );
    });
    assert!(server.asked().len() <= 2 + 20, "a fetch takes few rounds");
}

/// Reads the report on a push, with or without side-band.
pub fn push(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let how = choices.byte();
    let words = match how & 3 {
        0 => "report-status",
        1 => "report-status side-band-64k delete-refs",
        2 => "side-band-64k",
        _ => "report-status-v2 side-band-64k atomic",
    };
    let id = "1".repeat(40);
    let line = format!("{id} refs/heads/main\0{words}\n");
    let refs = format!(
        "001f# service=git-receive-pack\n0000{:04x}{line}0000",
        line.len() + 4
    );
    let first = CannedResponse::Git(refs.into());
    // A small request precedes the pack.
    let probe = CannedResponse::Git(Bytes::from_static(b"0000"));
    let rest = answers(choices, how & 4 != 0);
    let server = Canned::new([first, probe].into_iter().chain(rest));
    let report = block_on(async {
        let receive = server.client().receive_pack().await.ok()?;
        let new = ObjectId::from_bytes_or_panic(&[2; 20]);
        let old = ObjectId::from_bytes_or_panic(&[0x11; 20]);
        let pack = Box::pin(EmptyPack);
        let request = PushRequest {
            commands: vec![
                RefCommand::update("refs/heads/main", old, new),
                RefCommand::create("refs/tags/v1", new),
            ],
            pack: Some(pack),
        };
        receive.push(request).await.ok()
    });
    let Some(report) = report else { return };
    let names: Vec<_> = report
        .refs
        .iter()
        .map(|(name, _)| name.as_slice())
        .collect();
    assert_eq!(
        names,
        [&b"refs/heads/main"[..], b"refs/tags/v1"],
        "a report is about what was asked"
    );
    assert!(report.messages.len() <= 8 * 1024, "messages are bounded");
    assert_eq!(
        report.check().is_ok(),
        report.is_complete(),
        "`check` agrees with `is_complete`"
    );
    for (_, outcome) in &report.refs {
        if let RefOutcome::Rejected(reason) = outcome {
            assert!(
                !reason.chars().any(char::is_control),
                "what is shown is printable"
            );
        }
    }
}

/// A pack without bytes, because the canned server does not read it.
struct EmptyPack;

impl futures_util::Stream for EmptyPack {
    type Item = branchline_git::Result<Bytes>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(None)
    }
}

/// Follows redirects: credentials are sent to their host only, and never over `http`.
pub fn redirect(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let mut redirects = Vec::new();
    while !choices.is_empty() && redirects.len() < 8 {
        let to = Bytes::copy_from_slice(choices.until(b"\n"));
        redirects.push(CannedResponse::Redirect(to));
    }
    let server = Canned::new(redirects);
    let _ = block_on(server.client().upload_pack(&[]));
    let asked = server.asked();
    assert!(asked.len() <= 6, "redirects come to an end");
    for asked in asked {
        let uri: http::Uri = asked.uri.parse().expect("because it was asked");
        assert_eq!(uri.scheme_str(), Some("https"), "never from https to http");
        if asked.authorized {
            let port = uri.port().map(|port| port.as_str().to_owned());
            assert!(
                uri.host() == Some("git.example") && matches!(port.as_deref(), None | Some("443")),
                "credentials were sent to {uri}"
            );
        }
    }
}
