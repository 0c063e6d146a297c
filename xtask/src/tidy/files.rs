//! Rules for single files: their length, their name, and what was left in them.

use super::{Finding, source};
use crate::workspace::SourceFile;

/// Beyond it, some noun wants a file of its own.
const LINES_MAX: usize = 900;

pub(super) fn too_long(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| source::is_ours(file))
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| {
            let message =
                format!("{lines} lines, {LINES_MAX} at most: which noun wants its own file?");
            Finding::of_file(&file.path, message)
        })
        .collect()
}

/// `name/mod.rs` is called `name.rs` here. What integration tests share keeps the old name, since a
/// file beside them would be a test program of its own.
pub(super) fn named_mod(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| source::is_ours(file))
        .filter(|file| file.path.ends_with("/mod.rs") && !file.path.contains("/tests/"))
        .map(|file| Finding::of_file(&file.path, "name the file after its module, not mod.rs"))
        .collect()
}

/// Marks of unfinished work, and tests that do not run. Lints cover `todo!` and its kind.
pub(super) fn left_over(files: &[SourceFile]) -> Vec<Finding> {
    // In two parts, so that this file does not find itself.
    let marks = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO")];
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| source::is_ours(file)) {
        for mark in marks {
            if let Some(line) = source::first_word(&file.text, mark) {
                findings.push(Finding::at(
                    &file.path,
                    line,
                    format!("{mark}: do it, or say why not"),
                ));
            }
        }
        let code = source::code_of(&file.text);
        if let Some(index) = code.lines().position(|line| line.contains("#[ignore")) {
            let message = "an ignored test never fails: run it, or delete it";
            findings.push(Finding::at(&file.path, index + 1, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(findings: &[Finding]) -> Vec<(&str, Option<usize>)> {
        findings.iter().map(|finding| (finding.path.as_str(), finding.line)).collect()
    }

    #[test]
    fn long_files_are_found() {
        let files = [
            SourceFile::new("a/src/full.rs", &"\n".repeat(900)),
            SourceFile::new("a/src/long.rs", &"\n".repeat(901)),
            SourceFile::new("README.md", &"\n".repeat(2000)),
        ];
        assert_eq!(paths(&too_long(&files)), [("a/src/long.rs", None)]);
    }

    #[test]
    fn modules_are_named_after_themselves() {
        let files = [
            SourceFile::new("a/src/ring/mod.rs", ""),
            SourceFile::new("a/src/ring.rs", ""),
            SourceFile::new("a/tests/common/mod.rs", ""),
        ];
        assert_eq!(paths(&named_mod(&files)), [("a/src/ring/mod.rs", None)]);
    }

    #[test]
    fn left_overs_are_found() {
        let files = [
            SourceFile::new("a/src/a.rs", concat!("\n// FIX", "ME: later")),
            SourceFile::new("a/src/b.rs", concat!("// TO", "DO")),
            SourceFile::new("a/src/c.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"),
            SourceFile::new("a/src/d.rs", "// the attribute #[ignore] is not used\nfn to_do() {}"),
        ];
        let expected = [("a/src/a.rs", Some(2)), ("a/src/b.rs", Some(1)), ("a/src/c.rs", Some(2))];
        assert_eq!(paths(&left_over(&files)), expected);
    }
}
