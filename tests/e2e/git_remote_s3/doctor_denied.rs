//! `branchline remote doctor` on a bucket that may not be listed.

use anyhow::Result;
use branchline_dev::s3::policy::Policy;
use serde_json::json;

use super::environment::{BUCKET, Terminal, url};

#[tokio::test]
async fn a_bucket_that_may_not_be_listed_is_one_message_that_names_the_permission() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    for layout in ["bundle", "dumb"] {
        terminal.init_remote(layout, &url(layout)).await?;
        terminal.push(&url(layout), &["main"]).await?.done();
    }
    let text = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:ListBucket",
            "Resource": format!("arn:aws:s3:::{BUCKET}"),
        }],
    });
    let policy = Policy::parse(&text.to_string());
    let policy = policy.map_err(|error| anyhow::anyhow!("{error}"))?;
    let store = terminal.server().store();
    store.set_policy(BUCKET, Some(policy));
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        for options in [&["--json"][..], &[], &["--fix"]] {
            let arguments = [&["remote", "doctor"], options, &[&url]].concat();
            let run = terminal.run("branchline", &arguments).await?;
            assert_eq!(run.status, Some(1), "{layout} {options:?}: {run:?}");
            assert_eq!(run.stdout, "", "{layout} {options:?}");
            let said = run.stderr;
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.starts_with("error: "), "{said}");
            let names_it = said.contains("s3:ListBucket") && said.contains("hint: ");
            assert!(names_it, "{layout} {options:?}: {said}");
        }
    }
    store.set_policy(BUCKET, None);
    let check = ["remote", "doctor", &url("bundle")];
    terminal.run("branchline", &check).await?.done();
    Ok(())
}
