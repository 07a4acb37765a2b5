//! Pushes one commit to an S3 bundle remote when standard input ends, and prints `ok` or
//! `conflict`: a writer of a race that can be killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_core::aws::{Aws, AwsOverrides};
use branchline_core::git::ObjectId;
use branchline_core::name::{BucketName, KeyPrefix};
use branchline_core::pack_cache::PackCache;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::client::SdkObjectStore;
use branchline_tests::bundle_push::push_one;
use clap::Parser;

/// Pushes one commit; AWS is configured by its environment variables.
#[derive(Debug, Parser)]
struct Arguments {
    /// The repository that has the commit.
    #[arg(long)]
    repository: PathBuf,
    /// The remote's bucket.
    #[arg(long)]
    bucket: String,
    /// The remote's prefix.
    #[arg(long)]
    prefix: String,
    /// The ref, in full.
    #[arg(long = "ref")]
    name: String,
    /// The commit that the ref is expected to name.
    #[arg(long)]
    old: String,
    /// The commit that the ref names after the push.
    #[arg(long)]
    new: String,
    /// Age at which a lock counts as abandoned, in seconds.
    #[arg(long, default_value_t = 60)]
    lock_lifetime_seconds: u64,
    /// The folder for copies of packs, which other writers may use, too.
    #[arg(long)]
    copies: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let aws = Aws::load(AwsOverrides::default()).await?;
    let store = Retrying::new(SdkObjectStore::new(&aws), RetryPolicy::new(16));
    let copies = arguments
        .copies
        .as_deref()
        .map(PackCache::open)
        .transpose()?;
    let options = BundleOptions {
        pack_cache: copies.map(Arc::new),
        lock_lifetime: Duration::from_secs(arguments.lock_lifetime_seconds),
        ..BundleOptions::default()
    };
    let bucket = BucketName::new(&arguments.bucket)?;
    let prefix = KeyPrefix::new(&arguments.prefix)?;
    let remote = BundleRemote::new(Arc::new(store), bucket, prefix, options);
    let id = |hex: &str| {
        ObjectId::from_hex(hex.as_bytes())
            .context("an object id of 40 or 64 hex digits is expected")
    };
    let (old, new) = (id(&arguments.old)?, id(&arguments.new)?);
    // The race starts here: setting up the client is not part of it.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;
    let done = push_one(&remote, &arguments.repository, &arguments.name, old, new).await?;
    match done {
        Ok(()) => println!("ok"),
        Err(why) => {
            eprintln!("{why}");
            println!("conflict");
        }
    }
    Ok(())
}
