//! The rules of this workspace that no compiler knows. Each check is a pure function from what was
//! read to what is wrong with it.

mod edges;
mod files;
mod links;
mod places;
mod source;
mod unsafety;

use crate::workspace::Workspace;
use anyhow::Result;
use std::fmt;

pub(crate) use unsafety::crates_with_unsafe_code;

/// A rule that does not hold somewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file, relative to the workspace's root.
    path: String,
    /// The line, from 1, if there is one.
    line: Option<usize>,
    /// What is wrong and what to do.
    message: String,
}

impl Finding {
    fn of_file(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, message: message.into() }
    }

    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: Some(line), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Checks the workspace against every rule.
pub(crate) fn findings(workspace: &Workspace) -> Result<Vec<Finding>> {
    let dependencies = edges::read(&workspace.metadata()?);
    let files = workspace.files()?;
    let private_folders = places::private_folders(&workspace.root);
    Ok([
        edges::forbidden(&dependencies),
        edges::unlisted(&dependencies),
        edges::executor_named(&files),
        unsafety::not_forbidden(&files),
        unsafety::not_listed(&files),
        files::too_long(&files),
        files::named_mod(&files),
        files::left_over(&files),
        places::foreign(&files, &private_folders),
        links::broken(&files, &|path| workspace.root.join(path).exists()),
    ]
    .into_iter()
    .flatten()
    .collect())
}
