//! Gates and reports of recorded runs, by the program as people call it; and the page in a browser, where there is one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use flashcore_tests::suite::{Resource, Suite};
use serde_json::Value;

type Tested = Result<(), String>;

/// The last run whose figures are in the repository.
const RECORDED: &str = "docs/results/2026-11-21-h200";
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Tested {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A copy of the recorded run that is removed at the end.
struct Copy(PathBuf);

impl Copy {
    fn new(root: &Path) -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let copy = Copy(env::temp_dir().join(format!("flashcore-recorded-{}-{count}", std::process::id())));
        for file in ["f16/metrics.json", "bf16/metrics.json", "power.json"] {
            let to = copy.0.join(file);
            fs::create_dir_all(to.parent().expect("a folder")).map_err(text)?;
            fs::copy(root.join(RECORDED).join(file), to).map_err(text)?;
        }
        Ok(copy)
    }

    fn read(&self, file: &str) -> Result<String, String> {
        fs::read_to_string(self.0.join(file)).map_err(|error| format!("{file}: {error}"))
    }

    /// Changes a file of JSON.
    fn change(&self, file: &str, change: impl FnOnce(&mut Value)) -> Tested {
        let mut value = serde_json::from_str(&self.read(file)?).map_err(text)?;
        change(&mut value);
        fs::write(self.0.join(file), value.to_string()).map_err(text)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left in the folder of temporary files harms no one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn lab(arguments: &[&Path]) -> Result<Output, String> {
    Command::new(env!("CARGO_BIN_EXE_flashcore-lab")).args(arguments).output().map_err(text)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Judges a copy beside the recorded run.
fn judge(root: &Path, copy: &Copy) -> Result<Output, String> {
    let recorded = root.join(RECORDED);
    lab(&["gate".as_ref(), "--from".as_ref(), &copy.0, "--baseline".as_ref(), &recorded])
}

/// Makes our times in a bench so many times as long.
fn slow_down(bench: &mut Value, factor: f64) {
    let measured =
        bench["cells"].as_array_mut().into_iter().flatten().map(|cell| &mut cell["measured"][0]["us"]);
    for us in measured.flat_map(|us| us.as_array_mut().into_iter().flatten()) {
        *us = (us.as_f64().expect("a time") * factor).into();
    }
}

fn the_recorded_run_passes_and_leaves_its_reports(root: &Path) -> Tested {
    let copy = Copy::new(root)?;
    let output = judge(root, &copy)?;
    let said = said(&output);
    check(output.status.success() && said.contains("PASSED"), || said.clone())?;
    for (file, wanted) in [
        ("performance_report.md", "7.1a"),
        ("power_efficiency.md", "7.4a"),
        ("comparison.csv", "same"),
        ("report.html", "Roofline"),
        ("metrics.json", "\"schema\": 1"),
    ] {
        let content = copy.read(file)?;
        check(content.contains(wanted), || format!("{file} has no {wanted:?}"))?;
    }
    // What was written is a run itself, and comes to the same.
    let again = judge(root, &copy)?;
    check(again.status.success(), || self::said(&again))
}

fn a_slow_run_fails(root: &Path) -> Tested {
    let copy = Copy::new(root)?;
    copy.change("f16/metrics.json", |bench| slow_down(bench, 1.5))?;
    let output = judge(root, &copy)?;
    let said = said(&output);
    check(!output.status.success() && said.contains("FAILED"), || said.clone())?;
    check(copy.read("comparison.csv")?.contains("SLOWER"), || "nothing is slower".to_owned())?;
    let recorded = root.join(RECORDED);
    let compared = lab(&["compare".as_ref(), &recorded, &copy.0])?;
    check(!compared.status.success(), || self::said(&compared))?;
    let same = lab(&["compare".as_ref(), &recorded, &recorded])?;
    check(same.status.success(), || self::said(&same))
}

fn an_interrupted_run_is_read_and_does_not_pass(root: &Path) -> Tested {
    let copy = Copy::new(root)?;
    judge(root, &copy)?;
    copy.change("metrics.json", |run| {
        run["stages"][4] = serde_json::json!({"stage": "power", "state": "running", "seconds": 1.0})
    })?;
    let output = judge(root, &copy)?;
    let said = said(&output);
    check(
        !output.status.success() && said.contains("INTERRUPTED") && said.contains("not done: power"),
        || said.clone(),
    )?;
    check(copy.read("report.html")?.contains("INTERRUPTED"), || "the page does not say so".to_owned())
}

fn another_form_is_refused(root: &Path) -> Tested {
    let copy = Copy::new(root)?;
    fs::write(copy.0.join("metrics.json"), "{\"schema\": 999}").map_err(text)?;
    let output = judge(root, &copy)?;
    check(!output.status.success() && said(&output).contains("is of form 999"), || said(&output))
}

/// Shows a page in a browser without a window; what it logged, and its screenshot.
fn show(browser: &Path, page: &Path, screenshot: &Path) -> Result<(String, Vec<u8>), String> {
    let profile = page.with_extension("profile");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .args(["--window-size=1700,4200", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", screenshot.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .map_err(text)?;
    check(output.status.success(), || said(&output))?;
    let _ = fs::remove_dir_all(profile); // what the browser keeps for the next time
    Ok((said(&output), fs::read(screenshot).map_err(text)?))
}

/// What the page or a script on it complained of.
fn complaints(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("CONSOLE")).collect()
}

fn the_page_renders_without_a_complaint(root: &Path, browser: &Path) -> Tested {
    let copy = Copy::new(root)?;
    judge(root, &copy)?;
    let folder = root.join("target/flashcore/page");
    fs::create_dir_all(&folder).map_err(text)?;
    let (log, png) = show(browser, &copy.0.join("report.html"), &folder.join("report.png"))?;
    check(complaints(&log).is_empty(), || format!("{:?}", complaints(&log)))?;
    // An empty page of that size is a tenth of it.
    check(png.starts_with(b"\x89PNG") && png.len() > 100_000, || {
        format!("a screenshot of {} bytes", png.len())
    })?;

    let broken = copy.0.join("broken.html");
    fs::write(&broken, "<!DOCTYPE html><script>nothing.there()</script>").map_err(text)?;
    let (log, png) = show(browser, &broken, &copy.0.join("broken.png"))?;
    check(!complaints(&log).is_empty() && png.len() < 50_000, || {
        format!("a broken page was not noticed: {log}")
    })
}

fn browser() -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).flat_map(|folder| BROWSERS.map(|name| folder.join(name)));
    places.into_iter().find(|candidate| candidate.is_file()).ok_or_else(|| {
        format!("skipped: no browser ({}); Debian's package chromium has one", BROWSERS.join(", "))
    })
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf();
    let tree = || match root.join(RECORDED).is_dir() {
        true => Ok(root.clone()),
        false => Err("skipped: not in a source tree".to_owned()),
    };
    let mut suite = Suite::on(vec![Resource::new("tree", tree())]);
    type Test = fn(&Path) -> Tested;
    let tests: [(&str, Test); 4] = [
        ("the_recorded_run_passes_and_leaves_its_reports", the_recorded_run_passes_and_leaves_its_reports),
        ("a_slow_run_fails", a_slow_run_fails),
        ("an_interrupted_run_is_read_and_does_not_pass", an_interrupted_run_is_read_and_does_not_pass),
        ("another_form_is_refused", another_form_is_refused),
    ];
    for (name, test) in tests {
        suite.test(name, move |root: &PathBuf| test(root));
    }
    let both = tree().and_then(|root| Ok((root, browser()?)));
    let mut page = Suite::on(vec![Resource::new("browser", both)]);
    page.test("the_page_renders_without_a_complaint", |(root, browser): &(PathBuf, PathBuf)| {
        the_page_renders_without_a_complaint(root, browser)
    });
    suite.and(page).run()
}
