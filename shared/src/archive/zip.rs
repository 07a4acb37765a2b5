//! Writes a zip as a stream: bytes that were taken are never changed, so they can be sent as
//! parts while the remaining files are fetched.
//!
//! The `zip` crate writes every header. A `ZipWriter` keeps some hundred bytes for each entry
//! until the end, so memory would grow with the number of files. Therefore a `ZipWriter` is
//! closed after [`ENTRIES_PER_WRITER`] entries, its part of the central directory is kept as
//! encoded (about 60 bytes and the name for each entry), and the next `ZipWriter` continues
//! at the same offset. Only the records after the central directory are encoded here.
//!
//! Sizes and checksums are in the local headers, never in data descriptors, because some
//! readers refuse data descriptors for stored entries.

use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::Offset;
use zip::read::ZipArchive;
use zip::result::ZipError;
use zip::write::{FileOptions, FullFileOptions, PreparedZipFile, ZipWriter};
use zip::{CompressionMethod, DateTime, System};

use crate::error::{Error, ErrorKind, Result};
use crate::git::object::EntryMode;

const ENTRIES_PER_WRITER: usize = 1024;

/// Growth of the buffer of waiting bytes, in bytes; doubling would waste megabytes.
const GROWTH_BYTES: usize = 1024 * 1024;

/// Compression level of deflate, 0 to 9, unless a request has another.
pub(super) const DEFLATE_LEVEL: u32 = 6;

/// The extra field of the modification time, "UT".
const TIME_FIELD: [u8; 2] = *b"UT";

/// Temporary id of the "UT" field until a header is in the stream, because the crate drops
/// the extra fields it knows when it copies an entry without unpacking it.
const TIME_FIELD_IN_CRATE: [u8; 2] = *b"bl";

/// Maximum values of a central directory without the 64-bit records.
const MAX_ENTRIES_32: u64 = 0xffff;
const MAX_OFFSET_32: u64 = 0xffff_ffff;

/// Size from which an entry needs sizes of 64 bits, in bytes.
const MAX_SIZE_32: u64 = 0xffff_ffff;

/// Fields that all entries of an archive share.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryDefaults {
    seconds: i64,
    dos: DateTime,
    // 0 stores.
    level: u32,
}

/// The content of an entry, compressed: a zip of one entry without a name.
#[derive(Debug, Clone)]
pub(super) struct PackedEntry(Box<[u8]>);

impl EntryDefaults {
    /// Dates entries at `seconds` since the epoch, in UTC because DOS fields have no zone.
    /// DOS times range from 1980 to 2107; other times are clamped.
    pub(super) fn new(seconds: i64, level: u32) -> Self {
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
            level,
        }
    }

    /// Returns the compression level; 0 stores.
    pub(super) fn level(self) -> u32 {
        self.level
    }

    /// Returns the options of a header, equal to those that git writes.
    fn options(self, mode: EntryMode) -> ZipResult<FullFileOptions<'static, 'static>> {
        let (system, attributes) = match mode {
            EntryMode::Blob => (System::Dos, 0),
            EntryMode::BlobExecutable => (System::Unix, 0o100_755 << 16),
            EntryMode::Link => (System::Unix, 0o120_777 << 16),
            EntryMode::Tree | EntryMode::Commit => (System::Dos, 0x10),
        };
        let mut options = FileOptions::default()
            .system(system)
            .external_attributes(attributes)
            .last_modified_time(self.dos);
        // Flag 1: only the modification time is present, as 32 bits.
        let mut extra = [1, 0, 0, 0, 0];
        extra[1..].copy_from_slice(&self.seconds.to_le_bytes()[..4]);
        options.add_extra_field(u16::from_le_bytes(TIME_FIELD_IN_CRATE), extra, false)?;
        Ok(options)
    }
}

type ZipResult<T> = std::result::Result<T, ZipError>;

impl PackedEntry {
    /// Deflates `bytes`, or stores them where that is shorter, as git does.
    pub(super) fn new(bytes: &[u8], mode: EntryMode, defaults: EntryDefaults) -> Result<Self> {
        let pack = |method| Self::with_method(bytes, mode, defaults, method);
        let stores = mode == EntryMode::Link || bytes.is_empty() || defaults.level == 0;
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
        mode: EntryMode,
        defaults: EntryDefaults,
        method: CompressionMethod,
    ) -> ZipResult<Self> {
        let deflates = method == CompressionMethod::Deflated;
        let options = defaults
            .options(mode)?
            .compression_method(method)
            .compression_level(deflates.then_some(defaults.level.into()));
        // Rarely exceeded; pages that are not written take no memory.
        let capacity = bytes.len() + 512;
        let mut writer = ZipWriter::new(Cursor::new(Vec::with_capacity(capacity)));
        writer.start_file("", options)?;
        writer.write_all(bytes)?;
        Ok(Self(writer.finish()?.into_inner().into_boxed_slice()))
    }

    /// Returns the size in memory, in bytes.
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
    // The central directory, in pieces as long as they are.
    directory: Vec<Box<[u8]>>,
    // Sizes of streamed entries, by number of the entry, which the writer does not know.
    streamed: Vec<(usize, EntrySizes)>,
    defaults: EntryDefaults,
}

impl ZipEntryWriter {
    pub(super) fn new(defaults: EntryDefaults) -> Self {
        let stream = Stream::default();
        Self {
            writer: ZipWriter::new(stream.clone()),
            stream,
            entries_of_writer: 0,
            entries: 0,
            directory: Vec::new(),
            streamed: Vec::new(),
            defaults,
        }
    }

