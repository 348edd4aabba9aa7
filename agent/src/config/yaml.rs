//! YAML with every mistake told at once, each with its place.
//!
//! A file becomes a tree that knows where each key and value stands, and types are read from the tree. When reading fails,
//! the error knows the path of what was wrong; that part is cut out and the rest is read again, until nothing is wrong any
//! more. A file with five mistakes therefore has five lines of complaint, not one after each correction, and whoever
//! converts values afterwards ([`read_all`]'s closure) can complain by path and gets positions for free.
//!
//! `serde-saphyr` reads the same language but stops at the first error and gives positions only where a type asks for them;
//! this reads the events of the parser it is built on.

mod de;
mod tree;

use std::fmt;
use std::path::Path;

use serde::de::{Expected, Unexpected};

use self::tree::Tree;
use super::{ConfigError, Mistake, Mistakes};

/// Mistakes told of one file; a file of another kind altogether would have no end of them.
const MISTAKES: usize = 32;
/// Values in one file, aliases written out: what nests aliases to explode comes to an end.
const NODES: usize = 200_000;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// One step from the root of the file to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    /// Position in a list, as written.
    Index(usize),
}

/// Something in the file is not what it should be.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// From the root to what is wrong.
    pub(crate) path: Vec<Step>,
    /// What is there and what would be right.
    pub(crate) reason: String,
    /// Where, if the place is not that of the value at `path`.
    place: Option<Place>,
    /// The field that is wanting in the mapping at `path`.
    missing: Option<&'static str>,
    /// It is about something that is not there: nothing can be said where what is there was cut out.
    absence: bool,
}

impl Fault {
    /// Of the value at `path`.
    pub(crate) const fn new(path: Vec<Step>, reason: String) -> Self {
        Self {
            path,
            reason,
            place: None,
            missing: None,
            absence: false,
        }
    }

    /// Of the value at `path`, which wants something that stands nowhere in the file.
    pub(crate) const fn absence(path: Vec<Step>, reason: String) -> Self {
        let mut fault = Self::new(path, reason);
        fault.absence = true;
        fault
    }

    fn under(mut self, step: Step, place: Place) -> Self {
        self.path.insert(0, step);
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Vec::new(), message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {expected}, found {}", plain(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {expected}, found {}", plain(found)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("field", field, expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("value", variant, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::custom(format!("expected a field `{field}`, found none"))
        }
    }
}

/// What is there, as people say it of YAML.
fn plain(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a mapping".into(),
        Unexpected::Str(text) => format!("`{text}`"),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        other @ (Unexpected::Signed(_)
        | Unexpected::Float(_)
        | Unexpected::Char(_)
        | Unexpected::Bytes(_)
        | Unexpected::NewtypeStruct
        | Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::StructVariant
        | Unexpected::Other(_)) => other.to_string(),
    }
}

/// "unknown field `holdtime`, expected `holdTime`" where one is near, else all that are possible.
fn unknown(what: &str, found: &str, expected: &[&str]) -> String {
    let near = expected
        .iter()
        .map(|known| (distance(found, known), known))
        .min()
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1));
    match (near, expected) {
        (Some((_, known)), _) => format!("unknown {what} `{found}`, expected `{known}`"),
        (None, []) => format!("unknown {what} `{found}`, expected none"),
        (None, _) => format!(
            "unknown {what} `{found}`, expected one of {}",
            expected.join(", ")
        ),
    }
}

