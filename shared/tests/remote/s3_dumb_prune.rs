//! Objects that no ref needs are removed, and never those that a push needs that runs meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use branchline_core::git::HashKind;
use branchline_core::git::ObjectId;
use branchline_core::git::pack::{Index, PackLimits};
use branchline_core::remote::maintenance::Garbage;
use branchline_core::remote::s3_dumb::DumbOptions;
use branchline_core::remote::{
    IncomingOptions, IncomingPack, Leftovers, Push, RefOutcome, RefUpdate, RefValue, Remote as _,
};
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Failing, FaultPlan, When};
use branchline_core::{ErrorKind, Result};
use branchline_test_support::repo::Repo;

use crate::remote::s3_dumb_fixture::{DumbFixture, Judge, grow, mirror_options};
use crate::remote::s3_dumb_packs::with_noise;

const DAY: i64 = 24 * 60 * 60;

/// Adds a commit to a branch, with a file of its own: three objects.
fn commit(repo: &Repo, branch: &str, parent: &str, date: u32) -> ObjectId {
    let input = format!(
        "commit refs/heads/{branch}\ncommitter C <c@x> {date} +0000\ndata 1\nx\nfrom {parent}^0\n\
         M 100644 inline {branch}\ndata 10\n{date:010}\n"
    );
    repo.input(&["fast-import", "--quiet", "--force"], input.as_bytes());
    repo.id(&format!("refs/heads/{branch}"))
}

async fn collect(world: &DumbFixture) -> Result<Garbage> {
    collect_with(world, world.options()).await
}

async fn collect_with(world: &DumbFixture, options: DumbOptions) -> Result<Garbage> {
    let remote = world.remote_with(options);
    let maintenance = remote.maintenance().expect("packs need upkeep");
    maintenance.collect_garbage(Leftovers::Abandoned).await
}

/// The objects of listed packs.
fn stored(world: &DumbFixture) -> BTreeSet<String> {
    let mut stored = BTreeSet::new();
    for pack in world.packs() {
        let index = world.file(&format!("objects/pack/pack-{pack}.idx"));
        let index = index.expect("a listed pack has its index");
        let index = Index::parse(HashKind::Sha1, index).unwrap();
        stored.extend(index.ids().map(|id| id.to_string()));
    }
    stored
}

/// The objects that refs need, by git.
fn needed(repo: &Repo) -> BTreeSet<String> {
    let listed = repo.git(&["rev-list", "--objects", "--no-object-names", "--all"]);
    let mut needed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let tags = repo.git(&["for-each-ref", "--format=%(objectname)"]);
    needed.extend(tags.lines().map(str::to_owned));
    needed
}

/// A bucket with the unreachable commit `gone`, which the repository still has.
async fn with_garbage() -> (DumbFixture, Repo, ObjectId) {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 12, 4);
    repo.git(&["tag", "--annotate", "v9", "--message=nine", "main~3"]);
    let gone = commit(&repo, "gone", "refs/heads/main~1", 1_600_009_000);
    world.mirror(&repo).await;
    repo.git(&["update-ref", "-d", "refs/heads/gone"]);
    world.mirror(&repo).await;
    (world, repo, gone)
}

#[tokio::test]
async fn objects_that_no_ref_needs_are_removed_after_the_grace_period() {
    let (world, repo, gone) = with_garbage().await;
    let judge = Judge::new(&repo);
    assert!(stored(&world).contains(&gone.to_string()));
    let garbage = collect(&world).await.unwrap();
    assert_eq!(garbage.pruned_objects, 0, "a running push may need them");
    world.advance(DAY + 10);
    let old = world.packs();
    let garbage = collect(&world).await.unwrap();
    assert_eq!((garbage.pruned_objects, garbage.packs), (3, 1));
    assert_eq!(stored(&world), needed(&repo));
    world.assert_complete(&judge);
    world.assert_clones_equal(&repo);
    // Readers of the old list find its packs for another day.
    let file = |id: &ObjectId| format!("objects/pack/pack-{id}.pack");
    assert!(old.iter().all(|id| world.file(&file(id)).is_some()));
    let writes = world.store.journal().len();
    let again = collect(&world).await.unwrap();
    assert_eq!((again.pruned_objects, again.merged_packs), (0, 0));
    assert_eq!(world.store.journal().len(), writes, "nothing is written");
    world.advance(DAY + 10);
    collect(&world).await.unwrap();
    assert!(old.iter().all(|id| world.file(&file(id)).is_none()));
    world.assert_clones_equal(&repo);
    // Mirrors go on as before.
    for round in 0..4 {
        grow(&repo, 20 + round);
        world.mirror(&repo).await;
        world.assert_clones_equal(&repo);
    }
}

