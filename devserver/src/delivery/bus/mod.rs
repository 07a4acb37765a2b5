//! EventBridge: buses, rules and targets, and the events that they got.
//!
//! | module | content |
//! |---|---|
//! | this one | the operations |
//! | `state` | buses and rules, as they are stored |
//! | `target` | what a target gets of an event |
//!
//! Targets are functions and pipelines. Schedules, archives and replays are not offered.

mod state;
mod target;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use super::pattern::EventPattern;
use super::rule::EventRule;
use crate::account::Account;
use crate::aws_json::{ApiError, ApiResult, unknown_operation};
use crate::event::Event;

use state::{BusRule, BusState, BusStateFile};
pub(super) use target::Destination;
use target::Target;

/// Name of the bus that every account has, and that the services put their events on.
pub(super) const DEFAULT: &str = "default";

/// Maximum number of entries of `PutEvents`.
const MAX_ENTRIES: usize = 10;

/// Maximum size of all entries of `PutEvents`, in bytes (EventBridge user guide, "Quotas").
const MAX_ENTRIES_BYTES: usize = 256 * 1024;

/// Maximum number of targets of a rule.
const MAX_TARGETS: usize = 5;

/// Events that are kept to be shown.
const MAX_KEPT: usize = 1000;

/// Operations that the service offers.
const OPERATIONS: [&str; 14] = [
    "CreateEventBus",
    "DeleteEventBus",
    "DeleteRule",
    "DescribeEventBus",
    "DescribeRule",
    "DisableRule",
    "EnableRule",
    "ListEventBuses",
    "ListRules",
    "ListTargetsByRule",
    "PutEvents",
    "PutRule",
    "PutTargets",
    "RemoveTargets",
];

/// Payload of a rule for one target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dispatch {
    pub(super) destination: Destination,
    pub(super) payload: String,
}

/// The buses of the account.
pub(super) struct Buses {
    account: Account,
    file: BusStateFile,
    state: Mutex<BusState>,
    /// Rules of the command line, which are not stored.
    fixed: Vec<(String, EventPattern)>,
    seen: Mutex<VecDeque<Value>>,
}

/// Entry of `PutEvents`: the name of its bus with the event, or the error in the answer.
pub(super) type PutEntry = Result<(String, Event), Value>;

impl Buses {
    /// Opens the buses in a folder.
    pub(super) fn open(
        account: Account,
        folder: &Path,
        rules: &[EventRule],
    ) -> std::io::Result<Self> {
        let (file, state) = BusStateFile::open(folder)?;
        let rules = rules.iter();
        Ok(Self {
            account,
            file,
            state: Mutex::new(state),
            fixed: rules
                .map(|rule| (rule.function.clone(), rule.pattern()))
                .collect(),
            seen: Mutex::default(),
        })
    }

    /// Puts an event on a bus; returns what its rules send.
    pub(super) fn put(&self, bus: &str, event: &Value) -> Vec<Dispatch> {
        let mut dispatches = Vec::new();
        if bus == DEFAULT {
            let fixed = self.fixed.iter();
            let matching = fixed.filter(|(_, pattern)| pattern.matches(event));
            dispatches.extend(matching.map(|(function, _)| Dispatch {
                destination: Destination::Function(function.clone()),
                payload: event.to_string(),
            }));
        }
        for rule in self.state().rules.values() {
            if rule.bus == bus && rule.is_enabled && rule.matches(event) {
                let targets = rule.targets.values();
                dispatches.extend(targets.map(|target| target.dispatch(event)));
            }
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == MAX_KEPT {
            seen.pop_front();
        }
        seen.push_back(json!({ "bus": bus, "event": event }));
        dispatches
    }

    /// Returns the last events, the oldest first, each with the name of its bus.
    pub(super) fn seen(&self) -> Vec<Value> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().cloned().collect()
    }

