//! A cursor over parsed JSON whose errors name the field.

use crate::fault::{ApiError, ErrorKind};
use serde_json::{Map, Value};
use std::fmt;

/// A value with its path from the body's root, so that an error can name it.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> Node<'a> {
    /// The root of a body.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// An error that blames this node; `what` continues "`path` …".
    pub(crate) fn error(&self, what: impl fmt::Display) -> ApiError {
        if self.path.is_empty() {
            return ApiError::new(ErrorKind::InvalidRequest, format!("the request body {what}"));
        }
        ApiError::new(ErrorKind::InvalidRequest, format!("`{}` {what}", self.path))
            .with_param(self.path.clone())
    }

    /// The path of a member.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A member, `null` counting as absent.
    pub(crate) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Node { value, path: self.path_of(key) })
    }

    /// The first present of several spellings of one member (Gemini allows camelCase and snake_case).
    pub(crate) fn any(&self, keys: [&str; 2]) -> Option<Node<'a>> {
        self.get(keys[0]).or_else(|| self.get(keys[1]))
    }

    /// A member that must be there.
    pub(crate) fn need(&self, key: &str) -> Result<Node<'a>, ApiError> {
        self.get(key).ok_or_else(|| {
            let missing = Node { value: self.value, path: self.path_of(key) };
            missing.error("is missing")
        })
    }

    /// The node as an object.
    pub(crate) fn object(&self) -> Result<&'a Map<String, Value>, ApiError> {
        self.value.as_object().ok_or_else(|| self.error("must be an object"))
    }

    /// The node as an array of nodes.
    pub(crate) fn array(&self) -> Result<Vec<Node<'a>>, ApiError> {
        let values = self.value.as_array().ok_or_else(|| self.error("must be an array"))?;
        Ok(values
            .iter()
            .enumerate()
            .map(|(index, value)| Node { value, path: format!("{}[{index}]", self.path) })
            .collect())
    }

    /// The node as a string.
    pub(crate) fn str(&self) -> Result<&'a str, ApiError> {
        self.value.as_str().ok_or_else(|| self.error("must be a string"))
    }

    /// The node as an owned string.
    pub(crate) fn string(&self) -> Result<String, ApiError> {
        self.str().map(str::to_owned)
    }

    /// The node as a boolean.
    pub(crate) fn bool(&self) -> Result<bool, ApiError> {
        self.value.as_bool().ok_or_else(|| self.error("must be true or false"))
    }

    /// The node as a number.
    pub(crate) fn f64(&self) -> Result<f64, ApiError> {
        self.value.as_f64().ok_or_else(|| self.error("must be a number"))
    }

    /// The node as a whole number, at most `u32::MAX`.
    pub(crate) fn u32(&self) -> Result<u32, ApiError> {
        whole(self.value)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| self.error("must be a whole number that is not negative"))
    }

    /// The node as a whole number with a sign.
    pub(crate) fn i64(&self) -> Result<i64, ApiError> {
        whole(self.value).ok_or_else(|| self.error("must be a whole number"))
    }

    /// The node as one string or an array of strings.
    pub(crate) fn strings(&self) -> Result<Vec<String>, ApiError> {
        match self.value {
            Value::String(one) => Ok(vec![one.clone()]),
            _ => self.array()?.iter().map(Node::string).collect(),
        }
    }

    /// Member keys that are not in `known` and not `null`, as paths.
    pub(crate) fn unknown(&self, known: &[&str]) -> Vec<String> {
        let Some(members) = self.value.as_object() else {
            return Vec::new();
        };
        members
            .iter()
            .filter(|(key, value)| !value.is_null() && !known.contains(&key.as_str()))
            .map(|(key, _)| self.path_of(key))
            .collect()
    }
}

/// A whole number, also where it was written like `5.0`.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked, the fraction is zero")]
        (float.fract() == 0.0 && float.abs() < 9.0e15).then_some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::parse;

    #[test]
    fn an_error_names_the_field_by_its_path() {
        let body = parse(r#"{"messages":[{"role":1}]}"#).unwrap();
        let role = Node::root(&body).need("messages").unwrap().array().unwrap()[0].need("role").unwrap();
        assert_eq!(role.str().unwrap_err().param.as_deref(), Some("messages[0].role"));
    }
}