#[tokio::test]
async fn a_large_pack_is_rewritten_in_parts_only_if_it_has_objects_that_are_not_needed() {
    let world = DumbFixture::new();
    let repo = with_noise(12 << 20);
    let options = || DumbOptions {
        memory: 1 << 20,
        largest_merged: 2 << 20,
        ..world.options()
    };
    let mirror = async || {
        let how = mirror_options(true);
        world.mirror_with(&repo, options(), how).await;
    };
    let gone = commit(&repo, "gone", "refs/heads/main", 1_600_009_000);
    mirror().await;
    repo.git(&["update-ref", "-d", "refs/heads/gone"]);
    mirror().await;
    world.advance(DAY + 100);
    let before = world.store.traffic().calls().len();
    let garbage = collect_with(&world, options()).await.unwrap();
    assert_eq!((garbage.pruned_objects, garbage.packs), (3, 1));
    assert!(!stored(&world).contains(&gone.to_string()));
    assert_eq!(stored(&world), needed(&repo));
    let calls = world.store.traffic().calls().split_off(before);
    let parts = calls.iter().filter(|call| **call == "upload_part");
    assert_eq!(parts.count(), 3, "of 5 MiB each");
    assert!(world.store.uploads().is_empty());
    world.assert_complete(&Judge::new(&repo));
    world.assert_clones_equal(&repo);

    // A small pack is pruned, and the large one has only what is needed.
    let large = world.packs()[0];
    commit(&repo, "gone", "refs/heads/main", 1_600_010_000);
    grow(&repo, 30);
    mirror().await;
    repo.git(&["update-ref", "-d", "refs/heads/gone"]);
    mirror().await;
    world.advance(DAY + 100);
    let garbage = collect_with(&world, options()).await.unwrap();
    assert_eq!((garbage.pruned_objects, garbage.packs), (3, 2));
    assert!(world.packs().contains(&large));
    assert_eq!(stored(&world), needed(&repo));
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn a_repository_without_refs_loses_all_objects() {
    let (world, repo, _) = with_garbage().await;
    for name in repo.git(&["for-each-ref", "--format=%(refname)"]).lines() {
        repo.git(&["update-ref", "-d", name]);
    }
    world.put("info/refs", "").await;
    world.advance(DAY + 10);
    let garbage = collect(&world).await.unwrap();
    assert!(garbage.pruned_objects > 30, "{garbage:?}");
    assert!(world.packs().is_empty(), "no object is left");
    grow(&repo, 1);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    world.mirror(&repo).await;
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn nothing_is_removed_while_an_object_is_missing() {
    let (world, repo, _) = with_garbage().await;
    let missing = "1".repeat(40);
    let refs = format!("{}{missing}\trefs/heads/broken\n", world.text("info/refs"));
    world.put("info/refs", refs).await;
    world.advance(DAY + 10);
    let before = stored(&world);
    let garbage = collect(&world).await.unwrap();
    assert_eq!(garbage.pruned_objects, 0);
    assert_eq!(stored(&world), before);
    drop(repo);
}

/// A push that runs at the same time.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// The pack depends on unreachable objects that are stored.
    OntoGarbage,
    /// A ref gets an unreachable commit that is stored, without a pack.
    Resurrecting,
    /// The pack is the very one whose commit is unreachable now.
    Repeating,
    /// An ordinary one.
    Growing,
}

impl Case {
    const ALL: [Self; 4] = [
        Self::OntoGarbage,
        Self::Resurrecting,
        Self::Repeating,
        Self::Growing,
    ];
}

/// A bucket, its repository, and the push.
struct Setting {
    world: DumbFixture,
    repo: Repo,
    name: &'static str,
    id: ObjectId,
    pack: Option<Vec<u8>>,
}

impl Setting {
    async fn new(case: Case) -> Self {
        let (world, repo, gone) = with_garbage().await;
        let mut pack = None;
        let main = repo.git(&["rev-parse", "main"]);
        let mut make = |want: &str, haves: &[&str]| {
            let haves: Vec<String> = haves.iter().map(|have| format!("^{have}\n")).collect();
            let haves = haves.concat();
            let input = format!("{want}\n{haves}");
            let arguments = ["pack-objects", "--quiet", "--revs", "--stdout"];
            pack = Some(repo.input(&arguments, input.as_bytes()));
        };
        let hex = gone.to_string();
        let (name, id) = match case {
            Case::OntoGarbage => {
                let id = commit(&repo, "onto", &hex, 1_600_009_100);
                make(&id.to_string(), &[&hex, &main]);
                ("refs/heads/onto", id)
            }
            Case::Resurrecting => ("refs/heads/back", gone),
            Case::Repeating => {
                make(&hex, &[&main]);
                ("refs/heads/back", gone)
            }
            Case::Growing => {
                let id = commit(&repo, "more", &main, 1_600_009_200);
                make(&id.to_string(), &[&main]);
                ("refs/heads/more", id)
            }
        };
        let setting = Self {
            world,
            repo,
            name,
            id,
            pack,
        };
        if let Case::Repeating = case {
            // It was pushed before, and its branch was deleted.
            setting.push().await.unwrap();
            let deletion = setting.change(Some(setting.id), None);
            let mut target = setting.world.remote().target().await.unwrap();
            target.push(deletion).await.unwrap();
        }
        setting.world.advance(DAY + 10);
        setting
    }

    fn change(&self, old: Option<ObjectId>, new: Option<ObjectId>) -> Push {
        Push {
            changes: vec![RefUpdate {
                name: self.name.into(),
                old,
                new: new.map(|id| RefValue { id, peeled: None }),
            }],
            ..Push::default()
        }
    }

    async fn push(&self) -> Result<()> {
        let mut target = self.world.remote().target().await?;
        let pack = self.pack.clone().map(|bytes| {
            let options = IncomingOptions {
                hash: HashKind::Sha1,
                limits: PackLimits::default(),
                scanner: None,
                commits: None,
            };
            let body = futures_util::stream::once(async { Ok(bytes.into()) });
            IncomingPack::new(Box::pin(body), &options)
        });
        let push = Push {
            pack,
            ..self.change(None, Some(self.id))
        };
        let report = target.push(push).await?;
        assert_eq!(report.refs, [(self.name.into(), RefOutcome::Done)]);
        Ok(())
    }

    fn has_ref(&self) -> bool {
        let line = format!("{}\t{}\n", self.id, self.name);
        self.world.text("info/refs").contains(&line)
    }
}

/// Runs a future to its end on its own thread.
fn run_meanwhile<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work());
    });
    thread.join().expect("the other client ends");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outer {
    Push,
    Collection,
}

