//! Writes a zip as a stream: bytes that are out are never changed again, so that they can
//! leave as parts while the rest is being fetched.
//!
//! Every header is the `zip` crate's. It keeps some hundred bytes for each entry until
//! the end, which would let memory grow with the number of files; so a writer of its is
//! closed after [`ENTRIES_PER_WRITER`] entries, its part of the central directory is kept
//! as it is on disk (about 60 bytes and the name), and the next writer goes on at the
//! same offset. Only the end of the central directory is put together here.
//!
//! Sizes and checksums stand in the local headers, never in data descriptors, which some
//! readers refuse for stored entries.

use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::Offset;
use zip::read::ZipArchive;
use zip::result::ZipError;
use zip::write::{FileOptions, FullFileOptions, PreparedZipFile, ZipWriter};
use zip::{CompressionMethod, DateTime, System};

use crate::codecommit::EntryMode;
use crate::error::{Error, ErrorKind, Result};

const ENTRIES_PER_WRITER: usize = 1024;

/// How much room is added at once to bytes that wait; doubling would waste megabytes.
const GROWTH: usize = 1024 * 1024;

/// How hard entries are deflated.
pub(super) const LEVEL: u32 = 6;

/// The extra field of the modification time, "UT".
const TIME_FIELD: [u8; 2] = *b"UT";

/// What "UT" is called until a header is in the stream: the crate leaves out fields that
/// it knows when it copies an entry without unpacking it.
const TIME_FIELD_IN_CRATE: [u8; 2] = *b"bl";

/// Above these, the end of the central directory needs its 64-bit form.
const MAX_ENTRIES_32: u64 = 0xffff;
const MAX_OFFSET_32: u64 = 0xffff_ffff;

/// What makes an entry need sizes of 64 bits.
const MAX_SIZE_32: u64 = 0xffff_ffff;

/// What all entries of an archive have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryDefaults {
    seconds: i64,
    dos: DateTime,
}

/// The content of an entry, compressed: a zip of one entry without a name.
#[derive(Debug, Clone)]
pub(super) struct PackedEntry(Box<[u8]>);

impl EntryDefaults {
    /// The time of `seconds` since the epoch, in UTC: DOS fields know no zone. They reach
    /// from 1980 to 2107; times outside become the nearest.
    pub(super) fn new(seconds: i64) -> Self {
        let first = DateTime::DEFAULT;
        let last = DateTime::from_date_and_time(2107, 12, 31, 23, 59, 58).unwrap_or(first);
        let dos = Timestamp::from_second(seconds).ok().and_then(|at| {
            let at = Offset::UTC.to_datetime(at);
            let part = |number: i8| u8::try_from(number).ok();
            let year = u16::try_from(at.year()).ok()?;
            if year > 2107 {
                return Some(last);
            }
            DateTime::from_date_and_time(
                year,
                part(at.month())?,
                part(at.day())?,
                part(at.hour())?,
                part(at.minute())?,
                part(at.second())?,
            )
            .ok()
        });
        Self {
            seconds,
            dos: dos.unwrap_or(if seconds < 0x7fff_ffff { first } else { last }),
        }
    }

    /// Options as git's own headers: made by DOS, and by Unix for what needs a mode.
    fn options(
        self,
        system: System,
        attributes: u32,
    ) -> ZipResult<FullFileOptions<'static, 'static>> {
        let mut options = FileOptions::default()
            .system(system)
            .external_attributes(attributes)
            .last_modified_time(self.dos);
        // Only the modification time follows, 32 bits of it.
        let mut extra = [1, 0, 0, 0, 0];
        extra[1..].copy_from_slice(&self.seconds.to_le_bytes()[..4]);
        options.add_extra_field(u16::from_le_bytes(TIME_FIELD_IN_CRATE), extra, false)?;
        Ok(options)
    }
}

type ZipResult<T> = std::result::Result<T, ZipError>;

