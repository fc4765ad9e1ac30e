//! `--wait`: asks again and again until what a call has begun is over, and tells how far it is on standard error. What
//! is asked and what counts as the end is said by the method's options.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use tokio::time::Instant;
use tonic::Status;

use crate::descriptors::{Descriptors, WaitOptions};
use crate::errors::Failure;
use crate::invoke::Caller;
use crate::output::{cell_at, note};

/// The first pause between two questions. A warm host mounts in a tenth of a second.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest one: a person notices no more than this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Waits, beginning with the call's own answer; answers with the last state.
pub(crate) async fn until_done(
    descriptors: &Descriptors,
    caller: &mut Caller,
    options: &WaitOptions,
    answer: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    let method = descriptors.method(&options.method).ok_or_else(|| {
        Failure::Local(format!(
            "the protos wait with {}, which does not exist",
            options.method
        ))
    })?;
    let name = cell_at(&answer, "name");
    let mut question = DynamicMessage::new(method.input());
    question.set_field_by_name("name", Value::String(name.clone()));

    let progress = Progress::new();
    let mut seen = answer;
    let mut pause = PAUSE_MIN;
    loop {
        let value = enum_name(&seen, &options.field);
        let summary = summary(&seen, options);
        if options.done.contains(&value) {
            progress.end();
            return Ok(seen);
        }
        if options.failed.contains(&value) {
            progress.end();
            return Err(Failure::Waited(format!("{name}: {summary}")));
        }
        progress.show(&format!("{name}: {summary}"));
        if Instant::now() + pause >= caller.deadline() {
            progress.end();
            let text = format!(
                "{name} is not there yet: {summary}; it goes on without you, see it again with its `get`"
            );
            return Err(caller.failure(Status::deadline_exceeded(text)));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
        seen = caller.call(&method, question.clone(), true).await?;
    }
}

fn enum_name(message: &DynamicMessage, field: &str) -> String {
    let Some(field) = message.descriptor().get_field_by_name(field) else {
        return String::new();
    };
    let number = message.get_field(&field).as_enum_number().unwrap_or_default();
    let value = field
        .kind()
        .as_enum()
        .and_then(|descriptor| descriptor.get_value(number));
    value.map(|value| value.name().to_owned()).unwrap_or_default()
}

/// `PENDING, mounted hosts 0, desired hosts 2, message …`
fn summary(message: &DynamicMessage, options: &WaitOptions) -> String {
    let state = cell_at(message, &options.field);
    let rest = options
        .progress
        .iter()
        .map(|field| (field, cell_at(message, field)));
    let rest = rest
        .filter(|(_, text)| !text.is_empty())
        .map(|(field, text)| format!(", {} {text}", field.replace('_', " ")));
    state + &rest.collect::<String>()
}

/// A spinner on a terminal, a line for each change elsewhere.
struct Progress {
    spinner: Option<ProgressBar>,
    last: std::cell::RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        let spinner = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Self {
            spinner,
            last: std::cell::RefCell::default(),
        }
    }

    fn show(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => {
                spinner.set_message(text.to_owned());
                spinner.tick();
            }
            None if *self.last.borrow() != text => {
                note(text);
                self.last.replace(text.to_owned());
            }
            None => {}
        }
    }

    fn end(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
