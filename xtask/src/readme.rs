//! The README's commands: fenced blocks marked `sh ci`, which readers see as plain shell. Those marked `sh ci
//! hosts` make hosts for themselves.

use anyhow::{Result, ensure};

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) text: String,
    /// It makes network namespaces.
    pub(crate) makes_hosts: bool,
}

/// The scripts of a Markdown text, in order.
///
/// # Errors
/// If there is none (the mark was lost), if a block has no end, or if a block would run this very
/// program's tests and so never end.
pub(crate) fn commands(markdown: &str) -> Result<Vec<Script>> {
    let mut scripts = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(marks) = line.trim_start().strip_prefix("```") else { continue };
        let mut block = String::new();
        let mut closed = false;
        for line in lines.by_ref() {
            if line.trim() == "```" {
                closed = true;
                break;
            }
            block.push_str(line);
            block.push('\n');
        }
        ensure!(closed, "a code block has no end: ```{marks}");
        let makes_hosts = marks.split_whitespace().eq(["sh", "ci", "hosts"]);
        if makes_hosts || marks.split_whitespace().eq(["sh", "ci"]) {
            for task in ["xtask test", "xtask ci"] {
                ensure!(!block.contains(task), "a command of the README would run itself: {task}");
            }
            scripts.push(Script { text: block, makes_hosts });
        }
    }
    ensure!(!scripts.is_empty(), "the README has no block marked ```sh ci");
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_are_scripts_in_order() {
        let text = "# Title\n```sh ci\none\ntwo\n```\ntext\n```sh\nnot me\n```\n\
                    ```rust\nlet x = \"```sh ci\";\n```\n  ```sh ci hosts\n  three\n  ```\n";
        let script = |text: &str, makes_hosts| Script { text: text.to_owned(), makes_hosts };
        assert_eq!(
            commands(text).unwrap(),
            [script("one\ntwo\n", false), script("  three\n", true)]
        );
    }

    #[test]
    fn a_readme_without_commands_is_refused() {
        for text in ["", "```sh\nls\n```\n", "```sh circus\nls\n```\n"] {
            assert!(commands(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn unclosed_and_self_referring_blocks_are_refused() {
        assert!(commands("```sh ci\nls\n").unwrap_err().to_string().contains("no end"));
        let itself = commands("```sh ci\ncargo xtask test\n```\n").unwrap_err();
        assert!(itself.to_string().contains("itself"));
    }
}
