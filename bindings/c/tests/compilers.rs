//! The header is what cbindgen makes of the crate, and C and C++ compilers take it; programs in C run.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::{env, fs};

use flashcore_tests::suite::{Resource, Suite};

/// Set, the header is written instead of compared.
const UPDATE: &str = "FLASHCORE_UPDATE_HEADER";
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn folder() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn header_is_fresh(folder: &Path) -> TestResult {
    let header = folder.join("include/flashcore.h");
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml"))?;
    let bindings = cbindgen::Builder::new().with_crate(folder).with_config(config).generate()?;
    if env::var_os(UPDATE).is_some() {
        bindings.write_to_file(&header);
        return Ok(());
    }
    let mut fresh = Vec::new();
    bindings.write(&mut fresh);
    if fs::read(&header).ok() == Some(fresh) {
        return Ok(());
    }
    let cure = format!("run `{UPDATE}=1 cargo test -p flashcore-c --test compilers header` and commit it");
    Err(format!("{} is stale: {cure}", header.display()).into())
}

/// A compiler, and the tree that has something to compile.
#[derive(Clone)]
struct Compiler {
    command: String,
    standard: &'static str,
    folder: PathBuf,
}

impl Compiler {
    /// The one that `variable` names, or else `default` if it is there.
    fn find(variable: &str, default: &str, standard: &'static str) -> Result<Self, String> {
        let named = env::var(variable).ok();
        let command = named.clone().unwrap_or(default.to_owned());
        let found = Command::new(&command).arg("--version").output().is_ok_and(|o| o.status.success());
        match (found, tree()) {
            (_, Err(reason)) => Err(reason),
            (false, _) if named.is_none() => Err(format!("skipped: no compiler ({default}, or ${variable})")),
            (_, Ok(folder)) => Ok(Compiler { command, standard, folder }),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.command);
        command.arg(self.standard).args(WARNINGS).arg("-I").arg(self.folder.join("include"));
        command
    }

    /// What the program in `source` says when it is linked with the library and run.
    fn run(&self, source: &str) -> Result<String, Box<dyn std::error::Error>> {
        let library = library()?;
        let program = env::temp_dir().join(format!(
            "flashcore-c-{}-{}",
            std::process::id(),
            source.replace(['/', '.'], "-")
        ));
        let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
        rpath.push(&library);
        let mut compile = self.command();
        compile.arg("-O1").arg(self.folder.join(source)).arg("-o").arg(&program);
        compile.arg("-L").arg(&library).arg("-lflashcore_c").arg(rpath).arg("-lm");
        succeeded(&mut compile)?;
        let output = succeeded(&mut Command::new(&program));
        fs::remove_file(&program)?;
        Ok(String::from_utf8(output?.stdout)?)
    }
}

fn tree() -> Result<PathBuf, String> {
    let folder = folder();
    if folder.join("Cargo.toml").exists() {
        Ok(folder)
    } else {
        Err("skipped: not in a source tree".to_owned())
    }
}

/// The folder of the shared library, which cargo builds together with the one that tests link.
fn library() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let name = format!("{}flashcore_c{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let program = env::current_exe()?;
    let folder = program.parent().ok_or("a program lies in a folder")?;
    if folder.join(&name).is_file() { Ok(folder.into()) } else { Err(format!("{name} is not there").into()) }
}

fn succeeded(command: &mut Command) -> Result<Output, Box<dyn std::error::Error>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).join("\n");
    Err(format!("{command:?} failed ({}):\n{text}", output.status).into())
}

fn header_is_clean(compiler: &Compiler, language: &str) -> TestResult {
    let header = compiler.folder.join("include/flashcore.h");
    succeeded(compiler.command().args(["-fsyntax-only", "-x", language]).arg(header))?;
    Ok(())
}

fn example_runs(compiler: &Compiler) -> TestResult {
    let output = compiler.run("examples/attention.c")?;
    let lines: Vec<&str> = output.lines().collect();
    let [device, full, causal] = lines[..] else { return Err(output.into()) };
    assert!(device.starts_with("device: "), "{output}");
    assert!(full.starts_with("full: ") && full.ends_with(", right"), "{output}");
    assert!(causal.starts_with("causal: ") && causal.ends_with(", right"), "{output}");
    Ok(())
}

fn errors_are_as_documented(compiler: &Compiler) -> TestResult {
    let output = compiler.run("tests/errors.c")?;
    assert!(output.ends_with("all as expected\n"), "{output}");
    Ok(())
}

fn main() -> ExitCode {
    let mut header = Suite::on(vec![Resource::new("header", tree())]);
    header.test("header_is_fresh", |folder: &PathBuf| header_is_fresh(folder).map_err(|e| e.to_string()));
    let mut c = Suite::on(vec![Resource::new("c", Compiler::find("CC", "cc", "-std=c11"))]);
    c.test("header_is_clean", |compiler: &Compiler| header_is_clean(compiler, "c"));
    c.test("example_runs", example_runs);
    c.test("errors_are_as_documented", errors_are_as_documented);
    let mut cpp = Suite::on(vec![Resource::new("cpp", Compiler::find("CXX", "c++", "-std=c++17"))]);
    cpp.test("header_is_clean", |compiler: &Compiler| header_is_clean(compiler, "c++"));
    header.and(c).and(cpp).run()
}
