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

/// Waits, beginning with the call's own answer; answers with the last state, and with a sentence that tells it.
pub(crate) async fn until_done(
    descriptors: &Descriptors,
    caller: &mut Caller,
    options: &WaitOptions,
    answer: DynamicMessage,
) -> Result<(DynamicMessage, String), Failure> {
    let method = descriptors.method(&options.method).ok_or_else(|| {
        Failure::Local(format!(
            "the protos wait with {}, which does not exist",
            options.method
        ))
    })?;
    let again = descriptors
        .command_of(&method)
        .map(|command| command.words)
        .unwrap_or_default();
    let name = cell_at(&answer, "name");
    let mut question = DynamicMessage::new(method.input());
    question.set_field_by_name("name", Value::String(name.clone()));

    let begun = Instant::now();
    let progress = Progress::new();
    let mut seen = answer;
    let mut pause = PAUSE_MIN;
    loop {
        let value = enum_name(&seen, &options.field);
        let told = sentence(&seen, options);
        if options.done.contains(&value) {
            progress.end();
            let mut told = format!("{told} (after {:.1} s)", begun.elapsed().as_secs_f32());
            if !options.result.is_empty() {
                told = format!("{told}; {}", filled(&options.result, &seen));
            }
            return Ok((seen, told));
        }
        if options.failed.contains(&value) {
            progress.end();
            return Err(Failure::Waited(format!(
                "{told}\n  it is tried again, without you; see how far it is: mooring {again} {name}"
            )));
        }
        progress.show(&told);
        if Instant::now() + pause >= caller.deadline() {
            progress.end();
            let text = format!(
                "{told}\n  the time is up, but it goes on; see how far it is: mooring {again} {name}"
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

/// `projects/ml/activations/reports-gpu is PENDING: mounted on 0 of 2 hosts; hosts/gpu-1: it is being mounted`
fn sentence(message: &DynamicMessage, options: &WaitOptions) -> String {
    let mut text = format!(
        "{} is {}: {}",
        cell_at(message, "name"),
        cell_at(message, &options.field),
        filled(&options.sentence, message)
    );
    let why = cell_at(message, "message");
    if !why.is_empty() {
        text.push_str("; ");
        text.push_str(&why);
    }
    text
}

/// A sentence with the values of a message in the places of `{field}`.
fn filled(sentence: &str, message: &DynamicMessage) -> String {
    let mut text = String::new();
    let mut rest = sentence;
    while let Some((before, after)) = rest.split_once('{') {
        let (field, after) = after.split_once('}').unwrap_or((after, ""));
        text.push_str(before);
        match field.split_once(':') {
            Some((field, noun)) => text.push_str(&counted(&cell_at(message, field), noun)),
            None => text.push_str(&cell_at(message, field)),
        }
        rest = after;
    }
    text + rest
}

/// `no host`, `1 host`, `2 hosts`.
fn counted(number: &str, noun: &str) -> String {
    match number {
        "0" => format!("no {noun}"),
        "1" => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
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