impl PackedEntry {
    /// Compresses `bytes`; stores them where that is shorter, as git does.
    pub(super) fn new(bytes: &[u8], kind: EntryMode, stamp: EntryDefaults) -> Result<Self> {
        let pack = |method| Self::with_method(bytes, kind, stamp, method);
        let stores = kind == EntryMode::Symlink || bytes.is_empty();
        if !stores {
            let packed = pack(CompressionMethod::Deflated).map_err(defect)?;
            let archive = ZipArchive::new(Cursor::new(&*packed.0));
            let compressed = archive
                .and_then(|mut archive| Ok(archive.by_index_raw(0)?.compressed_size()))
                .map_err(defect)?;
            if compressed < bytes.len() as u64 {
                return Ok(packed);
            }
            drop(packed);
        }
        pack(CompressionMethod::Stored).map_err(defect)
    }

    fn with_method(
        bytes: &[u8],
        kind: EntryMode,
        stamp: EntryDefaults,
        method: CompressionMethod,
    ) -> ZipResult<Self> {
        let (system, attributes) = match kind {
            EntryMode::File => (System::Dos, 0),
            EntryMode::Executable => (System::Unix, 0o100_755 << 16),
            EntryMode::Symlink => (System::Unix, 0o120_777 << 16),
        };
        let deflates = method == CompressionMethod::Deflated;
        let options = stamp
            .options(system, attributes)?
            .compression_method(method)
            .compression_level(deflates.then_some(LEVEL.into()));
        // Hardly ever exceeded; pages that are not written take no memory.
        let capacity = bytes.len() + 512;
        let mut writer = ZipWriter::new(Cursor::new(Vec::with_capacity(capacity)));
        writer.start_file("", options)?;
        writer.write_all(bytes)?;
        Ok(Self(writer.finish()?.into_inner().into_boxed_slice()))
    }

    /// How many bytes this holds.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Writes the entries of an archive in order.
pub(super) struct ZipEntryWriter {
    stream: Stream,
    writer: ZipWriter<Stream>,
    entries_of_writer: usize,
    entries: u64,
    directory: Vec<u8>,
    // What the writer does not know: its entries, by number, that came as streams.
    streamed: Vec<(usize, EntrySizes)>,
    stamp: EntryDefaults,
}

impl ZipEntryWriter {
    pub(super) fn new(stamp: EntryDefaults) -> Self {
        let stream = Stream::default();
        Self {
            writer: ZipWriter::new(stream.clone()),
            stream,
            entries_of_writer: 0,
            entries: 0,
            directory: Vec::new(),
            streamed: Vec::new(),
            stamp,
        }
    }

    /// Adds a folder or submodule; `path` ends in a slash.
    pub(super) fn add_folder(&mut self, path: &str) -> Result<()> {
        let options = self
            .stamp
            .options(System::Dos, 0x10)
            .map_err(|error| refused(path, error))?
            .compression_method(CompressionMethod::Stored);
        let start = self.waiting();
        // A prepared file is written in one go; a started one is patched later.
        PreparedZipFile::from_data(path, options, b"")
            .and_then(|folder| self.writer.add_prepared_file(folder))
            .map_err(|error| refused(path, error))?;
        self.added(start)
    }

    /// Adds a file, executable or symbolic link.
    pub(super) fn add_file(&mut self, path: &str, packed: &PackedEntry) -> Result<()> {
        let mut source = ZipArchive::new(Cursor::new(&*packed.0)).map_err(defect)?;
        let file = source.by_index_raw(0).map_err(defect)?;
        let start = self.waiting();
        self.writer
            .raw_copy_file_rename(file, path)
            .map_err(|error| refused(path, error))?;
        self.added(start)
    }

