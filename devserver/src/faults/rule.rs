//! A rule: the calls that it matches, its fault, and when the fault applies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Service that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The CodeCommit API.
    CodeCommit,
    /// git over HTTP; operations are `git-upload-pack` and `git-receive-pack`.
    Git,
    /// S3.
    S3,
    /// CodePipeline.
    CodePipeline,
    /// The Lambda API.
    Lambda,
    /// STS.
    Sts,
    /// KMS.
    Kms,
    /// EventBridge's API.
    EventBridge,
    /// Secrets Manager.
    SecretsManager,
    /// Systems Manager.
    Ssm,
    /// Events that CodeCommit sends; operations are `trigger` and `eventbridge`.
    Events,
}

impl Service {
    const ALL: [Self; 11] = [
        Self::CodeCommit,
        Self::Git,
        Self::S3,
        Self::CodePipeline,
        Self::Lambda,
        Self::Sts,
        Self::Kms,
        Self::EventBridge,
        Self::SecretsManager,
        Self::Ssm,
        Self::Events,
    ];

    /// Returns the name, as in a rule.
    pub fn name(self) -> &'static str {
        match self {
            Self::CodeCommit => "codecommit",
            Self::Git => "git",
            Self::S3 => "s3",
            Self::CodePipeline => "codepipeline",
            Self::Lambda => "lambda",
            Self::Sts => "sts",
            Self::Kms => "kms",
            Self::EventBridge => "eventbridge",
            Self::SecretsManager => "secretsmanager",
            Self::Ssm => "ssm",
            Self::Events => "events",
        }
    }
}

/// Fault of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The answer is delayed by this many milliseconds.
    Latency(u64),
    /// The service throttles, with its own error code.
    Throttle,
    /// The service fails with a 5xx.
    Error,
    /// The service reports a conflicting concurrent change.
    Conflict,
    /// The connection closes without an answer; the request was not carried out.
    Drop,
    /// The connection closes without an answer; the request was carried out.
    LoseAnswer,
    /// The connection closes in the middle of the answer's body.
    Cut,
    /// The event is never sent.
    Lose,
    /// The event is sent twice.
    Double,
    /// The event is held back until a later one was sent, at most this many milliseconds.
    Reorder(u64),
    /// The event is delayed by this many milliseconds.
    Delay(u64),
}

impl Fault {
    /// Returns the name, as in a rule.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency(_) => "latency",
            Self::Throttle => "throttle",
            Self::Error => "error",
            Self::Conflict => "conflict",
            Self::Drop => "drop",
            Self::LoseAnswer => "lose-answer",
            Self::Cut => "cut",
            Self::Lose => "lose",
            Self::Double => "double",
            Self::Reorder(_) => "reorder",
            Self::Delay(_) => "delay",
        }
    }

    fn milliseconds(self) -> Option<u64> {
        match self {
            Self::Latency(ms) | Self::Reorder(ms) | Self::Delay(ms) => Some(ms),
            _ => None,
        }
    }

    fn is_of_events(self) -> bool {
        matches!(
            self,
            Self::Lose | Self::Double | Self::Reorder(_) | Self::Delay(_)
        )
    }
}

/// Condition under which a matching call gets the fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// All of them.
    Always,
    /// Each with this probability, 0 to 1.
    Rate(f64),
    /// Every n-th.
    Every(u64),
    /// Exactly the k-th, from 1.
    Nth(u64),
}

/// A rule: `SERVICE[/OPERATION]:FAULT[,ms=N][,rate=R|,every=N|,nth=K]`, where the service
/// `*` matches all but events. Its JSON form is the same text.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The service; `None`: all that answer requests.
    pub service: Option<Service>,
    /// The operation; `None`: all of them.
    pub operation: Option<String>,
    /// The fault.
    pub fault: Fault,
    /// Condition under which it applies.
    pub when: When,
}

impl Rule {
    /// Returns true if the rule matches this call.
    pub fn matches(&self, service: Service, operation: &str) -> bool {
        let of_service = match self.service {
            Some(wanted) => wanted == service,
            None => service != Service::Events,
        };
        of_service
            && self
                .operation
                .as_deref()
                .is_none_or(|wanted| wanted == operation)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service.map_or("*", Service::name))?;
        if let Some(operation) = &self.operation {
            write!(f, "/{operation}")?;
        }
        write!(f, ":{}", self.fault.name())?;
        if let Some(ms) = self.fault.milliseconds() {
            write!(f, ",ms={ms}")?;
        }
        match self.when {
            When::Always => Ok(()),
            When::Rate(rate) => write!(f, ",rate={rate}"),
            When::Every(n) => write!(f, ",every={n}"),
            When::Nth(k) => write!(f, ",nth={k}"),
        }
    }
}

