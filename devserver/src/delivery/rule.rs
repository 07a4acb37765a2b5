//! Rules of the default bus, by the names of CodeCommit's events.

use std::collections::BTreeSet;

use serde_json::json;

use super::pattern::EventPattern;

/// Events of `CodeCommit Repository State Change`.
const OF_REFERENCES: [&str; 3] = ["referenceCreated", "referenceUpdated", "referenceDeleted"];

/// Events of `CodeCommit Pull Request State Change` that the server sends.
const OF_PULL_REQUESTS: [&str; 5] = [
    "pullRequestCreated",
    "pullRequestSourceBranchUpdated",
    "pullRequestStatusChanged",
    "pullRequestMergeStatusUpdated",
    "pullRequestApprovalStateChanged",
];

/// Events of `CodeCommit Comment on Pull Request`.
const OF_COMMENTS: [&str; 3] = [
    "commentOnPullRequestCreated",
    "commentOnPullRequestUpdated",
    "commentOnPullRequestDeleted",
];

/// A rule on the default event bus: state changes of CodeCommit, to one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRule {
    /// The function, by name or ARN.
    pub function: String,
    /// Values of `detail.event` that match; empty: all changes of references.
    pub events: BTreeSet<String>,
}

impl EventRule {
    /// Returns the rule's pattern.
    pub fn pattern(&self) -> EventPattern {
        let events: BTreeSet<&str> = if self.events.is_empty() {
            OF_REFERENCES.into()
        } else {
            self.events.iter().map(String::as_str).collect()
        };
        let pattern = json!({ "source": ["aws.codecommit"], "detail": { "event": events } });
        EventPattern::parse(&pattern.to_string())
            .expect("because its members are lists with a string")
    }
}

impl std::str::FromStr for EventRule {
    type Err = String;

    /// Reads `FUNCTION` or `FUNCTION=event,event`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (function, events) = text.split_once('=').unwrap_or((text, ""));
        if function.is_empty() {
            return Err(format!("`{text}` names no function"));
        }
        let events: BTreeSet<String> = events
            .split(',')
            .filter(|event| !event.is_empty())
            .map(str::to_owned)
            .collect();
        let known: Vec<&str> = OF_REFERENCES
            .into_iter()
            .chain(OF_PULL_REQUESTS)
            .chain(OF_COMMENTS)
            .collect();
        if let Some(event) = events.iter().find(|event| !known.contains(&event.as_str())) {
            return Err(format!("unknown event `{event}`: use {}", known.join(", ")));
        }
        Ok(Self {
            function: function.to_owned(),
            events,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_its_function_and_events() {
        let rule: EventRule = "lifecycle=referenceCreated,referenceDeleted"
            .parse()
            .unwrap();
        assert_eq!(rule.function, "lifecycle");
        assert_eq!(rule.events.len(), 2);
        assert!("lifecycle".parse::<EventRule>().unwrap().events.is_empty());
        assert!("lifecycle=created".parse::<EventRule>().is_err());
        assert!("=referenceCreated".parse::<EventRule>().is_err());
    }

    #[test]
    fn a_rule_without_events_matches_changes_of_references_only() {
        let event = |name: &str| json!({ "source": "aws.codecommit", "detail": { "event": name } });
        let all = "update".parse::<EventRule>().unwrap().pattern();
        assert!(all.matches(&event("referenceUpdated")));
        assert!(!all.matches(&event("pullRequestCreated")));
        let some: EventRule = "update=pullRequestCreated".parse().unwrap();
        assert!(some.pattern().matches(&event("pullRequestCreated")));
        assert!(!some.pattern().matches(&event("referenceUpdated")));
    }
}
