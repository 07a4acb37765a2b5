//! Archives of repositories with hostile `.gitattributes`, `export-subst` and names.

use branchline_core::ErrorKind;
use branchline_core::archive::{ArchiveRequest, WriteSink, write};
use branchline_core::codecommit::CodeCommit as _;
use branchline_core::git::object::Signature;
use branchline_core::name::RepositoryName;
use branchline_core::testkit::{CommitText, Entry, MemoryCodeCommit};

use crate::block_on;
use crate::byte_source::ByteSource;

/// The separator between the parts of the input of [`archive`].
pub const NEXT: &[u8] = b"\n=>\n";

/// Archives a small tree. The parts of the input: attributes of the root, attributes of a
/// folder, a file, the date, the author's name, and the message.
pub fn archive(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let attributes = choices.until(NEXT);
    let nested = choices.until(NEXT);
    let content = choices.until(NEXT);
    let date = String::from_utf8_lossy(choices.until(NEXT)).into_owned();
    let name = String::from_utf8_lossy(choices.until(NEXT)).into_owned();
    let message = String::from_utf8_lossy(choices.rest()).into_owned();
    let codecommit = MemoryCodeCommit::new();
    let repository = RepositoryName::new("r").expect("because it is a name");
    let person = Signature {
        name,
        email: "a@example.com".into(),
        date,
    };
    let text = CommitText {
        message,
        author: person.clone(),
        committer: person,
    };
    let changes = [
        (".gitattributes", Entry::file(attributes)),
        ("a.txt", Entry::file(content)),
        ("sub/.gitattributes", Entry::file(nested)),
        ("sub/b.txt", Entry::file(content)),
        ("sub/link", Entry::symlink("../a.txt")),
    ];
    let id = codecommit.commit_as(&repository, "main", &changes, &text);
    let sink = WriteSink::new(Vec::new());
    let written = block_on(async {
        let commit = codecommit
            .get_commit(&repository, id)
            .await
            .expect("because it was made");
        let request = ArchiveRequest::new(commit);
        write(&codecommit, &repository, &request, &sink).await
    });
    match written {
        Ok(summary) => {
            let zip = sink.into_inner();
            assert_eq!(
                zip.len() as u64,
                summary.size_bytes,
                "the summary has the size of the zip"
            );
            assert!(zip.starts_with(b"PK"), "the file starts as a zip");
        }
        Err(error) => assert!(
            matches!(
                error.kind(),
                ErrorKind::Config | ErrorKind::Corrupt | ErrorKind::FileTooLarge
            ),
            "the repository is at fault: {}",
            error.report()
        ),
    }
}