    /// Adds the header of an entry whose content follows by [`append`](Self::append): so
    /// many bytes as were measured, before the next entry is added.
    pub(super) fn add_header(
        &mut self,
        path: &str,
        kind: EntryMode,
        measured: EntrySizes,
    ) -> Result<()> {
        if measured.size >= MAX_SIZE_32 || measured.packed_size >= MAX_SIZE_32 {
            let path = path.escape_debug();
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!(
                    "`{path}` has {} bytes, and 4 GiB are the most",
                    measured.size
                ),
            ));
        }
        let method = if measured.deflated {
            CompressionMethod::Deflated
        } else {
            CompressionMethod::Stored
        };
        // An empty entry has the same header, but for what was measured.
        let empty = PackedEntry::with_method(b"", kind, self.stamp, method).map_err(defect)?;
        let mut source = ZipArchive::new(Cursor::new(&*empty.0)).map_err(defect)?;
        let file = source.by_index_raw(0).map_err(defect)?;
        let start = self.waiting();
        self.writer
            .raw_copy_file_rename(file, path)
            .map_err(|error| refused(path, error))?;
        let patched = self.stream.with(|state| {
            let header = &mut state.bytes[start..];
            let length = 30 + short(header, 26)? + short(header, 28)?;
            measured.write_to(header.get_mut(14..26)?);
            let gone = header.len().checked_sub(length)?;
            state.bytes.truncate(start + length);
            state.position -= gone as u64;
            Some(())
        });
        patched.ok_or_else(no_header)?;
        self.streamed.push((self.entries_of_writer, measured));
        self.added(start)
    }

    /// Adds the next bytes of the content of an entry.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.stream.write_all(bytes);
        written.map_err(|error| defect(error.into()))
    }

    /// How many bytes wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.stream.with(|state| state.bytes.len())
    }

    /// Takes the first `most` bytes that wait, or all of them.
    pub(super) fn take(&mut self, most: usize) -> Vec<u8> {
        self.stream.with(|state| {
            if state.bytes.len() <= most {
                return std::mem::take(&mut state.bytes);
            }
            // A copy of its own size: a part must not keep the capacity of what waits.
            let part = state.bytes[..most].to_vec();
            state.bytes.drain(..most);
            part
        })
    }

    /// Ends the archive with `comment`; returns how many bytes it has in all.
    pub(super) fn finish(&mut self, comment: &str) -> Result<u64> {
        self.close_writer()?;
        let start = self.stream.with(|state| state.position);
        let directory = std::mem::take(&mut self.directory);
        let end = end_of_directory(self.entries, start, directory.len() as u64, comment);
        let written = self
            .stream
            .write_all(&directory)
            .and_then(|()| self.stream.write_all(&end));
        written.map_err(|error| defect(error.into()))?;
        Ok(self.stream.with(|state| state.position))
    }

    /// Counts the entry whose local header starts at `start` of what waits.
    fn added(&mut self, start: usize) -> Result<()> {
        self.stream
            .with(|state| name_time_field(&mut state.bytes[start..], 26, 30))
            .ok_or_else(no_time)?;
        self.entries += 1;
        self.entries_of_writer += 1;
        if self.entries_of_writer == ENTRIES_PER_WRITER {
            self.close_writer()?;
        }
        Ok(())
    }

    /// Lets the writer write its central directory, but not into the stream.
    fn close_writer(&mut self) -> Result<()> {
        let next = ZipWriter::new(self.stream.clone());
        let writer = std::mem::replace(&mut self.writer, next);
        let before = self.stream.with(|state| state.position);
        writer.finish().map_err(defect)?;
        let entries = std::mem::take(&mut self.entries_of_writer);
        let mut tail = self.stream.with(|state| {
            let tail = usize::try_from(state.position - before).unwrap_or(usize::MAX);
            let kept = state.bytes.len().saturating_sub(tail);
            state.position = before;
            state.bytes.split_off(kept)
        });
        let mut length = 0;
        let mut streamed = std::mem::take(&mut self.streamed).into_iter().peekable();
        for number in 0..entries {
            let record = &mut tail[length..];
            if let Some((_, measured)) = streamed.next_if(|(streamed, _)| *streamed == number) {
                measured.write_to(record.get_mut(16..28).ok_or_else(no_header)?);
            }
            length += directory_record(record).ok_or_else(no_time)?;
        }
        self.directory.extend_from_slice(&tail[..length]);
        Ok(())
    }
}

