//! What `ws4redis check` has found.

/// Lines of the report, and how many of them are problems.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) lines: Vec<String>,
    pub(super) problems: usize,
}

impl Findings {
    /// Adds a line.
    pub(super) fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Adds a line about something that does not work.
    pub(super) fn problem(&mut self, line: String) {
        self.lines.push(line);
        self.problems += 1;
    }

    /// Adds the lines of others.
    pub(super) fn append(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.problems += other.problems;
    }
}
