//! The one pack of a repository.

use branchline_git::pack::Index;
use bytes::Bytes;

use super::repo::Repo;

impl Repo {
    /// Reads the pack of a repository that has one pack, and its index.
    pub(crate) fn only_pack(&self) -> (Bytes, Index) {
        let folder = self.path.join("objects/pack");
        let mut files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let pack = files
            .find(|path| path.extension().is_some_and(|e| e == "pack"))
            .unwrap();
        let index = std::fs::read(pack.with_extension("idx")).unwrap();
        let index = Index::parse(self.hash, index.into()).unwrap();
        (std::fs::read(pack).unwrap().into(), index)
    }
}
