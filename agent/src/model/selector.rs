//! Calico's selector language: expressions over labels.
//!
//! ```text
//! or      = and { "||" and }
//! and     = unary { "&&" unary }
//! unary   = "!" unary | "(" or ")" | "all()" | "global()" | "has(" key ")" | key compare
//! compare = "==" str | "!=" str | "in" "{" [str {"," str}] "}" | "not in" "{" … "}"
//!         | "contains" str | "starts with" str | "ends with" str
//! ```
//! Strings stand in single or double quotes and know no escapes. An empty selector is `all()`.
//! `!=` and `not in` hold for objects without the label; every other comparison does not.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::Labels;

/// How deep parentheses and negations may nest: more than any selector people write, and far from the end of the stack.
const MAX_DEPTH: usize = 100;

/// A parsed selector.
#[derive(Clone, Debug)]
pub struct Selector {
    text: String,
    root: Expr,
}

/// Two selectors are equal when they mean the same tree, however they are spaced.
impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl Eq for Selector {}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Selector {
    /// The selector `all()`.
    #[must_use]
    pub fn all() -> Self {
        Self {
            text: "all()".to_owned(),
            root: Expr::All,
        }
    }

    /// Parses a selector.
    ///
    /// # Errors
    /// Says where the text stops making sense, and what was expected there.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::all());
        }
        let mut parser = Parser { text, at: 0 };
        let root = parser.or(0)?;
        parser.skip_space();
        if parser.at < text.len() {
            return Err(parser.expected("`&&`, `||` or the end"));
        }
        Ok(Self {
            text: text.to_owned(),
            root,
        })
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.root.matches(labels)
    }

    /// Whether the selector is `all()` itself.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.root == Expr::All
    }

    /// Whether `global()` occurs in it.
    #[must_use]
    pub fn uses_global(&self) -> bool {
        self.root.uses_global()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// The text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {column} of `{text}`: expected {expected}, found {found}")]
pub struct SelectorError {
    /// The whole selector.
    pub text: String,
    /// Which character, from 1.
    pub column: usize,
    /// What could have stood there.
    pub expected: String,
    /// What does stand there.
    pub found: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    All,
    Global,
    Has(String),
    Equal(String, String),
    NotEqual(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Expr {
    fn matches(&self, labels: &Labels) -> bool {
        let holds = |key: &str, test: &dyn Fn(&str) -> bool| {
            labels.get(key).is_some_and(|value| test(value))
        };
        match self {
            // `global()` narrows policies to objects without a namespace; where margay evaluates selectors there is nothing to narrow.
            Self::All | Self::Global => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equal(key, want) => holds(key, &|value| value == want),
            Self::NotEqual(key, want) => !holds(key, &|value| value == want),
            Self::In(key, set) => holds(key, &|value| set.contains(value)),
            Self::NotIn(key, set) => !holds(key, &|value| set.contains(value)),
            Self::Contains(key, part) => holds(key, &|value| value.contains(part.as_str())),
            Self::StartsWith(key, part) => holds(key, &|value| value.starts_with(part.as_str())),
            Self::EndsWith(key, part) => holds(key, &|value| value.ends_with(part.as_str())),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(all) => all.iter().all(|inner| inner.matches(labels)),
            Self::Or(any) => any.iter().any(|inner| inner.matches(labels)),
        }
    }

    fn uses_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(inner) => inner.uses_global(),
            Self::And(list) | Self::Or(list) => list.iter().any(Self::uses_global),
            Self::All
            | Self::Has(_)
            | Self::Equal(..)
            | Self::NotEqual(..)
            | Self::In(..)
            | Self::NotIn(..)
            | Self::Contains(..)
            | Self::StartsWith(..)
            | Self::EndsWith(..) => false,
        }
    }
}

/// Recursive descent over the text; `at` is a byte offset on a character boundary.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Takes a symbol such as `&&` if it stands here.
    fn symbol(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(symbol);
        if found {
            self.at += symbol.len();
        }
        found
    }

    /// Takes a word if it stands here whole.
    fn word(&mut self, word: &str) -> bool {
        self.skip_space();
        let found = self
            .rest()
            .strip_prefix(word)
            .is_some_and(|after| !after.starts_with(is_key_character));
        if found {
            self.at += word.len();
        }
        found
    }

    /// Takes `name ( )` or, with nothing taken, says no.
    fn call(&mut self, name: &str) -> bool {
        let start = self.at;
        if self.word(name) && self.symbol("(") {
            return true;
        }
        self.at = start;
        false
    }

    fn expected(&self, expected: &str) -> SelectorError {
        let rest = self.rest().trim_start();
        let at = self.text.len() - rest.len();
        let found = match rest.chars().next() {
            None => "the end".to_owned(),
            Some(first) if is_key_character(first) => {
                let end = rest
                    .find(|next| !is_key_character(next))
                    .unwrap_or(rest.len());
                format!("`{}`", rest.get(..end).unwrap_or(rest))
            }
            Some(first) => format!("`{first}`"),
        };
        SelectorError {
            text: self.text.to_owned(),
            column: self
                .text
                .get(..at)
                .map_or(0, |before| before.chars().count())
                + 1,
            expected: expected.to_owned(),
            found,
        }
    }

    fn or(&mut self, depth: usize) -> Result<Expr, SelectorError> {
        let first = self.and(depth)?;
        let mut list = vec![first];
        while self.symbol("||") {
            list.push(self.and(depth)?);
        }
        Ok(single_or(list, Expr::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, SelectorError> {
        let first = self.unary(depth)?;
        let mut list = vec![first];
        while self.symbol("&&") {
            list.push(self.unary(depth)?);
        }
        Ok(single_or(list, Expr::And))
    }

    fn unary(&mut self, depth: usize) -> Result<Expr, SelectorError> {
        if depth > MAX_DEPTH {
            return Err(self.expected("fewer nested parentheses"));
        }
        self.skip_space();
        if self.symbol("!") {
            return Ok(Expr::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.symbol("(") {
            let inner = self.or(depth + 1)?;
            self.close(")")?;
            return Ok(inner);
        }
        if self.call("all") {
            self.close(")")?;
            return Ok(Expr::All);
        }
        if self.call("global") {
            self.close(")")?;
            return Ok(Expr::Global);
        }
        if self.call("has") {
            let key = self.key()?;
            self.close(")")?;
            return Ok(Expr::Has(key));
        }
        let key = self.key()?;
        self.comparison(key)
    }

    fn comparison(&mut self, key: String) -> Result<Expr, SelectorError> {
        if self.symbol("==") {
            return Ok(Expr::Equal(key, self.string()?));
        }
        if self.symbol("!=") {
            return Ok(Expr::NotEqual(key, self.string()?));
        }
        let start = self.at;
        if self.word("not") {
            if self.word("in") {
                return Ok(Expr::NotIn(key, self.set()?));
            }
            self.at = start;
        }
        if self.word("in") {
            return Ok(Expr::In(key, self.set()?));
        }
        if self.word("contains") {
            return Ok(Expr::Contains(key, self.string()?));
        }
        if self.word("starts") {
            if !self.word("with") {
                return Err(self.expected("`with`"));
            }
            return Ok(Expr::StartsWith(key, self.string()?));
        }
        if self.word("ends") {
            if !self.word("with") {
                return Err(self.expected("`with`"));
            }
            return Ok(Expr::EndsWith(key, self.string()?));
        }
        Err(self.expected("`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with`"))
    }

    fn close(&mut self, symbol: &str) -> Result<(), SelectorError> {
        if self.symbol(symbol) {
            Ok(())
        } else {
            Err(self.expected(&format!("`{symbol}`")))
        }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        self.skip_space();
        let rest = self.rest();
        let end = rest
            .find(|next| !is_key_character(next))
            .unwrap_or(rest.len());
        match rest.get(..end) {
            Some(key) if !key.is_empty() => {
                self.at += end;
                Ok(key.to_owned())
            }
            _ => Err(self.expected("a label, `has(…)`, `all()`, `!` or `(`")),
        }
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        self.skip_space();
        let rest = self.rest();
        let quote = rest
            .chars()
            .next()
            .filter(|first| matches!(first, '\'' | '"'));
        let Some(quote) = quote else {
            return Err(self.expected("a value in quotes"));
        };
        let inside = rest.get(1..).unwrap_or("");
        let Some(end) = inside.find(quote) else {
            self.at = self.text.len();
            return Err(self.expected(&format!("a closing `{quote}`")));
        };
        self.at += end + 2;
        Ok(inside.get(..end).unwrap_or("").to_owned())
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.symbol("{") {
            return Err(self.expected("`{`"));
        }
        let mut values = BTreeSet::new();
        // Calico admits the empty set and a comma before the brace.
        while !self.symbol("}") {
            values.insert(self.string()?);
            if !self.symbol(",") {
                self.skip_space();
                if !self.rest().starts_with('}') {
                    return Err(self.expected("`,` or `}`"));
                }
            }
        }
        Ok(values)
    }
}

fn is_key_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '/' | '-')
}

fn single_or(mut list: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match list.pop() {
        Some(only) if list.is_empty() => only,
        Some(last) => {
            list.push(last);
            join(list)
        }
        None => Expr::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[track_caller]
    fn check(selector: &str, on: &str, want: bool) {
        let parsed = Selector::parse(selector).unwrap();
        assert_eq!(parsed.matches(&labels(on)), want, "{selector} on {on}");
    }

    #[track_caller]
    fn refuse(selector: &str, column: usize, expected: &str) {
        let error = Selector::parse(selector).unwrap_err();
        assert_eq!(error.column, column, "{error}");
        assert!(error.expected.contains(expected), "{error}");
    }

    #[test]
    fn every_operator_on_present_and_absent_labels() {
        for (selector, present, absent) in [
            ("a == 'x1'", true, false),
            ("a != 'x1'", false, true),
            ("a == \"y\"", false, false),
            ("a != \"y\"", true, true),
            ("a in {'x1', 'y'}", true, false),
            ("a in {}", false, false),
            ("a not in {'x1',}", false, true),
            ("a   not   in   { 'y' }", true, true),
            ("has(a)", true, false),
            ("!has( a )", false, true),
            ("a contains 'x'", true, false),
            ("a starts with 'x'", true, false),
            ("a starts  with '1'", false, false),
            ("a ends with '1'", true, false),
            ("all()", true, true),
            ("all( )", true, true),
            ("global()", true, true),
            ("", true, true),
            ("  ", true, true),
        ] {
            check(selector, "a=x1", present);
            check(selector, "", absent);
        }
    }

    #[test]
    fn and_binds_tighter_than_or() {
        check("has(a) || has(b) && has(c)", "a=1", true);
        check("(has(a) || has(b)) && has(c)", "a=1", false);
        check("!has(a) && has(b)", "b=1", true);
        check("!(has(a) && has(b))", "a=1 b=1", false);
        check("!!has(a)", "a=1", true);
    }

    #[test]
    fn words_of_the_language_may_be_labels() {
        check("has == 'x'", "has=x", true);
        check("all in {'x'}", "all=x", true);
        check("in in {'x'}", "in=x", true);
        check("not not in {'x'}", "not=x", false);
        check("contains contains 'x'", "contains=axb", true);
        check("ina == 'x'", "ina=x", true);
    }

    #[test]
    fn keys_may_be_qualified_and_start_with_a_digit() {
        check(
            "kubernetes.io/hostname == 'n-1'",
            "kubernetes.io/hostname=n-1",
            true,
        );
        check("has(3scale.net/x)", "3scale.net/x=", true);
    }

    #[test]
    fn spacing_does_not_matter_to_equality() {
        assert_eq!(
            Selector::parse("a=='x'&&has(b)").unwrap(),
            Selector::parse(" a == \"x\"  && has( b )").unwrap()
        );
    }

    #[test]
    fn errors_point_at_the_place() {
        refuse("a = 'x'", 3, "`==`");
        refuse("a == x", 6, "in quotes");
        refuse("a == 'x", 8, "closing `'`");
        refuse("a in 'x'", 6, "`{`");
        refuse("a in {'x' 'y'}", 11, "`,` or `}`");
        refuse("(a == 'x'", 10, "`)`");
        refuse("a == 'x' b", 10, "the end");
        refuse("a == 'x' &&", 12, "a label");
        refuse("has()", 5, "a label");
        refuse("a starts 'x'", 10, "`with`");
        refuse("a == 'ü' ü", 10, "the end");
        refuse("a", 2, "`==`");
    }

    #[test]
    fn endless_nesting_is_refused_and_does_not_overflow() {
        assert!(Selector::parse(&"(".repeat(100_000)).is_err());
        assert!(Selector::parse(&"!".repeat(100_000)).is_err());
        assert!(Selector::parse(&format!("{}has(a){}", "(".repeat(50), ")".repeat(50))).is_ok());
    }

    #[test]
    fn global_is_found_wherever_it_stands() {
        assert!(
            Selector::parse("has(a) || !(global())")
                .unwrap()
                .uses_global()
        );
        assert!(!Selector::parse("all()").unwrap().uses_global());
    }
}
