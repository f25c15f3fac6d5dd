//! Other implementations of attention, served by a Python process that lives as long as the run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use flashcore::Dtype;
use serde::{Deserialize, Serialize};

use crate::PeerOptions;
use crate::feature::Feature;
use crate::timing::{Protocol, Timing};

/// The script travels in the executable, so that one file is enough on a GPU node.
const SCRIPT: &str = include_str!("../peers.py");

/// The practical ceiling: a matrix product.
pub(crate) const MATMUL: &str = "matmul";

/// PyTorch's attention for everything; it compiles a kernel for every problem.
const FLEX: &str = "flex";

/// What the process can do.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Hello {
    /// Implementations that can be asked for.
    pub(crate) impls: Vec<String>,
    /// Versions of the libraries behind them.
    pub(crate) versions: BTreeMap<String, String>,
    /// Why others are absent.
    pub(crate) missing: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "impl")]
    name: &'a str,
    dtype: &'a str,
    #[serde(flatten)]
    problem: &'a Feature,
    #[serde(flatten)]
    protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Timing(Timing),
    Error { error: String },
}

/// The text of the script.
///
/// # Errors
/// The one that was asked for cannot be read.
pub(crate) fn script(options: &PeerOptions) -> Result<String> {
    match &options.peers {
        Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())),
        None => Ok(SCRIPT.to_owned()),
    }
}

/// The line by which the script is asked to time `name` on `problem`.
///
/// # Errors
/// The problem cannot be written down.
pub(crate) fn question(name: &str, problem: &Feature, dtype: Dtype, protocol: Protocol) -> Result<String> {
    Ok(serde_json::to_string(&Request { name, dtype: dtype.name(), problem, protocol })?)
}

/// The process.
pub(crate) struct Peers {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    hello: Hello,
}

impl Peers {
    /// Starts the process.
    ///
    /// # Errors
    /// There is no such Python, or it lacks what the script imports.
    pub(crate) fn start(options: &PeerOptions) -> Result<Self> {
        let mut child = Command::new(&options.python)
            .args(["-c", &script(options)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", options.python.display()))?;
        let requests = child.stdin.take().context("no pipe to the peers")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe from the peers")?);
        let hello = Hello { impls: Vec::new(), versions: BTreeMap::new(), missing: BTreeMap::new() };
        let mut peers = Peers { child, requests, answers, hello };
        peers.hello = peers.ask(&serde_json::json!({ "hello": true })).with_context(|| {
            format!("{} cannot serve the peers (see above; does it have PyTorch?)", options.python.display())
        })?;
        for name in &options.without {
            let impls = &mut peers.hello.impls;
            let at = impls.iter().position(|known| known == name);
            impls.remove(at.with_context(|| format!("--without {name}: there are {}", impls.join(", ")))?);
        }
        Ok(peers)
    }

    /// Starts the process for dense problems, which nobody would compile kernels for.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn for_dense(options: &PeerOptions) -> Result<Self> {
        let mut peers = Self::start(options)?;
        peers.hello.impls.retain(|name| name != FLEX);
        Ok(peers)
    }

    /// What the process can do.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Times `name` on `problem`; the inner error is why it cannot run it, or what it computes instead.
    pub(crate) fn measure(
        &mut self,
        name: &str,
        problem: &Feature,
        dtype: Dtype,
        protocol: Protocol,
    ) -> Result<Result<Timing, String>> {
        let request = Request { name, dtype: dtype.name(), problem, protocol };
        Ok(match self.ask(&request)? {
            Answer::Timing(timing) => Ok(timing),
            Answer::Error { error } => Err(error),
        })
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, request: &impl Serialize) -> Result<T> {
        // A process that is gone breaks the pipe here or ends the answers below.
        let sent = writeln!(self.requests, "{}", serde_json::to_string(request)?);
        let mut line = String::new();
        if sent.is_err() || self.answers.read_line(&mut line)? == 0 {
            bail!("the peers' process ended");
        }
        serde_json::from_str(&line).with_context(|| format!("the peers answered {line:?}"))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It may be anywhere in a measurement; nothing it does matters any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use flashcore_tests::cases::Case;

    use super::*;
    use crate::feature::Lengths;

    /// Answers as the real script does, without a GPU: as many microseconds as there are queries, but not for `absent`.
    const STUB: &str = r#"
import json, sys
for line in sys.stdin:
    r = json.loads(line)
    if "hello" in r:
        answer = {"impls": ["stub", "flex"], "versions": {"stub": "1"}, "missing": {"absent": "not here"}}
    elif r["impl"] == "absent":
        answer = {"error": "not here"}
    else:
        wanted = ["impl", "dtype", "name", "heads_q", "heads_kv", "head_dim", "head_dim_v", "lengths", "mask", "score",
                  "launches", "settle_ms", "min_replays", "min_ms"]
        assert list(r) == wanted, list(r)
        assert r["mask"] == {"left": None, "right": 0, "prefix": 0, "checkerboard": False}
        assert r["score"] == {"kind": "plain"}
        lengths = r["lengths"]
        answer = {"us": float(lengths["dense"]["seqlen_q"] if "dense" in lengths else lengths["varlen"][0][0])}
    print(json.dumps(answer), flush=True)
"#;

    fn start(name: &str, script: &str, without: &[&str]) -> Result<Peers> {
        let path: PathBuf =
            std::env::temp_dir().join(format!("flashcore-lab-{}-{name}.py", std::process::id()));
        fs::write(&path, script)?;
        let options = PeerOptions {
            no_peers: false,
            without: without.iter().map(|&name| name.to_owned()).collect(),
            python: "python3".into(),
            peers: Some(path.clone()),
        };
        let peers = Peers::start(&options);
        fs::remove_file(path)?;
        peers
    }

    #[test]
    fn questions_are_answered_or_refused() {
        let mut peers = start("stub", STUB, &[]).unwrap();
        assert_eq!(peers.hello().impls, ["stub", "flex"]);
        assert_eq!(peers.hello().missing["absent"], "not here");
        let dense = Feature::from(&Case { seqlen_q: 77, causal: true, ..Case::default() });
        let timing = peers.measure("stub", &dense, Dtype::Bf16, Protocol::STANDARD).unwrap();
        assert_eq!(timing, Ok(Timing { us: 77.0 }));
        let varlen = Feature { lengths: Lengths::Varlen(vec![(5, 6), (7, 8)]), ..dense.clone() };
        let timing = peers.measure("stub", &varlen, Dtype::F16, Protocol::STANDARD).unwrap();
        assert_eq!(timing, Ok(Timing { us: 5.0 }));
        let refused = peers.measure("absent", &dense, Dtype::F16, Protocol::STANDARD).unwrap();
        assert_eq!(refused, Err("not here".into()));
    }

    #[test]
    fn peers_are_left_out_by_name() {
        assert_eq!(start("without", STUB, &["stub"]).unwrap().hello().impls, ["flex"]);
        let error = start("typo", STUB, &["stubs"]).err().expect("no such peer").to_string();
        assert_eq!(error, "--without stubs: there are stub, flex");
    }

    #[test]
    fn a_python_without_the_libraries_is_an_error() {
        assert!(start("broken", "import no_such_library", &[]).is_err());
    }
}