/// Runs a collection before each request of a push, or the other way round: the repository is
/// complete at each request, and a push that fails succeeds when it is repeated.
async fn interleave(case: Case, outer: Outer) {
    for nth in 1.. {
        let setting = Arc::new(Setting::new(case).await);
        let world = setting.world.clone();
        let judge = Arc::new(Judge::new(&setting.repo));
        let traffic = world.store.traffic();
        let before = traffic.calls().len();
        let other = Arc::clone(&setting);
        traffic.before_call(before + nth, move || {
            run_meanwhile(async move || match outer {
                Outer::Push => drop(collect(&other.world).await),
                Outer::Collection => drop(other.push().await),
            });
        });
        for call in 1..80 {
            let (at, judge) = (world.clone(), Arc::clone(&judge));
            traffic.before_call(before + call, move || at.assert_complete(&judge));
        }
        let case = format!("{case:?}, {outer:?}, before request {nth}");
        match outer {
            Outer::Push => match setting.push().await {
                Ok(()) => assert!(setting.has_ref(), "{case}"),
                Err(error) => {
                    let kinds = [ErrorKind::Conflict, ErrorKind::Corrupt];
                    assert!(kinds.contains(&error.kind()), "{case}: {}", error.report());
                }
            },
            Outer::Collection => match collect(&world).await {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{case}"),
            },
        }
        let calls = traffic.calls().len() - before;
        world.assert_complete(&judge);
        if calls < nth {
            // The other client has not run.
            assert!(nth > 4, "{case}: {calls} requests");
            return;
        }
        // A client sends everything that no ref reaches, and so does a mirror.
        if !setting.has_ref() {
            let main = setting.repo.git(&["rev-parse", "main"]);
            let id = setting.id.to_string();
            let input = format!("{id}\n^{main}\n");
            let arguments = ["pack-objects", "--quiet", "--revs", "--stdout"];
            let whole = Setting {
                pack: Some(setting.repo.input(&arguments, input.as_bytes())),
                world: world.clone(),
                repo: Repo::new(HashKind::Sha1),
                name: setting.name,
                id: setting.id,
            };
            whole.push().await.unwrap_or_else(|error| {
                panic!("{case}: {}", error.report());
            });
            world.assert_complete(&judge);
        }
        // Later collections delete the replaced packs.
        for _ in 0..3 {
            world.advance(DAY + 10);
            collect(&world).await.unwrap();
            world.assert_complete(&judge);
        }
    }
}

