//! Texts of the stack: those of the project, changed so that AWS SAM takes zips and builds nothing.

use super::zips::Architecture;

const TEMPLATE: &str = include_str!("../../../template.yaml");
const SAMCONFIG: &str = include_str!("../../../samconfig.toml");
const README: &str = include_str!("deploy.md");
/// Licence of the stack.
pub(super) const LICENSE: &str = include_str!("../../../LICENSE");
/// State machines: name of the file, and text.
pub(super) const STATE_MACHINES: [(&str, &str); 3] = [
    (
        "backup-watch.asl.json",
        include_str!("../../../statemachines/backup-watch.asl.json"),
    ),
    (
        "mirror-fleet.asl.json",
        include_str!("../../../statemachines/mirror-fleet.asl.json"),
    ),
    (
        "mirror-repository.asl.json",
        include_str!("../../../statemachines/mirror-repository.asl.json"),
    ),
];
/// Functions: the names of their zips without the ending.
const FUNCTIONS: [&str; 3] = ["lifecycle", "update", "migration"];

/// Returns the template for AWS SAM, with the path of each function's zip and the processor of the
/// zips.
pub(super) fn template(architecture: Architecture) -> String {
    let name = architecture.name();
    let mut text = replaced(TEMPLATE, "    CodeUri: .\n", "");
    for function in FUNCTIONS {
        let build = format!(
            "      BuildMethod: rust-cargolambda\n      BuildProperties: {{Binary: {function}}}\n"
        );
        let (before, after) = text
            .split_once(&build)
            .expect("because a test finds how each function is built");
        let properties = "    Properties:\n";
        let (metadata, after) = after
            .split_once(properties)
            .expect("because each function has properties");
        text = format!(
            "{before}{metadata}{properties}      CodeUri: functions/{function}.zip\n{after}"
        );
    }
    let parameter = "    Default: arm64\n    AllowedValues: [arm64, x86_64]\n    Description: \
                     Processor architecture of the functions. arm64 costs less.\n";
    let fixed = format!(
        "    Default: {name}\n    AllowedValues: [{name}]\n    Description: Processor architecture \
         of the functions, that of their zips.\n"
    );
    replaced(&text, parameter, &fixed)
}

/// Returns the settings of `sam` without those of builds, and of `sam sync`, which builds.
pub(super) fn samconfig() -> String {
    let mut text = String::with_capacity(SAMCONFIG.len());
    // Blocks are divided by empty lines; the first lines of one may be comments about it.
    for block in SAMCONFIG.split_inclusive("\n\n") {
        let mut headers = block.lines().filter(|line| line.starts_with('['));
        let builds = headers.any(|line| {
            line.ends_with(".build.parameters]") || line.ends_with(".sync.parameters]")
        });
        if !builds {
            text.push_str(block);
        }
    }
    text
}

/// Returns the guide for deploying the stack.
pub(super) fn readme(architecture: Architecture) -> String {
    README
        .replace("{version}", env!("CARGO_PKG_VERSION"))
        .replace("{architecture}", architecture.name())
}

/// Replaces the one place of `from`.
fn replaced(text: &str, from: &str, to: &str) -> String {
    let (before, after) = text
        .split_once(from)
        .expect("because a test finds each text that is replaced");
    format!("{before}{to}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_names_zips_and_nothing_that_is_built() {
        for architecture in [Architecture::Arm64, Architecture::X86_64] {
            let text = template(architecture);
            for function in FUNCTIONS {
                let named = format!("      CodeUri: functions/{function}.zip\n");
                assert_eq!(text.matches(&named).count(), 1, "{function}");
            }
            assert_eq!(text.matches("CodeUri").count(), FUNCTIONS.len());
            for built in ["BuildMethod", "BuildProperties", "cargo"] {
                assert!(!text.contains(built), "{built}");
            }
            let name = architecture.name();
            assert!(text.contains(&format!("AllowedValues: [{name}]")));
            assert_eq!(text.lines().count() + 4, TEMPLATE.lines().count());
        }
        // One place each.
        assert_eq!(TEMPLATE.matches("    CodeUri: .\n").count(), 1);
        assert_eq!(
            TEMPLATE.matches("AllowedValues: [arm64, x86_64]").count(),
            1
        );
    }

    #[test]
    fn the_settings_of_sam_build_nothing() {
        let text = samconfig();
        assert!(!text.contains(".build."), "{text}");
        for kept in [
            "version = 0.1",
            "[default.deploy.parameters]",
            "[try.deploy.parameters]",
            "[team.global.parameters]",
            "[backup.deploy.parameters]",
            "CAPABILITY_NAMED_IAM",
        ] {
            assert!(text.contains(kept), "{kept}");
        }
    }

    #[test]
    fn every_state_machine_that_the_template_names_is_there() {
        for line in TEMPLATE.lines() {
            if let Some((_, name)) = line.split_once("DefinitionUri: statemachines/") {
                assert!(
                    STATE_MACHINES.iter().any(|(known, _)| *known == name),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn the_guide_names_the_version_and_the_processor() {
        let text = readme(Architecture::X86_64);
        assert!(!text.contains('{') && text.contains("/x86_64"), "{text}");
        assert!(text.contains(env!("CARGO_PKG_VERSION")));
    }
}