const FORM: &str = "write SERVICE[/OPERATION]:FAULT[,ms=N][,rate=R|,every=N|,nth=K], for example \
                    `codecommit/GetBlob:throttle,rate=0.1` or `events:double,every=2`";

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, rest) = text
            .split_once(':')
            .ok_or_else(|| format!("the fault `{text}` has no `:`; {FORM}"))?;
        let (service, operation) = match target.split_once('/') {
            Some((service, operation)) => (service, Some(operation.to_owned())),
            None => (target, None),
        };
        let service = match service {
            "*" => None,
            name => Some(
                Service::ALL
                    .into_iter()
                    .find(|service| service.name() == name)
                    .ok_or_else(|| {
                        let known = Service::ALL.map(Service::name).join(", ");
                        format!("unknown service `{name}`: use {known} or `*`")
                    })?,
            ),
        };
        let mut parts = rest.split(',');
        let name = parts.next().unwrap_or_default();
        let mut ms = None;
        let mut when = When::Always;
        for part in parts {
            let wrong = |why: &str| format!("`{part}` of the fault `{text}`: {why}; {FORM}");
            let (key, value) = part.split_once('=').ok_or_else(|| wrong("no `=`"))?;
            let count = || {
                value
                    .parse::<u64>()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| wrong("it must be a whole number above 0"))
            };
            match key {
                "ms" => ms = Some(value.parse().map_err(|_| wrong("no whole number"))?),
                "rate" => {
                    let rate: f64 = value.parse().map_err(|_| wrong("no number"))?;
                    if !(0.0..=1.0).contains(&rate) {
                        return Err(wrong("it must be between 0 and 1"));
                    }
                    when = When::Rate(rate);
                }
                "every" => when = When::Every(count()?),
                "nth" => when = When::Nth(count()?),
                _ => return Err(wrong("use `ms`, `rate`, `every` or `nth`")),
            }
        }
        let fault = match name {
            "latency" => Fault::Latency(ms.ok_or_else(|| format!("`{text}` needs `ms=`"))?),
            "throttle" => Fault::Throttle,
            "error" => Fault::Error,
            "conflict" => Fault::Conflict,
            "drop" => Fault::Drop,
            "lose-answer" => Fault::LoseAnswer,
            "cut" => Fault::Cut,
            "lose" => Fault::Lose,
            "double" => Fault::Double,
            "reorder" => Fault::Reorder(ms.unwrap_or(1000)),
            "delay" => Fault::Delay(ms.unwrap_or(1000)),
            _ => {
                return Err(format!(
                    "unknown fault `{name}`: use latency, throttle, error, conflict, drop, \
                     lose-answer or cut; for events lose, double, reorder or delay"
                ));
            }
        };
        if fault.is_of_events() != (service == Some(Service::Events)) {
            return Err(format!(
                "`{name}` does not go with `{target}`: lose, double, reorder and delay are for \
                 `events`, the others for services"
            ));
        }
        Ok(Self {
            service,
            operation,
            fault,
            when,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Text {
    rule: String,
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Text {
            rule: self.to_string(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer)?
            .rule
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_as_it_was_written() {
        for text in [
            "codecommit:latency,ms=10",
            "codecommit/GetFolder:throttle,rate=0.25",
            "s3/PutObject:lose-answer,nth=3",
            "*:error,every=7",
            "events/trigger:reorder,ms=50",
            "git:cut",
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
    }

    #[test]
    fn a_wrong_rule_is_refused_with_the_reason() {
        for (text, part) in [
            ("codecommit", "no `:`"),
            ("sqs:error", "unknown service"),
            ("s3:melt", "unknown fault"),
            ("s3:latency", "needs `ms=`"),
            ("s3:error,rate=2", "between 0 and 1"),
            ("s3:error,nth=0", "above 0"),
            ("s3:error,when=now", "`every`"),
            ("s3:lose", "for `events`"),
            ("events:error", "for `events`"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(part), "`{text}` says why: {error}");
        }
    }
}
