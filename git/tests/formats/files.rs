//! Text files, bundles and loose objects against git.

use branchline_git::HashKind;
use branchline_git::bundle::Header;
use branchline_git::dumb_http::{
    parse_head, parse_info_packs, parse_info_refs, write_head, write_info_refs,
};
use branchline_git::object::{ObjectKind, decode_loose, encode_loose, id_of, loose_path};
use branchline_git::refs::{Head, RefValue, Refs};

use super::pack::only_pack;
use branchline_test_support::repo::Repo;

#[test]
fn dumb_files_are_those_of_update_server_info() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let repo = Repo::with_history(hash, 20, 5);
        repo.git(&["update-ref", "refs/heads/a-b", "main"]);
        repo.git(&["update-ref", "refs/heads/a/b", "main"]);
        repo.git(&["update-ref", "refs/heads/ünï", "main"]);
        repo.git(&["repack", "-adq"]);
        repo.git(&["update-server-info"]);
        let read = |name: &str| std::fs::read(repo.path.join(name)).unwrap();

        let mut refs = Refs::new();
        for line in repo.refs().lines() {
            let (id, name) = line.split_once(' ').unwrap();
            let id = repo.id(id);
            let peeled = repo.id(&format!("{id}^{{}}"));
            let peeled = (peeled != id).then_some(peeled);
            refs.insert(name.into(), RefValue { id, peeled });
        }
        let file = read("info/refs");
        assert_eq!(write_info_refs(&refs), file);
        assert_eq!(parse_info_refs(&file).unwrap(), refs);

        let (_, index) = only_pack(&repo);
        let file = read("objects/info/packs");
        assert_eq!(parse_info_packs(&file).unwrap(), [index.pack_id()]);

        let head = Head::Symbolic("refs/heads/main".into());
        assert_eq!(write_head(&head), read("HEAD"));
        assert_eq!(parse_head(&read("HEAD")).unwrap(), head);
        assert_eq!(parse_head(b"ref: refs/heads/main").unwrap(), head);
        repo.git(&["update-ref", "--no-deref", "HEAD", "main"]);
        let head = Head::Detached(repo.id("main"));
        assert_eq!(write_head(&head), read("HEAD"));
        assert_eq!(parse_head(&read("HEAD")).unwrap(), head);
    }
}

#[test]
fn an_empty_repository_has_empty_files() {
    let repo = Repo::new(HashKind::Sha1);
    repo.git(&["update-server-info"]);
    let read = |name: &str| std::fs::read(repo.path.join(name)).unwrap();
    assert_eq!(write_info_refs(&Refs::new()), read("info/refs"));
    let packs = parse_info_packs(&read("objects/info/packs")).unwrap();
    assert!(packs.is_empty(), "{packs:?}");
}

#[test]
fn malformed_dumb_files_are_corrupt() {
    let id = "1".repeat(40);
    for text in [
        format!("{id} refs/heads/x\n"),
        format!("{id}\trefs/heads/x\n{id}\trefs/heads/x\n"),
        format!("{id}\trefs/tags/x^{{}}\n"),
        format!("{id}\trefs/tags/x\n{id}11\trefs/tags/y\n"),
        format!("{}\trefs/tags/x\n{id}\trefs/tags/y\n", "1".repeat(64)),
    ] {
        assert!(parse_info_refs(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(parse_info_packs(b"P ../../x.pack\n").is_err());
    assert!(parse_head(b"ref: ../x").is_err());
    assert!(parse_head(b"").is_err());
}

#[test]
fn bundle_headers_are_gits() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let repo = Repo::with_history(hash, 20, 5);
        let revisions = ["main", "v1", "^main~3", "HEAD"];
        for version in ["2", "3"] {
            if hash == HashKind::Sha256 && version == "2" {
                continue;
            }
            let version = format!("--version={version}");
            let mut args = vec!["bundle", "create", "-q", &version, "-"];
            args.extend(revisions);
            let bundle = repo.bytes(&args);
            let (header, length) = Header::parse(&bundle).unwrap().unwrap();
            assert!(bundle[length..].starts_with(b"PACK"));
            assert_eq!(header.hash, hash);
            assert_eq!(header.prerequisites[0].0, repo.id("main~3"));
            for cut in 0..length {
                assert_eq!(Header::parse(&bundle[..cut]).unwrap(), None, "{cut} bytes");
            }
            let heads: Vec<_> = header
                .refs
                .iter()
                .map(|(id, name)| format!("{id} {name}"))
                .collect();
            let written = header.write().unwrap();
            if hash == HashKind::Sha256 || version == "--version=2" {
                assert_eq!(written, &bundle[..length], "we write what git writes");
            }
            let file = repo.path.join("ours.bundle");
            std::fs::write(&file, [&written, &bundle[length..]].concat()).unwrap();
            let file = file.to_str().unwrap();
            assert_eq!(repo.git(&["bundle", "list-heads", file]), heads.join("\n"));
            repo.git(&["bundle", "verify", "-q", file]);
        }
    }
}

#[test]
fn malformed_bundle_headers_are_corrupt() {
    let id = "1".repeat(40);
    let long = vec![b'x'; 100];
    for text in [
        b"# v4 git bundle\n".to_vec(),
        b"PACK\n".to_vec(),
        long,
        b"# v2 git bundle\n@object-format=sha1\n".to_vec(),
        b"# v3 git bundle\n@object-format=md5\n".to_vec(),
        b"# v3 git bundle\n@unheard-of\n".to_vec(),
        format!("# v3 git bundle\n@object-format=sha256\n{id} HEAD\n").into_bytes(),
        format!("# v2 git bundle\n{id}\n").into_bytes(),
    ] {
        assert!(
            Header::parse(&text).is_err(),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn loose_objects_are_read_by_git_and_gits_by_us() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let repo = Repo::new(hash);
        let content = b"some content\n".repeat(100);
        let id = id_of(hash, ObjectKind::Blob, &content).unwrap();
        let path = repo.path.join("objects").join(loose_path(id));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, encode_loose(ObjectKind::Blob, &content)).unwrap();
        assert_eq!(repo.bytes(&["cat-file", "blob", &id.to_string()]), content);
        let written = repo.input(&["hash-object", "-w", "--stdin"], b"other\n");
        let id = repo.id(std::str::from_utf8(&written).unwrap().trim());
        let bytes = std::fs::read(repo.path.join("objects").join(loose_path(id))).unwrap();
        let read = decode_loose(id, &bytes, 1000).unwrap();
        assert_eq!(read, (ObjectKind::Blob, b"other\n".to_vec()));
    }
}