/// "`gc` never removes an object that a push needs which runs meanwhile."
#[tokio::test]
async fn a_push_during_which_objects_are_removed_is_complete_or_fails() {
    for case in Case::ALL {
        interleave(case, Outer::Push).await;
    }
}

#[tokio::test]
async fn objects_are_removed_during_which_a_push_is_complete() {
    for case in Case::ALL {
        interleave(case, Outer::Collection).await;
    }
}

#[tokio::test]
async fn a_collection_that_fails_at_any_request_leaves_a_complete_repository() {
    for nth in 1.. {
        for when in [When::Before, When::After] {
            let (world, repo, _) = with_garbage().await;
            let judge = Judge::new(&repo);
            world.advance(DAY + 10);
            let script = FaultPlan::new();
            script.fail(nth, ErrorKind::AccessDenied, when);
            let failing = Failing::new(Arc::clone(&world.store), &script);
            let store = Arc::new(failing) as Arc<dyn ObjectStore>;
            let remote = world.remote_over(store, world.options());
            let maintenance = remote.maintenance().unwrap();
            let collected = maintenance.collect_garbage(Leftovers::Abandoned).await;
            world.assert_complete(&judge);
            let again = collect(&world).await.unwrap();
            let first = collected
                .as_ref()
                .map_or(0, |garbage| garbage.pruned_objects);
            assert!(first + again.pruned_objects <= 3, "{nth} {when:?}");
            assert_eq!(stored(&world), needed(&repo), "{nth} {when:?}");
            world.assert_clones_equal(&repo);
            if script.calls().len() < nth {
                assert!(nth > 6);
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_pack_whose_files_are_being_deleted_is_pushed_under_another_id() {
    let setting = Setting::new(Case::Repeating).await;
    let world = &setting.world;
    let judge = Judge::new(&setting.repo);
    let before: BTreeSet<ObjectId> = world.packs().into_iter().collect();
    collect(world).await.unwrap();
    let after: BTreeSet<ObjectId> = world.packs().into_iter().collect();
    assert_ne!(before, after, "packs were replaced");
    // Longer than half of the grace period: a client with the list of now may delete the files.
    world.advance(DAY / 2 + 60);
    setting.push().await.unwrap();
    let pushed: Vec<ObjectId> = (world.packs().into_iter())
        .filter(|id| !after.contains(id))
        .collect();
    assert!(pushed.iter().all(|id| !before.contains(id)), "{pushed:?}");
    world.assert_complete(&judge);
    for _ in 0..3 {
        world.advance(DAY);
        collect(world).await.unwrap();
        world.assert_complete(&judge);
        assert!(setting.has_ref());
    }
}
