//! Files as people write them: documents, lists, and the objects inside.
//!
//! A file is cut into documents at lines that start with `---` before any YAML is parsed. YAML reserves such lines everywhere,
//! inside block scalars too, so the cut is exact; it keeps a broken document from hiding its neighbours, and lets one document be
//! replaced while every other octet of the file stays.

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::Value;
use sha1::{Digest, Sha1};

use super::{Kind, Object, metadata};

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// Its octets in the file, with the `---` line that opens it.
    pub(super) span: Range<usize>,
    /// The line it starts at, from 1.
    pub(super) line: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// Nothing but space and comments.
    Empty,
    /// Something margay has no business with, such as a Deployment.
    Foreign,
    /// Objects of ours; faults of single items of a list stand beside the others.
    Objects {
        objects: Vec<Stored>,
        faults: Vec<Fault>,
    },
    /// Not understood.
    Fault(Fault),
}

/// An object and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) object: Object,
    /// The version counter in the file; 0 where the file has none.
    pub(super) counter: u64,
    /// Which item of a list it is.
    pub(super) item: Option<usize>,
}

/// What is wrong with a document or with one item of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) item: Option<usize>,
    pub(super) field: Option<String>,
    pub(super) reason: String,
}

impl Fault {
    fn new(field: Option<&str>, reason: impl Into<String>) -> Self {
        Self {
            item: None,
            field: field.map(str::to_owned),
            reason: reason.into(),
        }
    }
}

/// Reads every document of a file. `place` is the file's name for messages.
pub(super) fn read(place: &str, text: &str) -> Vec<Document> {
    split(text)
        .into_iter()
        .map(|(span, line)| {
            let body = text.get(span.clone()).unwrap_or("");
            Document {
                content: read_document(place, body, line),
                span,
                line,
            }
        })
        .collect()
}

/// Cuts a text at its `---` lines.
fn split(text: &str) -> Vec<(Range<usize>, usize)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut at, mut line) = (0, 1);
    for part in text.split_inclusive('\n') {
        let opens =
            part.starts_with("---") && part.as_bytes().get(3).is_none_or(u8::is_ascii_whitespace);
        if opens && at > start {
            documents.push((start..at, start_line));
            (start, start_line) = (at, line);
        }
        at += part.len();
        line += 1;
    }
    if at > start {
        documents.push((start..at, start_line));
    }
    documents
}

/// The value a document holds, without looking at what it means.
pub(super) fn parse_value(body: &str, line: usize) -> Result<Value, String> {
    let body = body.trim_start_matches('\u{feff}');
    if body.starts_with('{')
        && let Ok(value) = serde_json::from_str(body)
    {
        return Ok(value);
    }
    serde_saphyr::from_str_with_options(
        body,
        serde_saphyr::options! {
            with_snippet: false,
            // `on`, `yes` and `y` are texts in YAML 1.2, and node names to some.
            strict_booleans: true,
        },
    )
    .map_err(|error| describe(&error, line))
}

/// A parser's error with its place in the file, not in the document.
fn describe(error: &serde_saphyr::Error, first_line: usize) -> String {
    let text = error.without_snippet().to_string();
    match error.location() {
        Some(location) => {
            let line = usize::try_from(location.line()).unwrap_or(1) + first_line - 1;
            let column = location.column();
            // The parser ends its messages with the place as it counts it.
            let text = match text.rfind(" at line ") {
                Some(end) if text.get(end..).is_some_and(|tail| !tail.contains('`')) => {
                    text.get(..end).unwrap_or(&text)
                }
                _ => &text,
            };
            format!("line {line}, column {column}: {text}")
        }
        None => format!("document at line {first_line}: {text}"),
    }
}

fn read_document(place: &str, body: &str, line: usize) -> Content {
    let blank = body.lines().all(|text| {
        let text = text.trim_start_matches("---").trim();
        text.is_empty() || text == "..." || text.starts_with('#') || text.starts_with('%')
    });
    if blank {
        return Content::Empty;
    }
    let value = match parse_value(body, line) {
        Ok(Value::Null) => return Content::Empty,
        Ok(value) => value,
        Err(reason) => return Content::Fault(Fault::new(None, reason)),
    };
    let source = format!("{place}:{line}");
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match (is_list, value) {
        (true, Value::Object(mut list)) => match list.remove("items") {
            Some(Value::Array(items)) => {
                let (mut objects, mut faults) = (Vec::new(), Vec::new());
                for (index, item) in items.into_iter().enumerate() {
                    match read_object(&source, item) {
                        Ok(Some(mut stored)) => {
                            stored.item = Some(index);
                            objects.push(stored);
                        }
                        Ok(None) => {}
                        Err(mut fault) => {
                            fault.item = Some(index);
                            faults.push(fault);
                        }
                    }
                }
                if objects.is_empty() && faults.is_empty() {
                    Content::Foreign
                } else {
                    Content::Objects { objects, faults }
                }
            }
            Some(Value::Null) | None => Content::Foreign,
            Some(_) => Content::Fault(Fault::new(Some("items"), "is not a list of objects")),
        },
        (_, value) => match read_object(&source, value) {
            Ok(Some(stored)) => Content::Objects {
                objects: vec![stored],
                faults: Vec::new(),
            },
            Ok(None) => Content::Foreign,
            Err(fault) => Content::Fault(fault),
        },
    }
}