    /// Adds a folder or submodule; `path` ends in a slash.
    pub(super) fn add_folder(&mut self, path: &str) -> Result<()> {
        let options = self
            .defaults
            .options(EntryMode::Tree)
            .map_err(|error| refused(path, error))?
            .compression_method(CompressionMethod::Stored);
        let start = self.waiting();
        // A prepared file is written at once, whereas the header of a started file is patched
        // later.
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

    /// Adds the header of an entry. The content, whose checksum and sizes are `sizes`, must
    /// be added by [`append`](Self::append) before the next entry.
    pub(super) fn add_header(
        &mut self,
        path: &str,
        mode: EntryMode,
        sizes: EntrySizes,
    ) -> Result<()> {
        if sizes.size >= MAX_SIZE_32 || sizes.packed_size >= MAX_SIZE_32 {
            let path = path.escape_debug();
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("`{path}` has {} bytes; the maximum is 4 GiB", sizes.size),
            ));
        }
        let method = if sizes.deflated {
            CompressionMethod::Deflated
        } else {
            CompressionMethod::Stored
        };
        // The header of an empty entry differs only in checksum and sizes.
        let empty = PackedEntry::with_method(b"", mode, self.defaults, method).map_err(defect)?;
        let mut source = ZipArchive::new(Cursor::new(&*empty.0)).map_err(defect)?;
        let file = source.by_index_raw(0).map_err(defect)?;
        let start = self.waiting();
        self.writer
            .raw_copy_file_rename(file, path)
            .map_err(|error| refused(path, error))?;
        let patched = self.stream.with(|state| {
            let header = &mut state.bytes[start..];
            let length = 30 + short(header, 26)? + short(header, 28)?;
            sizes.write_to(header.get_mut(14..26)?);
            let removed = header.len().checked_sub(length)?;
            state.bytes.truncate(start + length);
            state.position -= removed as u64;
            Some(())
        });
        patched.ok_or_else(no_header)?;
        self.streamed.push((self.entries_of_writer, sizes));
        self.added(start)
    }

    /// Adds the next bytes of the content of an entry.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.stream.write_all(bytes);
        written.map_err(|error| defect(error.into()))
    }

    /// Returns the number of bytes that wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.stream.with(|state| state.bytes.len())
    }

    /// Takes up to `max_bytes` of the waiting bytes.
    pub(super) fn take(&mut self, max_bytes: usize) -> Vec<u8> {
        self.stream.with(|state| {
            if state.bytes.len() <= max_bytes {
                return std::mem::take(&mut state.bytes);
            }
            // A copy, because a part must not keep the capacity of the whole buffer.
            let part = state.bytes[..max_bytes].to_vec();
            state.bytes.drain(..max_bytes);
            part
        })
    }

    /// Ends the archive with `comment`; returns the size of the archive in bytes.
    pub(super) fn finish(&mut self, comment: &str) -> Result<u64> {
        self.close_writer()?;
        let start = self.stream.with(|state| state.position);
        let directory = std::mem::take(&mut self.directory);
        let length = directory.iter().map(|piece| piece.len() as u64).sum();
        let end = end_of_directory(self.entries, start, length, comment);
        // Each piece is freed as it is written, because the buffer grows by it.
        let pieces = directory.into_iter().map(<[u8]>::into_vec);
        let mut pieces = pieces.chain([end]);
        let written = pieces.try_for_each(|piece| self.stream.write_all(&piece));
        written.map_err(|error| defect(error.into()))?;
        Ok(self.stream.with(|state| state.position))
    }

    /// Counts the entry whose local header starts at `start` of the waiting bytes.
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

    /// Closes the writer, and moves its central directory from the stream to `directory`.
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
            if let Some((_, sizes)) = streamed.next_if(|(streamed, _)| *streamed == number) {
                sizes.write_to(record.get_mut(16..28).ok_or_else(no_header)?);
            }
            length += directory_record(record).ok_or_else(no_time)?;
        }
        self.directory.push(tail[..length].into());
        Ok(())
    }
}

/// Corrects the record of the central directory at the start of `bytes`; returns its length.
fn directory_record(bytes: &mut [u8]) -> Option<usize> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    name_time_field(bytes, 28, 46)?;
    Some(46 + short(bytes, 28)? + short(bytes, 30)? + short(bytes, 32)?)
}

/// Sets the id of the time field, in a header with the length of the entry's name at
/// `length_at` and the name at `name_at`.
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

/// Checksum and sizes of an entry, as its headers record them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntrySizes {
    pub(super) crc: u32,
    pub(super) size: u64,
    pub(super) packed_size: u64,
    pub(super) deflated: bool,
}

impl EntrySizes {
    /// Encodes checksum and sizes into the twelve bytes of a header.
    fn write_to(&self, fields: &mut [u8]) {
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        fields[..4].copy_from_slice(&self.crc.to_le_bytes());
        fields[4..8].copy_from_slice(&narrow(self.packed_size));
        fields[8..].copy_from_slice(&narrow(self.size));
    }
}

fn no_header() -> Error {
    Error::new(ErrorKind::Internal, "a header of the zip is truncated")
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
        format!("`{}` cannot be an entry of a zip", path.escape_debug()),
    )
    .with_source(error)
}

fn defect(error: ZipError) -> Error {
    Error::new(ErrorKind::Internal, "the zip cannot be written").with_source(error)
}

/// The output of a zip writer: bytes that wait to be taken, at a position that only grows.
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
            if state.bytes.len() > GROWTH_BYTES {
                let free = state.bytes.capacity() - state.bytes.len();
                if free < bytes.len() {
                    state.bytes.reserve_exact(bytes.len().max(GROWTH_BYTES));
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
                "written bytes cannot be changed",
            )),
        }
    }
}
