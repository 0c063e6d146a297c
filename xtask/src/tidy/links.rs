//! Relative links between documents lead somewhere.

use super::Finding;
use crate::workspace::SourceFile;

/// Links of Markdown files to files that do not exist; `exists` is asked with paths relative to the
/// root.
pub(super) fn broken(files: &[SourceFile], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in links(&file.text) {
            let path = target.split(['#', '?']).next().unwrap_or_default();
            // An anchor in the same file, or an address with a scheme.
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !resolve(&file.path, path).is_some_and(|path| exists(&path)) {
                let message = format!("the link leads nowhere: {target}");
                findings.push(Finding::at(&file.path, line, message));
            }
        }
    }
    findings
}

/// The targets of `[text](target)` and `[label]: target` outside code, with their lines.
fn links(markdown: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_block = false;
    for (index, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        // Every other part lies between backticks: code.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        let targets = text.match_indices("](").filter_map(|(at, opening)| {
            text[at + opening.len()..].split_once(')').map(|(target, _)| target)
        });
        let label = text.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        let targets = targets.chain(label.map(|(_, target)| target));
        links.extend(
            // A title may follow the target.
            targets
                .filter_map(|target| target.split_whitespace().next())
                .map(|target| (index + 1, target.trim_matches(['<', '>']).to_owned())),
        );
    }
    links
}

/// The target as seen from the root; `None` if it leaves the workspace.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(Option<usize>, String)> {
        let exists = |path: &str| ["README.md", "docs/glossary.md", "docs", ""].contains(&path);
        broken(&[SourceFile::new(path, text)], &exists)
            .into_iter()
            .map(|finding| (finding.line, finding.message))
            .collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let text = "[a](docs/glossary.md) [b](./docs/glossary.md#chain \"title\") [c](#here)\n\
                    [d](https://example.org/x) [e](docs/) [f](mailto:x@example.org)\n\
                    [g]: docs/glossary.md\n";
        assert_eq!(found("README.md", text), []);
        assert_eq!(found("docs/adr/0000.md", "[a](../glossary.md) [b](../../README.md)"), []);
        assert_eq!(found("docs/a.md", "[a](/README.md)"), []);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "fine\n[a](gone.md) and [b](docs/gone.md#x)\n[c]: gone.md\n[d](../outside.md)";
        let lines: Vec<_> = found("README.md", text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [Some(2), Some(2), Some(3), Some(4)]);
    }

    #[test]
    fn code_holds_no_links() {
        assert_eq!(found("README.md", "`x[0](gone)`\n```rust\ny[0](gone)\n```\n"), []);
    }
}