/// An object from its value; `None` for kinds margay has no business with.
fn read_object(source: &str, value: Value) -> Result<Option<Stored>, Fault> {
    let Some(fields) = value.as_object() else {
        return Err(Fault::new(
            None,
            "is not an object: a document holds `apiVersion`, `kind` and `metadata`",
        ));
    };
    let text = |field: &'static str| match fields.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        Some(other) => Err(Fault::new(
            Some(field),
            format!("is {other}, which is not a name"),
        )),
        None => Err(Fault::new(Some(field), "is missing")),
    };
    let api_version = text("apiVersion")?;
    let kind_name = text("kind")?;
    let Some(kind) = Kind::from_api(api_version, kind_name) else {
        if Kind::is_calico(api_version) {
            return Err(Fault::new(
                Some("kind"),
                format!("{kind_name} is not a kind of {api_version}"),
            ));
        }
        return Ok(None);
    };
    let (hash, value) = {
        let hash = content_hash(&value);
        (hash, metadata::unfold(value))
    };
    let (hash, mut value) = (
        hash,
        value.map_err(|reason| Fault::new(Some("metadata.annotations"), reason))?,
    );
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(Fault::new(Some("metadata"), "is missing"));
    };
    let name = match meta.get("name") {
        Some(Value::String(name)) => checked_name(name)
            .map_err(|reason| Fault::new(Some("metadata.name"), reason))?
            .to_owned(),
        Some(other) => {
            return Err(Fault::new(
                Some("metadata.name"),
                format!("is {other}, which is not text: put it in quotes"),
            ));
        }
        None => return Err(Fault::new(Some("metadata.name"), "is missing")),
    };
    let name = match meta.get("namespace").and_then(Value::as_str) {
        Some(namespace) if !namespace.is_empty() => {
            checked_name(namespace)
                .map_err(|reason| Fault::new(Some("metadata.namespace"), reason))?;
            format!("{namespace}/{name}")
        }
        _ => name,
    };
    let counter = match meta.get("resourceVersion") {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(Value::Number(number)) => number.as_u64().unwrap_or(0),
        _ => 0,
    };
    let resource_version = format!("{counter}.{hash}");
    meta.insert(
        "resourceVersion".to_owned(),
        Value::String(resource_version.clone()),
    );
    let uid = match meta.get("uid").and_then(Value::as_str) {
        Some(uid) if !uid.is_empty() => uid.to_owned(),
        // Objects people write have none; one made of the name stays the same over every reading.
        _ => {
            let uid = metadata::uid_of_name(kind, &name);
            meta.insert("uid".to_owned(), Value::String(uid.clone()));
            uid
        }
    };
    Ok(Some(Stored {
        object: Object {
            kind,
            name,
            resource_version,
            uid,
            source: source.to_owned(),
            value,
        },
        counter,
        item: None,
    }))
}

/// A name that can stand in a message, a path and a key.
pub(super) fn checked_name(name: &str) -> Result<&str, String> {
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if let Some(wrong) = name
        .chars()
        .find(|character| character.is_control() || matches!(character, '/' | '\\'))
    {
        return Err(format!("{name:?} must not contain {wrong:?}"));
    }
    if name.len() > 253 {
        return Err(format!(
            "is {} characters long; the longest name has 253",
            name.len()
        ));
    }
    Ok(name)
}

