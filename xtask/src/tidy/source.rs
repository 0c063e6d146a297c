//! Rust source as far as tidy understands it: what is code, and what is comment or text.

use crate::workspace::SourceFile;

/// True for Rust files of this workspace. The baselines under `bench/peers` are a workspace of
/// their own, kept as they were measured.
pub(super) fn is_ours(file: &SourceFile) -> bool {
    file.path.ends_with(".rs") && !file.path.starts_with("bench/peers/")
}

/// The text with comments, string and character literals blanked out; lines keep their numbers.
pub(super) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    // Whether what comes before could make `r"` the end of a name.
    let mut in_word = false;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else if !in_word && first == 'r' {
            raw_string(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            // The prefixes `b` and `c` leave a raw string's `r` at the start of a word.
            in_word = (first.is_alphanumeric() || first == '_')
                && !matches!(first, 'b' | 'c' if !in_word);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            in_word = false;
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of the comment at the start of `text`; comments nest.
fn block_comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string literal at the start of `text`.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal at the start of `text`; 0 if it is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // What follows the backslash may be a quote itself.
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(text.len(), |(at, _)| at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// The length of the raw string literal at the start of `text`; 0 if it is none.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let opening = 1 + hashes + 1;
    if text.as_bytes().get(opening - 1) != Some(&b'"') {
        return 0;
    }
    let closing = format!("\"{}", "#".repeat(hashes));
    text[opening..].find(&closing).map_or(text.len(), |at| opening + at + closing.len())
}

/// The line, from 1, of the first place where `word` stands alone.
pub(super) fn first_word(code: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.lines()
        .position(|line| {
            line.match_indices(word).any(|(at, _)| {
                !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
            })
        })
        .map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let table = [
            ("a // b\nc", "a  \nc"),
            ("a /* b /* c */ d\n */ e", "a  \n e"),
            (r#"a "b \" c" d"#, "a   d"),
            ("a '\\'' b '\"' c", "a   b   c"),
            ("r\"b\\\" c", "  c"),
            ("r#\"b \" c\"# d", "  d"),
            ("br#\"b\"# d", "b  d"),
            ("bar\"b\" d", "bar  d"),
            ("r#type d", "r#type d"),
            ("fn f<'a>(x: &'a str) { 'b' }", "fn f<'a>(x: &'a str) {   }"),
            ("\"// no comment\" d", "  d"),
            ("// \"no text\nd", " \nd"),
            ("/* open", " "),
            ("\"open", " "),
            ("'é' d", "  d"),
        ];
        for (text, code) in table {
            assert_eq!(code_of(text), code, "{text}");
        }
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(first_word("a\nunsafe { }", "unsafe"), Some(2));
        assert_eq!(first_word("(unsafe)", "unsafe"), Some(1));
        assert_eq!(first_word("unsafe_code my_unsafe unsafe2", "unsafe"), None);
    }
}
