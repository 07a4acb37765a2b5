//! Events that arrive through SNS, SQS, or both (AWS Lambda developer guide, "Using AWS Lambda
//! with Amazon SNS" and "Using Lambda with Amazon SQS").

use serde_json::Value;

use super::invalid_field;
use crate::error::Result;

/// Maximum number of wrappers around an event: SQS, SNS, and one more.
const MAX_WRAPPERS: usize = 3;

/// Returns the events in the messages of SNS and SQS records, or `event` itself if it is not
/// wrapped. A message that is not JSON does not hide the others.
///
/// # Errors
/// `InvalidEvent`, naming the field, in place of each message that cannot be read.
pub fn unwrapped(event: &Value) -> Vec<Result<Value>> {
    let mut events = Vec::new();
    unwrap(event, MAX_WRAPPERS, &mut events);
    events
}

fn unwrap(event: &Value, wrappers: usize, events: &mut Vec<Result<Value>>) {
    let mut messages = Vec::new();
    if let Some(records) = event.get("Records").and_then(Value::as_array) {
        for (at, record) in records.iter().enumerate() {
            let source = record.get("eventSource").or(record.get("EventSource"));
            match source.and_then(Value::as_str) {
                Some("aws:sqs") => {
                    messages.push((format!("Records[{at}].body"), record.get("body")));
                }
                Some("aws:sns") => {
                    let message = record.get("Sns").and_then(|sns| sns.get("Message"));
                    messages.push((format!("Records[{at}].Sns.Message"), message));
                }
                _ => {}
            }
        }
    } else if event.get("Type").and_then(Value::as_str) == Some("Notification") {
        // SNS puts this object into a queue, unless the subscription delivers raw messages.
        messages.push(("Message".to_owned(), event.get("Message")));
    }
    if messages.is_empty() {
        events.push(Ok(event.clone()));
        return;
    }
    for (field, message) in messages {
        let parsed = message
            .and_then(Value::as_str)
            .ok_or_else(|| invalid_field(&field, "it must be a string"))
            .and_then(|text| {
                serde_json::from_str::<Value>(text)
                    .map_err(|error| invalid_field(&field, "it is not JSON").with_source(error))
            });
        match parsed {
            Ok(_) if wrappers == 0 => events.push(Err(invalid_field(
                &field,
                format!("it is wrapped more than {MAX_WRAPPERS} times"),
            ))),
            Ok(inner) => unwrap(&inner, wrappers - 1, events),
            Err(error) => events.push(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sns(message: &Value) -> Value {
        json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": message.to_string()}}]})
    }

    fn sqs(bodies: &[String]) -> Value {
        let records = bodies
            .iter()
            .map(|body| json!({"eventSource": "aws:sqs", "body": body}));
        json!({"Records": records.collect::<Vec<_>>()})
    }

    fn events(event: &Value) -> Vec<Value> {
        unwrapped(event).into_iter().flatten().collect()
    }

    #[test]
    fn an_event_in_messages_of_sns_and_sqs_is_found() {
        let event = json!({"schedule": true});
        let only = std::slice::from_ref(&event);
        assert_eq!(events(&event), only);
        assert_eq!(events(&sns(&event)), only);
        assert_eq!(events(&sqs(&[event.to_string()])), only);
        let notification = json!({"Type": "Notification", "Message": event.to_string()});
        let both = sqs(&[notification.to_string(), event.to_string()]);
        assert_eq!(events(&both), [only, only].concat());
    }

    #[test]
    fn a_message_that_cannot_be_read_does_not_hide_the_others() {
        let good = json!({"repository": "r"});
        let read = unwrapped(&sqs(&["{".to_owned(), good.to_string()]));
        let [Err(error), Ok(found)] = &read[..] else {
            panic!("one of two messages is an event: {read:?}");
        };
        assert_eq!(*found, good);
        assert!(error.to_string().contains("`Records[0].body`"), "{error}");
        let missing = unwrapped(&json!({"Records": [{"EventSource": "aws:sns"}]}));
        assert!(matches!(&missing[..], [Err(_)]), "{missing:?}");
    }

    #[test]
    fn wrappers_are_followed_to_a_bounded_depth() {
        let mut event = json!({"schedule": true});
        for _ in 0..20 {
            event = sns(&event);
        }
        assert!(matches!(&unwrapped(&event)[..], [Err(_)]));
    }
}