/// A short digest of an object as it is stored. With the counter it makes the resource version: the counter tells apart two writes
/// of the same content, the digest tells apart edits by people, who do not count.
fn content_hash(value: &Value) -> String {
    struct Sink(Sha1);
    impl std::io::Write for Sink {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.update(octets);
            Ok(octets.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Sha1::new());
    // Writing into a digest does not fail, and every key of a `Value` is text.
    let _ = serde_json::to_writer(&mut sink, value);
    let mut text = String::with_capacity(16);
    for octet in sink.0.finalize().iter().take(8) {
        let _ = write!(text, "{octet:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> Vec<Object> {
        read("f.yaml", text)
            .into_iter()
            .flat_map(|document| match document.content {
                Content::Objects { objects, faults } => {
                    assert_eq!(faults, []);
                    objects
                }
                Content::Empty | Content::Foreign => Vec::new(),
                Content::Fault(fault) => panic!("{fault:?}"),
            })
            .map(|stored| stored.object)
            .collect()
    }

    #[track_caller]
    fn fault(text: &str) -> Fault {
        for document in read("f.yaml", text) {
            match document.content {
                Content::Fault(fault) => return fault,
                Content::Objects { faults, .. } if !faults.is_empty() => return faults[0].clone(),
                Content::Objects { .. } | Content::Empty | Content::Foreign => {}
            }
        }
        panic!("no fault");
    }

    const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: a\nspec:\n  cidr: 10.0.0.0/16\n";

    #[test]
    fn documents_are_cut_at_their_markers_and_keep_their_lines() {
        let text = format!(
            "# head\n---\n{POOL}--- # second\n{}",
            POOL.replace(": a", ": b")
        );
        let found: Vec<_> = read("f.yaml", &text)
            .iter()
            .map(|document| (document.span.clone(), document.line))
            .collect();
        assert_eq!(found.len(), 3);
        assert_eq!(
            found.iter().map(|(_, line)| *line).collect::<Vec<_>>(),
            [1, 2, 9]
        );
        let joined: String = found.iter().map(|(span, _)| &text[span.clone()]).collect();
        assert_eq!(joined, text);
        let names: Vec<_> = objects(&text)
            .into_iter()
            .map(|object| object.name)
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn lists_of_yaml_and_json_hold_objects() {
        let yaml = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: IPPool\n  metadata: {name: a}\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: d}\n";
        assert_eq!(objects(yaml).len(), 1);
        let json = r#"{"apiVersion":"projectcalico.org/v3","kind":"IPPoolList","items":[{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"a"}}]}"#;
        assert_eq!(objects(json)[0].name, "a");
    }

    #[test]
    fn a_broken_document_names_the_line_of_the_file_and_spares_its_neighbour() {
        let text = format!("{POOL}---\nkind: [\n");
        let found = fault(&text);
        assert!(
            found.reason.starts_with("line 8, ") || found.reason.starts_with("line 9, "),
            "{}",
            found.reason
        );
        assert_eq!(
            read("f.yaml", &text)
                .iter()
                .filter(|document| matches!(document.content, Content::Objects { .. }))
                .count(),
            1
        );
    }

    #[test]
    fn a_key_written_twice_is_a_fault() {
        assert!(
            fault(&format!("{POOL}spec: {{}}\n"))
                .reason
                .contains("spec")
        );
    }

    #[test]
    fn unknown_kinds_of_calico_are_faults_and_others_are_not_ours() {
        assert_eq!(
            fault("apiVersion: projectcalico.org/v3\nkind: IpPool\nmetadata: {name: a}\n").field,
            Some("kind".to_owned())
        );
        assert_eq!(
            objects("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n"),
            []
        );
    }

    #[test]
    fn names_that_are_not_text_are_faults() {
        assert!(
            fault("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: 12}\n")
                .reason
                .contains("quotes")
        );
        assert_eq!(
            fault("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {}\n").field,
            Some("metadata.name".to_owned())
        );
    }

    #[test]
    fn scalars_mean_what_yaml_1_2_says() {
        let value = parse_value("a: on\nb: 1732300000123456789\nc: null\nd: ~\ne: 010.1.1.1\nf: true\ng: 1:2\nh: 66:00:00:11:22:33\ni: 2024-01-01T00:00:00Z\nj: [null, 0, 3]\nk: ''\n", 1).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "a": "on", "b": 1_732_300_000_123_456_789_u64, "c": null, "d": null, "e": "010.1.1.1", "f": true,
                "g": "1:2", "h": "66:00:00:11:22:33", "i": "2024-01-01T00:00:00Z", "j": [null, 0, 3], "k": "",
            })
        );
    }

    #[test]
    fn the_version_tells_edits_and_rewrites_apart() {
        let first = &objects(POOL)[0];
        let edited = &objects(&POOL.replace("/16", "/17"))[0];
        let commented = &objects(&format!("# note\n{POOL}"))[0];
        assert_ne!(first.resource_version, edited.resource_version);
        assert_eq!(first.resource_version, commented.resource_version);
        assert_eq!(first.uid, edited.uid);
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        for text in [
            "",
            "---",
            "---\n---\n",
            "\u{feff}",
            "{",
            "[",
            "- a",
            "---x",
            "...\n",
            "%YAML 1.2\n---\n",
            "a: &a [*a]",
            "\0",
            "? x",
        ] {
            let _ = read("f.yaml", text);
        }
    }

    proptest::proptest! {
        #[test]
        fn spans_cover_the_text(text in "(---|[a: \n-]|\r\n){0,40}") {
            let joined: String = split(&text).into_iter().map(|(span, _)| text[span].to_owned()).collect();
            proptest::prop_assert_eq!(joined, text);
        }
    }
}
