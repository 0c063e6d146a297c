//! Which commands a document has, where they run, and what they print.

/// Commands that run together.
#[derive(Debug, PartialEq)]
pub struct Block {
    /// Of its first line in the document.
    pub line: usize,
    /// The hosts that it runs on, in this order, from 0.
    pub hosts: Vec<usize>,
    pub script: String,
    /// What it prints, if the document says so: `…` stands for anything, and alone on a line for lines.
    pub expected: Option<String>,
}

/// The blocks marked as `sh host1`, or with several hosts. A block marked as `text` behind one is what it prints. Those
/// marked `sh ci` are run elsewhere.
///
/// # Panics
/// If there is none, one has no end, or shell commands have no mark: nobody would run them.
pub fn blocks(markdown: &str, hosts: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = (1..).zip(markdown.lines());
    // Whether nothing stands between a block's commands and this line.
    let mut is_behind = false;
    while let Some((line, text)) = lines.next() {
        let Some(marks) = text.strip_prefix("```") else {
            is_behind = false;
            continue;
        };
        let mut body = String::new();
        loop {
            let (_, text) = lines.next().unwrap_or_else(|| panic!("line {line}: no end"));
            if text == "```" {
                break;
            }
            body.push_str(text);
            body.push('\n');
        }
        let mut words = marks.split_whitespace();
        match words.next() {
            Some("sh") => {
                let marks: Vec<_> = words.collect();
                is_behind = marks != ["ci"];
                if is_behind {
                    let host = |mark: &&str| {
                        let number = mark.strip_prefix("host")?.parse::<usize>().ok()?;
                        number.checked_sub(1).filter(|host| *host < hosts)
                    };
                    let known: Option<Vec<_>> = marks.iter().map(host).collect();
                    let hosts = known.filter(|hosts| !hosts.is_empty());
                    let hosts = hosts.unwrap_or_else(|| panic!("line {line}: on which host?"));
                    blocks.push(Block { line: line + 1, hosts, script: body, expected: None });
                }
            }
            Some("text") if is_behind => {
                blocks.last_mut().expect("it is behind one").expected = Some(body);
            }
            marks => panic!("line {line}: {marks:?} is nothing that the test knows"),
        }
    }
    assert!(!blocks.is_empty(), "the document has no commands");
    blocks
}

/// Whether a text is as expected.
pub fn matches(expected: &str, found: &str) -> bool {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    lines_match(&expected, &found)
}

fn lines_match(expected: &[&str], found: &[&str]) -> bool {
    match expected {
        [] => found.is_empty(),
        ["…", rest @ ..] => (0..=found.len()).any(|from| lines_match(rest, &found[from..])),
        [line, rest @ ..] => found
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && lines_match(rest, others)),
    }
}

fn line_matches(expected: &str, found: &str) -> bool {
    match expected.split_once('…') {
        None => expected == found,
        Some((before, rest)) => found.strip_prefix(before).is_some_and(|found| {
            let ends = found.char_indices().map(|(at, _)| at).chain([found.len()]);
            ends.into_iter().any(|at| line_matches(rest, &found[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_have_hosts_and_what_they_print() {
        let text = "# Title\n```sh ci\nmake\n```\n```sh host1 host3\none\ntwo\n```\n```text\n1\n```\n\
                    words\n```sh host2\nthree\n```\n";
        let block = |line, hosts: &[usize], script: &str, expected: Option<&str>| Block {
            line,
            hosts: hosts.to_vec(),
            script: script.into(),
            expected: expected.map(str::to_owned),
        };
        let expected =
            [block(6, &[0, 2], "one\ntwo\n", Some("1\n")), block(14, &[1], "three\n", None)];
        assert_eq!(blocks(text, 3), expected);
    }

    #[test]
    fn commands_that_nobody_would_run_are_refused() {
        for text in [
            "```sh\nls\n```\n",
            "```sh host4\nls\n```\n",
            "```sh host1 ci\nls\n```\n",
            "```sh host1\nls\n",
            "```sh host1\nls\n```\nwords\n```text\na\n```\n",
            "```bash\nls\n```\n",
            "words\n",
        ] {
            assert!(std::panic::catch_unwind(|| blocks(text, 3)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_differs_may_differ_and_nothing_else() {
        for (expected, found) in [
            ("a\n", "a\n"),
            ("a…c\n", "abbc\n"),
            ("…b…\n", "abc\n"),
            ("…\nz\n", "a\nb\nz\n"),
            ("…\nz\n", "z\n"),
            ("", ""),
        ] {
            assert!(matches(expected, found), "{expected:?} {found:?}");
        }
        for (expected, found) in
            [("a\n", "a\nb\n"), ("a…c\n", "ab\n"), ("…\nz\n", "z\na\n"), ("a\n", ""), ("", "a\n")]
        {
            assert!(!matches(expected, found), "{expected:?} {found:?}");
        }
    }
}