    /// Answers one operation, except `PutEvents`.
    pub(super) fn call(&self, operation: &str, input: &Value) -> ApiResult {
        match operation {
            "CreateEventBus" => self.create_bus(input),
            "DeleteEventBus" => self.delete_bus(input),
            "DescribeEventBus" => {
                let name = self.bus(&input["Name"])?;
                Ok(self.bus_json(&name))
            }
            "ListEventBuses" => {
                let state = self.state();
                let names = std::iter::once(DEFAULT).chain(state.buses.iter().map(String::as_str));
                let buses: Vec<Value> = names.map(|name| self.bus_json(name)).collect();
                Ok(json!({ "EventBuses": buses }))
            }
            "PutRule" => self.put_rule(input),
            "DescribeRule" => {
                let state = self.state();
                Ok(self.rule_json(self.rule(&state, input, "Name")?))
            }
            "ListRules" => self.list_rules(input),
            "EnableRule" => self.enable(input, true),
            "DisableRule" => self.enable(input, false),
            "DeleteRule" => self.delete_rule(input),
            "PutTargets" => self.put_targets(input),
            "RemoveTargets" => self.remove_targets(input),
            "ListTargetsByRule" => {
                let state = self.state();
                let targets = self.rule(&state, input, "Rule")?.targets.values();
                let targets: Vec<&Value> = targets.map(Target::json).collect();
                Ok(json!({ "Targets": targets }))
            }
            _ => Err(unknown_operation("EventBridge", operation, OPERATIONS)),
        }
    }

    /// Reads the entries of `PutEvents`: each with its bus, or with the error of that entry.
    pub(super) fn entries(&self, input: &Value) -> Result<Vec<PutEntry>, ApiError> {
        let entries = input["Entries"].as_array();
        let entries = entries.filter(|entries| (1..=MAX_ENTRIES).contains(&entries.len()));
        let entries = entries
            .ok_or_else(|| invalid(format!("Entries must have 1 to {MAX_ENTRIES} members")))?;
        if input["Entries"].to_string().len() > MAX_ENTRIES_BYTES {
            return Err(invalid(format!(
                "Total size of the entries in the request is over the limit of \
                 {MAX_ENTRIES_BYTES} bytes"
            )));
        }
        entries.iter().map(|entry| Ok(self.entry(entry))).collect()
    }

