//! Types out of the tree: what serde asks, answered with the path and the place of what does not fit.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Fault, Node, Place, Step, Value, is_null};

impl<'a> Node {
    fn scalar(&'a self, expected: &str) -> Result<&'a str, Fault> {
        match &self.value {
            Value::Scalar(text, plain) if !(*plain && is_null(text)) => Ok(text),
            Value::Scalar(..) | Value::List(_) | Value::Map(_) => Err(Fault::custom(format!(
                "expected {expected}, found {}",
                self.kind()
            ))),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty: $wanted:literal),+ $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let text = self.scalar($wanted)?;
            match text.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Fault::custom(format!(
                    concat!("expected ", $wanted, ", found `{}`"), text
                ))),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Scalar(text, true) if is_null(text) => visitor.visit_unit(),
            Value::Scalar(text, true) => match (text.as_str(), text.parse::<u64>()) {
                ("true", _) => visitor.visit_bool(true),
                ("false", _) => visitor.visit_bool(false),
                // Only what is written as it prints: `007` and `+7` stay words.
                (_, Ok(number)) if number.to_string() == *text => visitor.visit_u64(number),
                _ => visitor.visit_str(text),
            },
            Value::Scalar(text, false) => visitor.visit_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            // A key with nothing behind it is a template's value that was not filled in more often than a wish for none, and
            // without what was to stand there a session might be open to everybody.
            Value::Scalar(text, true) if is_null(text) => {
                visitor.visit_some(self).map_err(|mut fault: Fault| {
                    fault
                        .reason
                        .push_str("; without the field its default holds");
                    fault
                })
            }
            Value::Scalar(..) | Value::List(_) | Value::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.scalar("true or false")? {
            "true" | "True" | "TRUE" => visitor.visit_bool(true),
            "false" | "False" | "FALSE" => visitor.visit_bool(false),
            other => Err(Fault::custom(format!(
                "expected true or false, found `{other}`"
            ))),
        }
    }

    numbers! {
        deserialize_u8 visit_u8 u8: "a number from 0 to 255",
        deserialize_u16 visit_u16 u16: "a number from 0 to 65535",
        deserialize_u32 visit_u32 u32: "a number from 0 to 4294967295",
        deserialize_u64 visit_u64 u64: "a number",
        deserialize_i8 visit_i8 i8: "a number from -128 to 127",
        deserialize_i16 visit_i16 i16: "a number from -32768 to 32767",
        deserialize_i32 visit_i32 i32: "a number",
        deserialize_i64 visit_i64 i64: "a number",
        deserialize_f32 visit_f32 f32: "a number",
        deserialize_f64 visit_f64 f64: "a number",
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Scalar(text, plain) if !(*plain && is_null(text)) => visitor.visit_str(text),
            Value::Scalar(..) | Value::List(_) | Value::Map(_) => {
                let expected: &dyn Expected = &visitor;
                Err(Fault::custom(format!(
                    "expected {expected}, found {}",
                    self.kind()
                )))
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Scalar(..) | Value::Map(_) => Err(Fault::custom(format!(
                "expected a list, found {}",
                self.kind()
            ))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
            }),
            Value::Scalar(..) | Value::List(_) => Err(Fault::custom(format!(
                "expected a mapping, found {}",
                self.kind()
            ))),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(entries) => match entries.as_slice() {
                [(key, at, node)] => visitor
                    .visit_enum(Variant { key, node })
                    .map_err(|fault| fault.under(Step::Key(key.clone()), *at)),
                _ => Err(Fault::custom(
                    "expected a mapping with one field".to_owned(),
                )),
            },
            Value::Scalar(text, _) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::List(_) => Err(Fault::custom("expected one value, found a list")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

struct Items<'de>(std::slice::Iter<'de, (usize, Node)>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(node)
            .map(Some)
            .map_err(|fault| fault.under(Step::Index(*index), node.place))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, (String, Place, Node)>,
    value: Option<&'de (String, Place, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.entries.next();
        let Some((key, at, _)) = self.value else {
            return Ok(None);
        };
        let word: StrDeserializer<'de, Fault> = key.as_str().into_deserializer();
        seed.deserialize(word)
            .map(Some)
            .map_err(|fault| fault.under(Step::Key(key.clone()), *at))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, _, node)) = self.value.take() else {
            return Err(Fault::custom("a value without key"));
        };
        seed.deserialize(node)
            .map_err(|fault| fault.under(Step::Key(key.clone()), node.place))
    }
}

struct Variant<'de> {
    key: &'de str,
    node: &'de Node,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let word: StrDeserializer<'de, Fault> = self.key.into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Err(Fault::custom(format!(
            "expected nothing, found {}",
            self.node.kind()
        )))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.node)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.node.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.node.deserialize_map(visitor)
    }
}
