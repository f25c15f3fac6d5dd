//! Other programs, with a log and an end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Time between two looks at a program.
const EVERY: Duration = Duration::from_millis(20);

/// Programs that run now, by their numbers.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every program that runs now, with its children: this one is about to end itself.
pub(crate) fn end_all() {
    running().drain(..).for_each(|id| _ = end(id));
}

/// Ends a program and its children; whether that could be asked.
fn end(id: u32) -> bool {
    let group = format!("-{id}");
    Command::new("kill").args(["-KILL", "--", &group]).status().is_ok_and(|status| status.success())
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None if it took too long, and was killed.
    pub(crate) status: Option<ExitStatus>,
    /// What it printed, errors included.
    pub(crate) text: String,
}

impl Ended {
    /// Whether it ended by itself, and well.
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The last lines that it printed.
    pub(crate) fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// How it ended, in words.
    pub(crate) fn how(&self) -> String {
        self.status.map_or_else(|| "it took too long".to_owned(), |status| status.to_string())
    }
}

/// Runs `command`, for `limit` at most, with its output in the file `log`.
///
/// # Errors
/// It cannot be run, or the log not be written.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = file.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
    // A group of its own, so that its children end with it.
    let mut child = command
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    let (id, start) = (child.id(), Instant::now());
    running().push(id);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            if !end(id) {
                child.kill()?;
            }
            child.wait()?;
            break None;
        }
        std::thread::sleep(EVERY);
    };
    running().retain(|running| *running != id);
    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(Ended { status, text: String::from_utf8_lossy(&bytes).into_owned() })
}

/// `program` in `PATH`, in a CUDA toolkit, or in a folder of Nsight Compute.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for (parent, bin) in [("/usr/local", "bin"), ("/opt/nvidia/nsight-compute", "")] {
        let mut found: Vec<PathBuf> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join(bin))
            .collect();
        found.sort();
        folders.extend(found.into_iter().rev()); // the newest first
    }
    folders.into_iter().map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Ended {
        let name = format!("flashcore-lab-{}-{}.log", std::process::id(), script.len());
        let log = std::env::temp_dir().join(name);
        let ended = run(Command::new("sh").args(["-c", script]), &log, limit).unwrap();
        fs::remove_file(log).unwrap();
        ended
    }

    #[test]
    fn output_and_end_are_kept() {
        let ended = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60));
        assert_eq!((ended.text.as_str(), ended.is_success()), ("out\nerr\n", false));
        assert!(ended.how().contains('3'), "{}", ended.how());
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let start = Instant::now();
        let ended = shell("echo begun; sleep 600 & sleep 600", Duration::from_millis(200));
        assert_eq!((ended.status, ended.text.as_str()), (None, "begun\n"));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
