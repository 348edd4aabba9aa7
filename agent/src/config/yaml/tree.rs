//! The tree out of the parser's events.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of what the parser tells, comments and the like mean nothing here"
)]

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle};

use super::{NODES, Node, Place, Step, Value, is_null};

/// Puts the tree together from the parser's events.
pub(super) struct Tree<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    path: Vec<Step>,
}

pub(super) type Broken = (Place, Vec<Step>, String);

impl<'a> Tree<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Node, Broken> {
        let mut tree = Self {
            parser: Parser::new_from_str(text),
            anchors: BTreeMap::new(),
            nodes: 0,
            path: Vec::new(),
        };
        let mut root = None;
        loop {
            let (event, place) = tree.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::MappingStart(..)
                | Event::Alias(_) => {
                    if root.is_some() {
                        return Err((place, Vec::new(), "expected one document, found two".into()));
                    }
                    root = Some(tree.node(event, place)?);
                }
                _ => {}
            }
        }
        // An empty file is a mapping without keys: what is wanting is then said by name.
        let mut root = root.unwrap_or(Node {
            place: Place { line: 1, column: 1 },
            value: Value::Map(Vec::new()),
        });
        if let Value::Scalar(text, true) = &root.value
            && is_null(text)
        {
            root.value = Value::Map(Vec::new());
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<(Event<'a>, Place), Broken> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(&span.start))),
            Some(Err(error)) => Err((
                place(error.marker()),
                self.path.clone(),
                format!("expected YAML: {}", error.info()),
            )),
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    fn node(&mut self, event: Event<'a>, at: Place) -> Result<Node, Broken> {
        self.nodes += 1;
        if self.nodes > NODES {
            let reason = format!("expected at most {NODES} values");
            return Err((at, self.path.clone(), reason));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                (anchor, Value::Scalar(text.into_owned(), plain))
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    let reason = "expected an alias of something whole".to_owned();
                    return Err((at, self.path.clone(), reason));
                };
                self.nodes += size(&node);
                // Complaints are about where it is used.
                return Ok(Node { place: at, ..node });
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, place) = self.next()?;
                    match event {
                        Event::SequenceEnd => break,
                        Event::Comment(..) => continue,
                        _ => {}
                    }
                    let index = items.len();
                    self.path.push(Step::Index(index));
                    items.push((index, self.node(event, place)?));
                    self.path.pop();
                }
                (anchor, Value::List(items))
            }
            Event::MappingStart(_, anchor, _) => (anchor, Value::Map(self.entries()?)),
            _ => {
                let reason = "expected a value".to_owned();
                return Err((at, self.path.clone(), reason));
            }
        };
        let node = Node { place: at, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self) -> Result<Vec<(String, Place, Node)>, Broken> {
        let mut entries: Vec<(String, Place, Node)> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Comment(..) => continue,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    let reason = "expected a word as key".to_owned();
                    return Err((at, self.path.clone(), reason));
                }
            };
            self.path.push(Step::Key(key.clone()));
            if let Some((_, first, _)) = entries.iter().find(|(name, ..)| *name == key) {
                let reason = format!(
                    "expected each field once, found `{key}` again (first on line {})",
                    first.line
                );
                return Err((at, self.path.clone(), reason));
            }
            let (event, place) = loop {
                match self.next()? {
                    (Event::Comment(..), _) => {}
                    other => break other,
                }
            };
            let node = self.node(event, place)?;
            self.path.pop();
            entries.push((key, at, node));
        }
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(..) => 1,
        Value::List(items) => 1 + items.iter().map(|(_, node)| size(node)).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(.., node)| size(node)).sum::<usize>(),
    }
}

fn place(marker: &granit_parser::Marker) -> Place {
    let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    Place {
        line: number(marker.line()),
        column: number(marker.col()) + 1,
    }
}
