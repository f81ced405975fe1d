//! What the table "After a crash" (A10) says to do about an event, by what is durable of it: written down once
//! more, from the page and not from the product.

use serde_json::Value;

use crate::service::{Generation, Service};

/// What the next engine has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// all of it, stages included
    Run,
    /// what comes after the swing
    Finish,
    /// only the way back
    Undo,
    /// give the verdict `failed`
    Fail,
    /// nothing: it has its verdict
    Nothing,
}

/// What is durable of an event when nobody is at work.
#[derive(Debug)]
pub struct Durable {
    /// what A10 says about it
    pub duty: Duty,
    /// how many engines have begun it
    pub begun: usize,
    /// the marks, and what `current` names, in words
    pub words: String,
}

/// Reads the marks of an event to `target`. `well` is whether every worker that runs the target is ready.
pub fn durable(service: &Service, event: u64, target: &Generation, well: bool) -> Durable {
    let marks = marks(service, event);
    let begun = marks.iter().filter(|mark| mark["begun"].is_object()).count();
    let swinging = marks.iter().any(|mark| mark["swinging"].is_object());
    let undoing = marks.iter().any(|mark| mark["undoing"].is_object());
    let moved = service.sandbox.current().as_ref() == Some(&target.id);
    let duty = match () {
        () if service.outcome(event).is_some() => Duty::Nothing,
        () if undoing => Duty::Undo,
        () if swinging && moved && well => Duty::Finish,
        () if swinging && moved => Duty::Undo,
        () if begun < 2 => Duty::Run,
        () => Duty::Fail,
    };
    let name = |mark: &Value| match mark.as_object().and_then(|mark| mark.iter().next()) {
        Some((name, note)) if name == "note" => note["step"].as_str().unwrap_or_default().to_owned(),
        Some((name, _)) => name.clone(),
        None => mark.to_string(),
    };
    let names: Vec<String> = marks.iter().map(name).collect();
    let words = format!(
        "{duty:?} after [{}], current {}",
        names.join(" "),
        if moved { "moved" } else { "not moved" }
    );
    Durable { duty, begun, words }
}

/// The whole lines of an event's steps; what a crash left of the last one does not count.
pub fn marks(service: &Service, event: u64) -> Vec<Value> {
    let text = std::fs::read_to_string(service.sandbox.path(&format!("store/events/{event}.steps")));
    let text = text.unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()).collect()
}