/// Puts the record of the central directory at the start of `bytes` right; returns how
/// long it is.
fn directory_record(bytes: &mut [u8]) -> Option<usize> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    name_time_field(bytes, 28, 46)?;
    Some(46 + short(bytes, 28)? + short(bytes, 30)? + short(bytes, 32)?)
}

/// Gives the time field its true name, in a header with the length of the entry's name at
/// `length_at` and the name itself at `name_at`.
fn name_time_field(header: &mut [u8], length_at: usize, name_at: usize) -> Option<()> {
    let at = name_at + short(header, length_at)?;
    let field = header.get_mut(at..at + 2)?;
    if *field != TIME_FIELD_IN_CRATE {
        return None;
    }
    field.copy_from_slice(&TIME_FIELD);
    Some(())
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
}

/// What a header of the zip says of an entry's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntrySizes {
    pub(super) crc: u32,
    pub(super) size: u64,
    pub(super) packed_size: u64,
    pub(super) deflated: bool,
}

impl EntrySizes {
    /// Writes checksum and sizes into the twelve bytes that headers have for them.
    fn write_to(&self, fields: &mut [u8]) {
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        fields[..4].copy_from_slice(&self.crc.to_le_bytes());
        fields[4..8].copy_from_slice(&narrow(self.packed_size));
        fields[8..].copy_from_slice(&narrow(self.size));
    }
}

fn no_header() -> Error {
    Error::new(ErrorKind::Internal, "a header of the zip is cut off")
}

fn no_time() -> Error {
    Error::new(ErrorKind::Internal, "a header of the zip has no time field")
}

/// The records after the central directory (APPNOTE 4.3.14 to 4.3.16).
fn end_of_directory(entries: u64, start: u64, length: u64, comment: &str) -> Vec<u8> {
    let mut end = Vec::with_capacity(128);
    if entries > MAX_ENTRIES_32 || start > MAX_OFFSET_32 || length > MAX_OFFSET_32 {
        end.extend(b"PK\x06\x06");
        end.extend(44_u64.to_le_bytes());
        end.extend([45, 0, 45, 0]);
        end.extend([0; 8]);
        end.extend(entries.to_le_bytes());
        end.extend(entries.to_le_bytes());
        end.extend(length.to_le_bytes());
        end.extend(start.to_le_bytes());
        end.extend(b"PK\x06\x07");
        end.extend([0; 4]);
        end.extend((start + length).to_le_bytes());
        end.extend(1_u32.to_le_bytes());
    }
    let short = |number: u64| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    let long = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    end.extend(b"PK\x05\x06");
    end.extend([0; 4]);
    end.extend(short(entries));
    end.extend(short(entries));
    end.extend(long(length));
    end.extend(long(start));
    end.extend(short(comment.len() as u64));
    end.extend(comment.as_bytes());
    end
}

fn refused(path: &str, error: ZipError) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("`{}` does not fit into a zip", path.escape_debug()),
    )
    .with_source(error)
}

fn defect(error: ZipError) -> Error {
    Error::new(ErrorKind::Internal, "the zip cannot be written").with_source(error)
}

/// Where a zip writer writes: bytes that wait to be taken, at a position that only grows.
#[derive(Debug, Clone, Default)]
struct Stream(Arc<Mutex<StreamState>>);

#[derive(Debug, Default)]
struct StreamState {
    bytes: Vec<u8>,
    position: u64,
}

impl Stream {
    fn with<T>(&self, act: impl FnOnce(&mut StreamState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|state| {
            if state.bytes.len() > GROWTH {
                let free = state.bytes.capacity() - state.bytes.len();
                if free < bytes.len() {
                    state.bytes.reserve_exact(bytes.len().max(GROWTH));
                }
            }
            state.bytes.extend_from_slice(bytes);
            state.position += bytes.len() as u64;
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = self.with(|state| state.position);
        match to {
            SeekFrom::Current(0) | SeekFrom::End(0) => Ok(position),
            SeekFrom::Start(start) if start == position => Ok(position),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "what is written is on its way",
            )),
        }
    }
}
