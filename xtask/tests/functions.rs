//! A function compiles the AWS clients that it calls, and no other.

use std::collections::BTreeSet;
use std::process::Command;

/// Returns the service clients that a build of `package` alone compiles, without the one
/// of STS, which the SDK's configuration brings.
fn clients(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--locked", "--offline", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}", "--package", package])
        .output()
        .expect("cargo starts, because it runs this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`cargo tree` failed: {errors}");
    let list = String::from_utf8(output.stdout).expect("names of packages are text");
    let names = list.lines().filter_map(|line| line.split(' ').next());
    names
        .filter_map(|name| name.strip_prefix("aws-sdk-"))
        .filter(|service| *service != "sts")
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_function_compiles_the_clients_that_it_calls_and_no_other() {
    let services: [(&str, &[&str]); 3] = [
        ("branchline-lifecycle", &["codecommit", "lambda"]),
        ("branchline-update", &["codecommit", "codepipeline", "s3"]),
        (
            "branchline-migration",
            &["codecommit", "s3", "secretsmanager", "ssm"],
        ),
    ];
    for (package, called) in services {
        let called: BTreeSet<String> = called.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(clients(package), called, "the clients of {package}");
    }
}

#[test]
fn parsers_compile_without_any_client() {
    assert_eq!(clients("branchline-fuzz"), BTreeSet::new());
}
