//! The parts of a content: text, thoughts, binary data, calls and results.

use crate::fault::ApiError;
use crate::wire::chat::{Content, Part, Source};
use crate::wire::gemini::{ANTHROPIC_MARK, SIGNATURE_MARK};
use crate::wire::json::Node;
use serde_json::Value;

/// Calls and results need not carry ids in this dialect: results answer the calls of their name in order.
#[derive(Default)]
pub(super) struct Calls {
    made: u32,
    /// Name and id of calls that no result answered yet.
    open: Vec<(String, String)>,
}

impl Calls {
    /// The parts of one content.
    pub(super) fn parts(&mut self, content: &Node<'_>) -> Result<Vec<Part>, ApiError> {
        let mut parts = Vec::new();
        let nodes = match content.get("parts") {
            // A single part stands for a list of one, as in Google's own parsers.
            Some(one) if one.value.is_object() => vec![one],
            Some(list) => list.array()?,
            None => Vec::new(),
        };
        for node in nodes {
            self.part(&node, &mut parts)?;
        }
        Ok(parts)
    }

    fn part(&mut self, node: &Node<'_>, parts: &mut Vec<Part>) -> Result<(), ApiError> {
        node.object()?;
        let signature = node.any(["thoughtSignature", "thought_signature"]);
        let signature = signature.map(|signature| signature.string()).transpose()?;
        let mut push = |content| parts.push(Part::new(content, node.path.clone()));
        if let Some(call) = node.any(["functionCall", "function_call"]) {
            push(self.call(&call, signature)?);
            return Ok(());
        }
        let thought = node.get("thought").map(|thought| thought.bool()).transpose()?.unwrap_or(false);
        let marked = signature.map(|signature| neutral_signature(&signature));
        if let Some(text) = node.get("text") {
            let text = text.string()?;
            if thought {
                push(Content::Reasoning { text, signature: marked });
                return Ok(());
            }
            if !text.is_empty() || marked.is_none() {
                push(Content::Text(text));
            }
        } else if let Some(data) = node.any(["inlineData", "inline_data"]) {
            push(inline(&data)?);
        } else if let Some(file) = node.any(["fileData", "file_data"]) {
            push(file_data(&file)?);
        } else if let Some(response) = node.any(["functionResponse", "function_response"]) {
            push(self.response(&response)?);
        } else {
            return Err(node.error(
                "must hold `text`, `inlineData`, `fileData`, `functionCall` or `functionResponse` for the backend \
                 that serves this model",
            ));
        }
        if let Some(signature) = marked {
            push(Content::Reasoning { text: String::new(), signature: Some(signature) });
        }
        Ok(())
    }

    fn call(&mut self, call: &Node<'_>, signature: Option<String>) -> Result<Content, ApiError> {
        self.made += 1;
        let name = call.need("name")?.string()?;
        let id = match call.get("id") {
            Some(id) => id.string()?,
            None => format!("call_{}", self.made),
        };
        self.open.push((name.clone(), id.clone()));
        let arguments = match call.get("args") {
            Some(args) => {
                args.object()?;
                args.value.to_string()
            }
            None => "{}".to_owned(),
        };
        Ok(Content::ToolCall { id, name, arguments, signature })
    }

    fn response(&mut self, node: &Node<'_>) -> Result<Content, ApiError> {
        let name = node.need("name")?.string()?;
        let id = node.get("id").map(|id| id.string()).transpose()?;
        let open = self.open.iter().position(|(of, open)| match &id {
            Some(id) => id == open,
            None => *of == name,
        });
        let id = match open {
            Some(at) => self.open.remove(at).1,
            None => {
                return Err(node.error("answers a call that no earlier part of `contents` made"));
            }
        };
        let response = node.need("response")?;
        let (text, is_error) = result_text(response.object()?, response.value);
        let mut parts = vec![Part::new(Content::Text(text), response.path)];
        for part in node.get("parts").map(|parts| parts.array()).transpose()?.unwrap_or_default() {
            let data = part
                .any(["inlineData", "inline_data"])
                .ok_or_else(|| part.error("must hold `inlineData`"))?;
            parts.push(Part::new(inline(&data)?, part.path));
        }
        Ok(Content::ToolResult { id, parts, is_error })
    }
}

/// Google's convention: an object with the one key `output` (or `result`) or `error` stands for its value.
fn result_text(members: &serde_json::Map<String, Value>, whole: &Value) -> (String, bool) {
    let only = members.iter().next().filter(|_| members.len() == 1);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match only {
        Some((key, value)) if key == "output" || key == "result" => (text(value), false),
        Some((key, value)) if key == "error" => (text(value), true),
        _ => (whole.to_string(), false),
    }
}

/// A signature as other dialects carry it: Gemini's own marked, Anthropic's as it was.
fn neutral_signature(signature: &str) -> String {
    match signature.strip_prefix(ANTHROPIC_MARK) {
        // The SDKs write bytes in the URL-safe alphabet; Anthropic compares text.
        Some(own) => own.replace('-', "+").replace('_', "/"),
        None => format!("{SIGNATURE_MARK}{signature}"),
    }
}

fn inline(data: &Node<'_>) -> Result<Content, ApiError> {
    let mime = data.any(["mimeType", "mime_type"]).ok_or_else(|| data.error("must hold `mimeType`"))?;
    let media_type = mime.string()?;
    // Standard base64 is what other dialects take; some SDKs write the URL-safe alphabet.
    let content = data.need("data")?.str()?.replace('-', "+").replace('_', "/");
    binary(&mime, Source::Base64 { media_type: media_type.clone(), data: content }, &media_type)
}

fn file_data(file: &Node<'_>) -> Result<Content, ApiError> {
    let uri = file.any(["fileUri", "file_uri"]).ok_or_else(|| file.error("must hold `fileUri`"))?;
    let url = uri.str()?;
    if !url.starts_with("https://") || url.starts_with("https://generativelanguage.googleapis.com/") {
        return Err(uri.error("is known to one provider only; send a public `https:` URL or `inlineData`"));
    }
    let mime = file.any(["mimeType", "mime_type"]);
    let media_type = mime.as_ref().map_or(Ok("image/*"), Node::str)?.to_owned();
    binary(&mime.unwrap_or_else(|| uri.clone()), Source::Url(url.to_owned()), &media_type)
}

fn binary(mime: &Node<'_>, source: Source, media_type: &str) -> Result<Content, ApiError> {
    if media_type.starts_with("image/") {
        Ok(Content::Image { source, detail: None })
    } else if media_type == "application/pdf" {
        Ok(Content::Document { source, name: None })
    } else {
        Err(mime.error("must be an image type or `application/pdf` for the backend that serves this model"))
    }
}