    fn entry(&self, entry: &Value) -> PutEntry {
        let refuse =
            |code: &str, message: String| json!({ "ErrorCode": code, "ErrorMessage": message });
        let text = |member: &str| {
            let text = entry[member].as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or_else(|| {
                refuse(
                    "InvalidArgument",
                    format!(
                        "Parameter {member} is not valid. Reason: {member} is a required argument."
                    ),
                )
            })
        };
        let source = text("Source")?;
        if source.starts_with("aws.") {
            let why = "Not authorized for the source.".to_owned();
            return Err(refuse("NotAuthorizedForSourceException", why));
        }
        let detail: Value = serde_json::from_str(&text("Detail")?)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| refuse("MalformedDetail", "Detail is malformed.".to_owned()))?;
        let bus = match &entry["EventBusName"] {
            Value::Null => DEFAULT.to_owned(),
            name => self
                .bus(name)
                .map_err(|error| refuse(&error.code, error.message))?,
        };
        let resources = entry["Resources"].as_array().into_iter().flatten();
        let event = Event {
            source,
            detail_type: text("DetailType")?,
            resources: resources
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            detail,
        };
        Ok((bus, event))
    }

    fn create_bus(&self, input: &Value) -> ApiResult {
        let name = name(input, "Name")?;
        let mut state = self.state();
        if name == DEFAULT || state.buses.contains(name) {
            return Err(ApiError::new(
                "ResourceAlreadyExistsException",
                format!("Event bus {name} already exists."),
            ));
        }
        state.buses.insert(name.to_owned());
        self.save(&state)?;
        Ok(json!({ "EventBusArn": self.bus_arn(name) }))
    }

    fn delete_bus(&self, input: &Value) -> ApiResult {
        let name = name(input, "Name")?;
        if name == DEFAULT {
            return Err(invalid("Cannot delete event bus default."));
        }
        let mut state = self.state();
        state.buses.remove(name);
        state.rules.retain(|_, rule| rule.bus != name);
        self.save(&state)?;
        Ok(Value::Null)
    }

    fn put_rule(&self, input: &Value) -> ApiResult {
        let name = name(input, "Name")?.to_owned();
        let bus = self.bus(&input["EventBusName"])?;
        let pattern = input["EventPattern"].as_str().ok_or_else(|| {
            invalid("the development server has no schedules: a rule needs an EventPattern")
        })?;
        let checked = EventPattern::parse(pattern).map_err(|why| {
            ApiError::new(
                "InvalidEventPatternException",
                format!("Event pattern is not valid. Reason: {why}"),
            )
        })?;
        let is_enabled = match input["State"].as_str() {
            None | Some("ENABLED") => true,
            Some("DISABLED") => false,
            Some(_) => return Err(invalid("State must be ENABLED or DISABLED")),
        };
        let mut state = self.state();
        let key = (bus.clone(), name.clone());
        let earlier = state.rules.remove(&key);
        let rule = BusRule {
            bus,
            name,
            pattern: checked.text().to_owned(),
            parsed: Some(checked),
            is_enabled,
            targets: earlier.map(|rule| rule.targets).unwrap_or_default(),
        };
        let arn = self.rule_arn(&rule);
        state.rules.insert(key, rule);
        self.save(&state)?;
        Ok(json!({ "RuleArn": arn }))
    }

    fn list_rules(&self, input: &Value) -> ApiResult {
        let bus = self.bus(&input["EventBusName"])?;
        let prefix = input["NamePrefix"].as_str().unwrap_or_default();
        let state = self.state();
        let rules = state.rules.values();
        let rules = rules.filter(|rule| rule.bus == bus && rule.name.starts_with(prefix));
        let rules: Vec<Value> = rules.map(|rule| self.rule_json(rule)).collect();
        Ok(json!({ "Rules": rules }))
    }

    fn enable(&self, input: &Value, is_enabled: bool) -> ApiResult {
        self.change(input, "Name", |rule| {
            rule.is_enabled = is_enabled;
            Value::Null
        })
    }

    fn delete_rule(&self, input: &Value) -> ApiResult {
        let key = (
            self.bus(&input["EventBusName"])?,
            name(input, "Name")?.to_owned(),
        );
        let mut state = self.state();
        if state
            .rules
            .get(&key)
            .is_some_and(|rule| !rule.targets.is_empty())
        {
            return Err(invalid("Rule can't be deleted since it has targets."));
        }
        state.rules.remove(&key);
        self.save(&state)?;
        Ok(Value::Null)
    }

    fn put_targets(&self, input: &Value) -> ApiResult {
        let targets = input["Targets"]
            .as_array()
            .filter(|targets| !targets.is_empty());
        let targets = targets.ok_or_else(|| invalid("Targets must have a member"))?;
        let mut read = Vec::new();
        let mut failed = Vec::new();
        for target in targets {
            match Target::read(target, &self.account) {
                Ok(target) => read.push(target),
                Err(why) => failed.push(json!({
                    "TargetId": target["Id"],
                    "ErrorCode": "ValidationException",
                    "ErrorMessage": why,
                })),
            }
        }
        self.change(input, "Rule", |rule| {
            for target in read {
                if rule.targets.len() >= MAX_TARGETS && !rule.targets.contains_key(target.id()) {
                    failed.push(json!({
                        "TargetId": target.id(),
                        "ErrorCode": "LimitExceededException",
                        "ErrorMessage": format!("a rule has at most {MAX_TARGETS} targets"),
                    }));
                    continue;
                }
                rule.targets.insert(target.id().to_owned(), target);
            }
            json!({ "FailedEntryCount": failed.len(), "FailedEntries": failed })
        })
    }

    fn remove_targets(&self, input: &Value) -> ApiResult {
        let ids = input["Ids"].as_array().into_iter().flatten();
        self.change(input, "Rule", |rule| {
            for id in ids.filter_map(Value::as_str) {
                rule.targets.remove(id);
            }
            json!({ "FailedEntryCount": 0, "FailedEntries": [] })
        })
    }

    fn change(
        &self,
        input: &Value,
        member: &str,
        change: impl FnOnce(&mut BusRule) -> Value,
    ) -> ApiResult {
        let key = (
            self.bus(&input["EventBusName"])?,
            name(input, member)?.to_owned(),
        );
        let mut state = self.state();
        let rule = state.rules.get_mut(&key);
        let rule = rule.ok_or_else(|| no_rule(&key))?;
        let answer = change(rule);
        self.save(&state)?;
        Ok(answer)
    }

    fn rule<'s>(
        &self,
        state: &'s BusState,
        input: &Value,
        member: &str,
    ) -> Result<&'s BusRule, ApiError> {
        let key = (
            self.bus(&input["EventBusName"])?,
            name(input, member)?.to_owned(),
        );
        state.rules.get(&key).ok_or_else(|| no_rule(&key))
    }

    /// Reads the name or ARN of a bus that exists; null is the default bus.
    fn bus(&self, value: &Value) -> Result<String, ApiError> {
        let name = match value {
            Value::Null => return Ok(DEFAULT.to_owned()),
            value => value.as_str().unwrap_or_default(),
        };
        let name = name.strip_prefix(&self.bus_arn("")).unwrap_or(name);
        if name == DEFAULT || self.state().buses.contains(name) {
            return Ok(name.to_owned());
        }
        Err(ApiError::new(
            "ResourceNotFoundException",
            format!("Event bus {name} does not exist."),
        ))
    }

    fn bus_json(&self, name: &str) -> Value {
        json!({ "Name": name, "Arn": self.bus_arn(name) })
    }

    fn bus_arn(&self, name: &str) -> String {
        let Account { region, id, .. } = &self.account;
        format!("arn:aws:events:{region}:{id}:event-bus/{name}")
    }

    fn rule_arn(&self, rule: &BusRule) -> String {
        let Account { region, id, .. } = &self.account;
        let bus = if rule.bus == DEFAULT {
            String::new()
        } else {
            format!("{}/", rule.bus)
        };
        format!("arn:aws:events:{region}:{id}:rule/{bus}{}", rule.name)
    }

    fn rule_json(&self, rule: &BusRule) -> Value {
        let mut json = Map::new();
        let state = if rule.is_enabled {
            "ENABLED"
        } else {
            "DISABLED"
        };
        for (member, value) in [
            ("Name", rule.name.clone()),
            ("Arn", self.rule_arn(rule)),
            ("EventPattern", rule.pattern.clone()),
            ("State", state.to_owned()),
            ("EventBusName", rule.bus.clone()),
        ] {
            json.insert(member.to_owned(), value.into());
        }
        json.into()
    }

    fn save(&self, state: &BusState) -> Result<(), ApiError> {
        self.file.save(state).map_err(ApiError::internal)
    }

    fn state(&self) -> MutexGuard<'_, BusState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the name of a bus or rule: 1 to 256 of `[.\-_A-Za-z0-9/]`.
fn name<'a>(input: &'a Value, member: &str) -> Result<&'a str, ApiError> {
    let name = input[member].as_str().unwrap_or_default();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    if name.is_empty() || name.len() > 256 || !name.chars().all(legal) {
        return Err(invalid(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: \
             Member must satisfy regular expression pattern: [\\.\\-_A-Za-z0-9]+"
        )));
    }
    Ok(name)
}

fn no_rule((bus, name): &(String, String)) -> ApiError {
    ApiError::new(
        "ResourceNotFoundException",
        format!("Rule {name} does not exist on EventBus {bus}."),
    )
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}
