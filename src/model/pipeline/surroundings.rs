//! Reads what a group says of its [`Surroundings`].

use super::super::document::DocumentError;
use super::super::field::Field;
use super::super::surroundings::{Bounds, Surroundings};
use super::read::{Scope, placeholders};

/// The keys of it in a group.
pub(super) const KEYS: [&str; 5] = ["user", "group", "umask", "directory", "limits"];

/// More descriptors than any kernel gives.
const MOST_FILES: u32 = 1 << 30;

/// Reads it from a group or a loader; what `memory` says is in `memory`.
pub(super) fn read(
    field: &Field<'_>,
    memory: Option<u64>,
    scope: &Scope<'_>,
) -> Result<Surroundings, DocumentError> {
    let mut found = Surroundings { memory, ..Surroundings::default() };
    found.user = field.get("user").map(|field| account(&field, "a user: its name or number")).transpose()?;
    found.group =
        field.get("group").map(|field| account(&field, "a group: its name or number")).transpose()?;
    found.umask = field.get("umask").map(|field| umask(&field)).transpose()?;
    found.directory = field.get("directory").map(|field| directory(&field, scope)).transpose()?;
    if let Some(limits) = field.get("limits") {
        limits.only("a map of `nofile` and `core`", &["nofile", "core"])?;
        let size = |field: &Field<'_>| field.size();
        let number = |field: &Field<'_>| field.number(1..=MOST_FILES).map(u64::from);
        found.nofile = limits.get("nofile").map(|field| bounds(&field, &number)).transpose()?;
        found.core = limits.get("core").map(|field| bounds(&field, &size)).transpose()?;
    }
    Ok(found)
}

fn account(field: &Field<'_>, what: &str) -> Result<String, DocumentError> {
    if let Ok(number) = field.number(0..=u32::MAX - 1) {
        return Ok(number.to_string());
    }
    let text = field.as_str().ok_or_else(|| field.expected(what))?;
    let fine =
        !text.is_empty() && !text.contains([':', ',', '\0', '/']) && !text.contains(char::is_whitespace);
    if fine { Ok(text.to_owned()) } else { Err(field.expected(what)) }
}

fn umask(field: &Field<'_>) -> Result<u32, DocumentError> {
    let what = "three octal digits in quotes, like \"027\"";
    let text = field.as_str().ok_or_else(|| field.expected(what))?;
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let octal = digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    u32::from_str_radix(digits, 8).ok().filter(|_| octal).ok_or_else(|| field.expected(what))
}

fn directory(field: &Field<'_>, scope: &Scope<'_>) -> Result<String, DocumentError> {
    let text = field.text("a directory")?;
    placeholders(field, text, &Scope { loader: scope.loader, sockets: None, passed: false })?;
    let begins = ["/", "{run}", "{config}", "{loaded}"].iter().any(|begin| text.starts_with(begin));
    if begins {
        Ok(text.to_owned())
    } else {
        Err(field.expected("a path that begins with /, {run} or {config}"))
    }
}

/// `VALUE`, `unlimited`, or both of `{soft: .., hard: ..}`.
fn bounds(
    field: &Field<'_>,
    number: &dyn Fn(&Field<'_>) -> Result<u64, DocumentError>,
) -> Result<Bounds, DocumentError> {
    let one = |field: &Field<'_>| match field.as_str() {
        Some("unlimited") => Ok(None),
        _ => number(field).map(Some),
    };
    if !field.is_map() {
        let both = one(field)?;
        return Ok(Bounds { soft: both, hard: both });
    }
    field.only("a map of `soft` and `hard`", &["soft", "hard"])?;
    let (soft, hard) = (field.need("soft", "what counts")?, field.need("hard", "how far it may be raised")?);
    let found = Bounds { soft: one(&soft)?, hard: one(&hard)? };
    match found {
        Bounds { soft: None, hard: Some(_) } => Err(soft.expected("not more than `hard`")),
        Bounds { soft: Some(less), hard: Some(most) } if less > most => {
            Err(soft.expected("not more than `hard`"))
        }
        found => Ok(found),
    }
}