/// Letters to insert, delete or exchange until one word is the other; case, hyphens and underscores cost nothing.
fn distance(a: &str, b: &str) -> usize {
    let plain = |word: &str| -> Vec<char> {
        word.chars()
            .filter(|c| !matches!(c, '-' | '_'))
            .flat_map(char::to_lowercase)
            .take(64)
            .collect()
    };
    let (a, b) = (plain(a), plain(b));
    // A row of the usual table: how far the beginning of `a` is from each beginning of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut left = i + 1;
        let above = std::mem::take(&mut row);
        row.push(left);
        for ((to, diagonal), above) in b.iter().zip(&above).zip(above.iter().skip(1)) {
            let exchange = diagonal + usize::from(from != to);
            left = exchange.min(left + 1).min(above + 1);
            row.push(left);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A value of the file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    place: Place,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    /// Its text, and whether it is written without quotes, so that `null` means nothing and `true` is no word.
    Scalar(String, bool),
    /// Each with its position as written, which stays when others are cut out.
    List(Vec<(usize, Node)>),
    Map(Vec<(String, Place, Node)>),
}

impl Node {
    fn kind(&self) -> String {
        match &self.value {
            Value::Scalar(text, true) if is_null(text) => "nothing".into(),
            Value::Scalar(text, _) => format!("`{text}`"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }

    fn child(&self, step: &Step) -> Option<(Place, &Self)> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => entries
                .iter()
                .find(|(name, ..)| name == key)
                .map(|(_, place, node)| (*place, node)),
            (Value::List(items), Step::Index(index)) => items
                .iter()
                .find(|(position, _)| position == index)
                .map(|(_, node)| (node.place, node)),
            _ => None,
        }
    }

    fn at(&self, path: &[Step]) -> Option<&Self> {
        path.iter()
            .try_fold(self, |node, step| Some(node.child(step)?.1))
    }

    /// Where the value at `path` stands.
    fn place_of(&self, path: &[Step]) -> Option<Place> {
        let node = self.at(path)?;
        Some(node.place)
    }

    /// The path of `field` below `path`: there, or in a section of it; `path` itself where it is not written at all. What
    /// stands behind dots (`rules.0.match`) is looked for in it, as deep as it is written; a number is an item of a list.
    pub(crate) fn find(&self, path: &[Step], field: &str) -> Vec<Step> {
        let mut parts = field.split('.');
        let mut found = self.find_one(path, parts.next().unwrap_or_default());
        if found.len() == path.len() {
            return found;
        }
        for part in parts {
            let Some(node) = self.at(&found) else {
                break;
            };
            let step = match &node.value {
                Value::List(items) => part
                    .parse()
                    .ok()
                    .and_then(|place: usize| items.get(place))
                    .map(|(index, _)| Step::Index(*index)),
                Value::Map(_) | Value::Scalar(..) => {
                    Some(Step::Key(part.into())).filter(|step| node.child(step).is_some())
                }
            };
            let Some(step) = step else {
                break;
            };
            found.push(step);
        }
        found
    }

    fn find_one(&self, path: &[Step], field: &str) -> Vec<Step> {
        fn below(node: &Node, field: &str) -> Option<Vec<Step>> {
            let Value::Map(entries) = &node.value else {
                return None;
            };
            if entries.iter().any(|(key, ..)| key == field) {
                return Some(vec![Step::Key(field.into())]);
            }
            entries.iter().find_map(|(key, _, child)| {
                let mut path = below(child, field)?;
                path.insert(0, Step::Key(key.clone()));
                Some(path)
            })
        }
        let mut found = path.to_vec();
        found.extend(
            self.at(path)
                .and_then(|node| below(node, field))
                .unwrap_or_default(),
        );
        found
    }

    /// Whether the mapping at `path` has a field.
    pub(crate) fn has(&self, path: &[Step], field: &str) -> bool {
        let key = Step::Key(field.into());
        self.at(path).is_some_and(|node| node.child(&key).is_some())
    }

    /// The paths of the items of the list that is `field` of the file, those that were not cut out.
    pub(crate) fn items(&self, field: &str) -> Vec<Vec<Step>> {
        match self.child(&Step::Key(field.into())) {
            Some((
                _,
                Self {
                    value: Value::List(items),
                    ..
                },
            )) => items
                .iter()
                .map(|(index, _)| vec![Step::Key(field.into()), Step::Index(*index)])
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Cuts the value at `path` out, and says whether there was one that could be.
    fn cut(&mut self, path: &[Step]) -> bool {
        match (&mut self.value, path) {
            (Value::Map(entries), [Step::Key(key)]) => {
                let before = entries.len();
                entries.retain(|(name, ..)| name != key);
                before > entries.len()
            }
            (Value::List(items), [Step::Index(index)]) => {
                let before = items.len();
                items.retain(|(position, _)| position != index);
                before > items.len()
            }
            (Value::Map(entries), [Step::Key(key), rest @ ..]) => entries
                .iter_mut()
                .find(|(name, ..)| name == key)
                .is_some_and(|(.., node)| node.cut(rest)),
            (Value::List(items), [Step::Index(index), rest @ ..]) => items
                .iter_mut()
                .find(|(position, _)| position == index)
                .is_some_and(|(_, node)| node.cut(rest)),
            _ => false,
        }
    }

    /// Every mapping of the file, with its path.
    #[cfg(test)]
    pub(super) fn maps(&self) -> Vec<(Vec<Step>, Vec<String>)> {
        fn walk(node: &Node, path: &mut Vec<Step>, out: &mut Vec<(Vec<Step>, Vec<String>)>) {
            match &node.value {
                Value::Scalar(..) => {}
                Value::List(items) => {
                    for (index, item) in items {
                        path.push(Step::Index(*index));
                        walk(item, path, out);
                        path.pop();
                    }
                }
                Value::Map(entries) => {
                    let keys = entries.iter().map(|(key, ..)| key.clone()).collect();
                    out.push((path.clone(), keys));
                    for (key, _, child) in entries {
                        path.push(Step::Key(key.clone()));
                        walk(child, path, out);
                        path.pop();
                    }
                }
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }

    /// Puts the only value of the mapping `by` in the place of the one at `path`.
    #[cfg(test)]
    pub(super) fn replace(&mut self, path: &[Step], by: Self) {
        let Some((step, rest)) = path.split_first() else {
            if let Value::Map(entries) = by.value {
                *self = entries.into_iter().next().expect("one value").2;
            }
            return;
        };
        match (&mut self.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                let mut found = entries.iter_mut().filter(|(name, ..)| name == key);
                found.next().expect("the key").2.replace(rest, by);
            }
            (Value::List(items), Step::Index(index)) => {
                let mut found = items.iter_mut().filter(|(place, _)| place == index);
                found.next().expect("the item").1.replace(rest, by);
            }
            _ => panic!("nothing at {path:?}"),
        }
    }

    /// Writes one more key into the mapping at `path`.
    #[cfg(test)]
    pub(super) fn insert(&mut self, path: &[Step], name: &str) {
        match (&mut self.value, path) {
            (Value::Map(entries), []) => {
                let value = Self {
                    place: self.place,
                    value: Value::Scalar("x".into(), true),
                };
                entries.insert(0, (name.into(), self.place, value));
            }
            (Value::Map(entries), [Step::Key(key), rest @ ..]) => {
                for (_, _, node) in entries.iter_mut().filter(|(name, ..)| name == key) {
                    node.insert(rest, name);
                }
            }
            (Value::List(items), [Step::Index(index), rest @ ..]) => {
                for (_, node) in items.iter_mut().filter(|(position, _)| position == index) {
                    node.insert(rest, name);
                }
            }
            _ => panic!("no mapping at {path:?}"),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Reads everything there is to say of a file: `read` makes a value of the tree, or says what is wrong by its path.
///
/// # Errors
/// Every mistake found, in the order of the file.
pub(crate) fn read_all<T>(
    path: &Path,
    text: &str,
    mut read: impl FnMut(&Node) -> Result<T, Fault>,
) -> Result<T, ConfigError> {
    let mistake = |place: Place, field: String, reason: String| Mistake {
        path: path.into(),
        line: place.line,
        column: place.column,
        field,
        reason,
    };
    let whole = match Tree::parse(text) {
        Ok(whole) => whole,
        Err((place, path, reason)) => {
            return Err(Mistakes(vec![mistake(place, shown(&path), reason)]).into());
        }
    };
    let mut tree = whole.clone();
    let mut cut: Vec<Vec<Step>> = Vec::new();
    // Something was cut out that others may want.
    let mut spoilt = false;
    let mut mistakes = Vec::new();
    loop {
        let fault = match read(&tree) {
            Ok(value) if mistakes.is_empty() => return Ok(value),
            Ok(_) => break,
            Err(fault) => fault,
        };
        // What is wanting because it was cut out, or contradicts what is left without it, was complained about already.
        let consequence = cut.iter().any(|cut| match fault.missing {
            Some(field) => {
                cut.split_last() == Some((&Step::Key(field.into()), fault.path.as_slice()))
            }
            None => cut.len() > fault.path.len() && cut.starts_with(&fault.path),
        }) || (fault.absence && spoilt);
        spoilt |= !fault.absence;
        if !consequence {
            let place = fault
                .place
                .or_else(|| whole.place_of(&fault.path))
                .unwrap_or(whole.place);
            let mut named = fault.path.clone();
            named.extend(fault.missing.map(|field| Step::Key(field.into())));
            mistakes.push(mistake(place, shown(&named), fault.reason));
        }
        if mistakes.len() >= MISTAKES || !tree.cut(&fault.path) {
            break;
        }
        cut.push(fault.path);
    }
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    Err(Mistakes(mistakes).into())
}

/// A path as people write it: `peers[1].holdTime`; positions count from 0.
fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

#[cfg(test)]
pub(super) fn tree(text: &str) -> Node {
    Tree::parse(text).expect("YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_field_is_the_one_that_is_meant() {
        let known = ["holdTime", "minimumHoldTime", "asn", "ttl"];
        assert_eq!(
            unknown("field", "hold-time", &known),
            "unknown field `hold-time`, expected `holdTime`"
        );
        assert_eq!(
            unknown("field", "holdTiem", &known),
            "unknown field `holdTiem`, expected `holdTime`"
        );
        assert_eq!(
            unknown("field", "bandwidth", &known),
            "unknown field `bandwidth`, expected one of holdTime, minimumHoldTime, asn, ttl"
        );
    }

    #[test]
    fn aliases_that_explode_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            let items = [before.as_str(); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        let (_, _, reason) = Tree::parse(&text).expect_err("too many values");
        assert!(reason.starts_with("expected at most"), "{reason}");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_place() {
        let (place, _, reason) = Tree::parse("asn: [1, 2\npeers: {").expect_err("no YAML");
        assert!(
            place.line >= 1 && reason.starts_with("expected YAML: "),
            "{reason}"
        );
    }
}
